//! Files over a base, as a user makes and reads them.

use crate::support::{Ran, Workplace, impasto, tiny};

/// Deltas that share the weights of their base, measured beside it.
#[test]
fn deltas_are_measured_beside_their_base() {
    let at = Workplace::new();
    with_base(&at, "mit");
    fine_tune(&at, "mit");
    std::fs::create_dir(at.path("deltas")).expect("a folder");
    at.run(&["encode", "tuned", "--base", "base.impasto", "-o", "deltas/exact.impasto"]).ok();
    at.run(&[
        "encode",
        "tuned",
        "--base",
        "base.impasto",
        "-o",
        "deltas/lossy.impasto",
        "--bpw",
        "0.12",
        "--uncalibrated",
    ])
    .ok();
    let bench = ["bench", "run", "base.impasto", "--delta", "deltas/exact.impasto", "--delta", "deltas/lossy.impasto"];
    let few = ["-p", "0", "-n", "2", "-r", "1"];
    let rows = at.run(&[&bench[..], &few, &["--json"]].concat()).json();
    let bytes = |row: usize| rows[row]["weight_bytes"].as_u64().expect("bytes");
    assert!(bytes(1) * 10 < bytes(0) && bytes(2) * 4 < bytes(0), "{rows}");
    assert_eq!((&rows[0]["over"], &rows[2]["over"]), (&serde_json::Value::Null, &"base.impasto".into()));
    let table = at.run(&[&bench[..], &few].concat()).ok().out;
    assert!(table.contains("| deltas/exact.impasto over base.impasto |"), "{table}");
    let two = at.run(&["bench", "run", "base.impasto", "tuned", "--delta", "deltas/exact.impasto"]);
    assert!(two.code == Some(2) && two.err.contains("--delta needs one model"), "{two:?}");
    at.run(&["encode", "tuned", "-o", "other.impasto"]).ok();
    let other = at.run(&["bench", "run", "other.impasto", "--delta", "deltas/exact.impasto", "--base", "base.impasto"]);
    other.fails(3, "not the base of this delta");
    assert!(other.err.contains("deltas/exact.impasto"), "{other:?}");
}

/// Copies the tiny model to a folder of this name, with a model card.
fn copy_of_tiny(at: &Workplace, name: &str, license: &str) {
    let folder = at.path(name);
    std::fs::create_dir(&folder).expect("a folder");
    for entry in std::fs::read_dir(tiny()).expect("the tiny model") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
    }
    std::fs::write(folder.join("README.md"), format!("---\nlicense: {license}\n---\n")).expect("written");
}

/// Makes the folder `tuned`: the tiny model with the lowest bits of some weights changed.
fn fine_tune(at: &Workplace, license: &str) {
    copy_of_tiny(at, "tuned", license);
    let weights = at.path("tuned/model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("the weights");
    let start = bytes.len() - 40_000;
    bytes[start..].iter_mut().step_by(2).for_each(|byte| *byte ^= 1);
    std::fs::write(weights, bytes).expect("written");
}

/// Makes the folder `model`, and its file.
fn with_base(at: &Workplace, license: &str) {
    copy_of_tiny(at, "model", license);
    at.run(&["encode", "model", "-o", "base.impasto"]).ok();
}

#[test]
fn a_fine_tune_is_a_small_file() {
    let at = Workplace::new();
    with_base(&at, "apache-2.0");
    fine_tune(&at, "mit");
    let encoded =
        at.run(&["encode", "tuned", "--base", "base.impasto", "-o", "d.impasto", "--mirror", "https://a.example/b"]);
    let encoded = encoded.ok();
    assert!(encoded.out.contains("same as in the base") && encoded.err.is_empty(), "{} {}", encoded.out, encoded.err);
    let size = |name: &str| std::fs::metadata(at.path(name)).expect("it").len();
    assert!(size("d.impasto") * 50 < size("base.impasto"), "{} {}", size("d.impasto"), size("base.impasto"));
    let shown = at.run(&["inspect", "d.impasto", "--tensors"]).ok().out;
    for text in ["a delta of base, licence apache-2.0", "found at", "https://a.example/b", "exact, over the base"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let inspected = at.run(&["inspect", "d.impasto", "--json"]).json();
    let root = at.run(&["inspect", "base.impasto", "--json"]).json()["root"].clone();
    assert_eq!((&inspected["base"]["root"], &inspected["base"]["license"]), (&root, &"apache-2.0".into()));
    at.run(&["verify", "d.impasto"]).ok();
    at.run(&["decode", "d.impasto", "-o", "out"]).ok();
    for name in ["model.safetensors", "config.json", "README.md"] {
        let read = |folder: &str| std::fs::read(at.path(folder).join(name)).expect("a file");
        assert!(read("out") == read("tuned"), "{name}");
    }
    let text = |file: &str| at.run(&["run", file, "-p", "Once", "--raw", "-n", "8", "-q"]).ok().out;
    at.run(&["encode", "tuned", "-o", "alone.impasto"]).ok();
    assert_eq!(text("d.impasto"), text("alone.impasto"));

    // Without its base it is shown, but not read; where the base is can be said in two ways.
    std::fs::create_dir(at.path("elsewhere")).expect("a folder");
    std::fs::rename(at.path("base.impasto"), at.path("elsewhere/b.impasto")).expect("moved");
    std::fs::rename(at.path("alone.impasto"), at.path("elsewhere/a.impasto")).expect("moved");
    let missing = at.run(&["verify", "d.impasto"]);
    missing.fails(5, "it may be found at \"https://a.example/b\"");
    assert!(missing.err.contains(root.as_str().expect("a root")) && missing.err.contains("SPEC 21.1"), "{missing:?}");
    assert!(at.run(&["inspect", "d.impasto"]).ok().out.contains("not found"));
    at.run(&["verify", "d.impasto", "--base", "elsewhere/b.impasto"]).ok();
    at.run(&["verify", "d.impasto", "--base", "elsewhere"]).ok();
    let verify_where = |variable: &str, value: &str| {
        let mut command = impasto(&["verify", "d.impasto"]);
        command.current_dir(at.path("")).env(variable, at.path(value));
        Ran::of(command.output().expect("starts"))
    };
    verify_where("IMPASTO_BASES", "elsewhere").ok();
    verify_where("XDG_CACHE_HOME", "cache").fails(5, "needs that file");
    std::fs::create_dir_all(at.path("cache/impasto/bases")).expect("folders");
    let by_root = format!("cache/impasto/bases/{}.impasto", root.as_str().expect("a root"));
    std::fs::copy(at.path("elsewhere/b.impasto"), at.path(&by_root)).expect("copied");
    verify_where("XDG_CACHE_HOME", "cache").ok();
    let wrong = at.run(&["verify", "d.impasto", "--base", "elsewhere/a.impasto"]);
    wrong.fails(3, "is not its base: it has the root");
    assert!(wrong.err.contains("differs in") && wrong.err.contains(root.as_str().expect("a root")), "{wrong:?}");
}

#[test]
fn flat_again_and_over_another_base() {
    let at = Workplace::new();
    with_base(&at, "mit");
    fine_tune(&at, "mit");
    let root = |name: &str| at.run(&["inspect", name, "--json"]).json()["root"].clone();
    at.run(&["encode", "tuned", "-o", "alone.impasto"]).ok();
    at.run(&["encode", "tuned", "--base", "base.impasto", "-o", "d.impasto"]).ok();
    at.run(&["flatten", "d.impasto", "-o", "flat.impasto"]).ok();
    assert_eq!(root("flat.impasto"), root("alone.impasto"));
    at.run(&["rebase", "alone.impasto", "--onto", "base.impasto", "-o", "again.impasto"]).ok();
    assert_eq!(root("again.impasto"), root("d.impasto"));
    at.run(&["rebase", "base.impasto", "--onto", "d.impasto", "-o", "back.impasto"]).ok();
    at.run(&["decode", "back.impasto", "-o", "out"]).ok();
    let read = |folder: &str| std::fs::read(at.path(folder).join("model.safetensors")).expect("a file");
    assert!(read("out") == read("model"));
    at.run(&["flatten", "alone.impasto", "-o", "x.impasto"]).fails(2, "flat already");
    assert!(!at.path("x.impasto").exists());
}

#[test]
fn licences_are_compared() {
    let at = Workplace::new();
    with_base(&at, "llama3");
    fine_tune(&at, "apache-2.0");
    let encode =
        |how: &[&str]| at.run(&[&["encode", "tuned", "--base", "base.impasto", "-o", "d.impasto"], how].concat());
    let warned = encode(&[]).ok();
    assert!(warned.err.starts_with("warning: ") && warned.err.contains("section 1.b.i"), "{}", warned.err);
    assert!(encode(&["--license-check", "off"]).ok().err.is_empty());
    std::fs::remove_file(at.path("d.impasto")).expect("removed");
    encode(&["--license-check", "strict"]).fails(3, "section 1.b.i");
    assert!(!at.path("d.impasto").exists());
    std::fs::write(at.path("tuned/README.md"), "no front matter").expect("written");
    assert!(encode(&[]).ok().err.is_empty());
    encode(&["--license-check", "strict"]).fails(3, "cannot be compared");
}

#[test]
fn bases_that_cannot_be() {
    let at = Workplace::new();
    with_base(&at, "mit");
    fine_tune(&at, "mit");
    let encode =
        |base: &str, way: &[&str]| at.run(&[&["encode", "tuned", "--base", base, "-o", "d.impasto"], way].concat());
    encode("model/model.safetensors", &[]).fails(3, "not an Impasto file");
    encode("missing.impasto", &[]).fails(1, "missing.impasto");
    let whole = std::fs::read(at.path("base.impasto")).expect("the base");
    std::fs::write(at.path("cut.impasto"), &whole[..whole.len() / 2]).expect("written");
    encode("cut.impasto", &[]).fails(5, "is absent");
    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(at.path("damaged.impasto"), damaged).expect("written");
    encode("damaged.impasto", &[]).fails(4, "is damaged");
    encode("base.impasto", &["--format", "fp8", "--uncalibrated"]).fails(2, "a file over a base cannot have formats");
    encode("base.impasto", &["--bpw", "1", "--sequential"]).fails(2, "--sequential");
    // Before anything that takes time is begun, or statistics are opened.
    let late =
        ["--bpw", "1", "--sequential", "--calibration", "tuned/config.json", "--statistics", "missing.safetensors"];
    encode("base.impasto", &late).fails(2, "a file over a base cannot have --sequential");
    assert!(!at.path("d.impasto").exists());
    let over = at.run(&["encode", "tuned", "--base", "base.impasto", "-o", "base.impasto"]);
    over.fails(3, "would overwrite");
    at.run(&["verify", "base.impasto"]).ok();
    let mirror = at.run(&["encode", "tuned", "-o", "d.impasto", "--mirror", "x"]);
    assert_eq!(mirror.code, Some(2), "{mirror:?}");
}
