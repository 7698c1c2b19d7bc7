//! Layered files on the command line: what `inspect` shows, what `truncate` keeps, and the same options of other
//! commands.

use std::fs;
use std::sync::LazyLock;

use crate::support::{Ran, Workplace, tiny};

/// The tiny model in three layers.
pub static LAYERED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto", "--layers", "2.5,4,lossless", "--uncalibrated"]).ok();
    fs::read(at.path("a.impasto")).expect("reads")
});

/// A folder with the file `a.impasto`.
fn place() -> Workplace {
    let at = Workplace::new();
    fs::write(at.path("a.impasto"), &*LAYERED).expect("writes");
    at
}

fn length(at: &Workplace, name: &str) -> u64 {
    fs::metadata(at.path(name)).expect("a file").len()
}

fn story(at: &Workplace, file: &str, cut: &[&str]) -> String {
    at.run(&[&["run", file, "-p", "Once upon a time", "-n", "10", "--raw", "-q"], cut].concat()).ok().out
}

#[test]
fn inspect_shows_the_layers() {
    let at = place();
    let shown = at.run(&["inspect", "a.impasto", "--json"]).json();
    let layers = shown["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 3);
    let bits: Vec<f64> = layers.iter().map(|layer| layer["bits_per_weight"].as_f64().expect("a number")).collect();
    assert!(bits[0] <= 2.5 && bits[0] > 2.4 && bits[1] <= 4.0 && bits[1] > 3.9 && bits[2] > 8.0, "{bits:?}");
    assert_eq!(layers[2]["bytes"].as_u64(), Some(LAYERED.len() as u64));
    assert!(layers.iter().all(|layer| layer["whole"] == true));
    assert_eq!(shown["levels"].as_array().map(Vec::len), Some(3));
    let query = |value: &serde_json::Value| value["name"] == "model.layers.0.self_attn.q_proj.weight";
    let query = shown["objects"].as_array().and_then(|all| all.iter().find(|object| query(object))).expect("there");
    let levels: Vec<u64> = query["levels"].as_array().expect("levels").iter().filter_map(|n| n.as_u64()).collect();
    assert!(levels.len() == 3 && Some(levels.iter().sum()) == query["bytes"].as_u64(), "{query}");
    assert_eq!(query["mode"], "lattice+refinement+exact");

    let text = at.run(&["inspect", "a.impasto", "--tensors"]).ok().out;
    let lines: Vec<&str> = text.lines().collect();
    let row = lines.iter().position(|line| line.starts_with("layer  units")).expect("a table of layers");
    for (n, (line, bits)) in lines[row + 1..].iter().zip(bits).enumerate() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[0], (n + 1).to_string());
        assert!(line.contains(&format!("{bits:.3}")), "{line}");
    }
    let line = lines.iter().find(|line| line.starts_with("model.layers.0.self_attn.q_proj.weight")).expect("a row");
    assert_eq!(line.matches(" + ").count(), 2, "{line}");

    // A cut file is reported as such.
    fs::write(at.path("cut"), &LAYERED[..LAYERED.len() / 2]).expect("writes");
    let text = at.run(&["inspect", "cut"]).ok().out;
    assert!(text.contains("cut: some units are absent") && text.matches("incomplete").count() == 1, "{text}");
    // A file without layers has no table of layers.
    at.run(&["encode", &tiny(), "-o", "single"]).ok();
    let single = at.run(&["inspect", "single", "--json"]).json();
    assert_eq!(single["layers"].as_array().map(Vec::len), Some(0));
    assert!(!at.run(&["inspect", "single"]).ok().out.contains("layer  units"));
}

#[test]
fn truncate_gives_what_the_options_of_other_commands_read() {
    let at = place();
    let layers = at.run(&["inspect", "a.impasto", "--json"]).json()["layers"].clone();
    let budget = layers[1]["bytes"].to_string();
    at.write("text", &"Once upon a time there was a small cat. She liked to sit in the sun.\n".repeat(20));
    let text = ["--text", "text", "--ctx", "32", "--windows", "2", "--json"];
    let cuts: [&[&str]; 5] = [
        &["--layer", "1"],
        &["--budget", &budget],
        &["--bpw", "3.2"],
        &["--layer", "attn=2,mlp=1"],
        &["--layer", "1,mlp=3"],
    ];
    for cut in cuts {
        let truncated = at.run(&[&["truncate", "a.impasto", "-o", "b.impasto", "--json"], cut].concat()).json();
        assert_eq!(truncated["bytes"].as_u64(), Some(length(&at, "b.impasto")), "{cut:?}");
        let verified = at.run(&["verify", "b.impasto", "--json"]).json();
        assert_eq!((verified["good"].as_bool(), &verified["root"]), (Some(true), &truncated["root"]));
        assert_eq!(story(&at, "a.impasto", cut), story(&at, "b.impasto", &[]), "{cut:?}");
        let ppl = |file, cut| at.run(&[&["eval", "ppl", file], &text[..], cut].concat()).json()["perplexity"].clone();
        assert_eq!(ppl("a.impasto", cut), ppl("b.impasto", &[]), "{cut:?}");
        at.run(&[&["decode", "a.impasto", "-o", "one"], cut].concat()).ok();
        at.run(&["decode", "b.impasto", "-o", "two"]).ok();
        let weights = |folder: &str| fs::read(at.path(folder).join("model.safetensors")).expect("reads");
        assert!(weights("one") == weights("two"), "{cut:?}");
        for folder in ["one", "two"] {
            fs::remove_dir_all(at.path(folder)).expect("removes");
        }
    }
    assert_eq!(
        at.run(&["truncate", "a.impasto", "-o", "b", "--layer", "2", "--json"]).json()["bytes"],
        layers[1]["bytes"]
    );
    at.run(&["truncate", "a.impasto", "-o", "c", "--budget", &budget]).ok();
    assert!(fs::read(at.path("b")).expect("reads") == fs::read(at.path("c")).expect("reads"));
    // In place, and from a truncated file.
    at.run(&["truncate", "b", "-o", "b", "--layer", "1"]).ok();
    assert_eq!(length(&at, "b"), layers[0]["bytes"].as_u64().expect("a number"));
    // The divergence falls with each layer; the whole file is the original model.
    let kld = |cut: &[&str]| {
        let args = ["eval", "kld", "a.impasto", "--reference", &tiny()];
        at.run(&[&args, &text[..], cut].concat()).json()["kld"]["mean"]["value"].as_f64().expect("a number")
    };
    let falling = [kld(&["--layer", "1"]), kld(&["--layer", "2"]), kld(&["--layer", "3"])];
    assert!(falling[0] > falling[1] && falling[1] > falling[2] && falling[2].abs() < 1e-6, "{falling:?}");
    at.run(&["decode", "a.impasto", "-o", "whole"]).ok();
    let original = fs::read(format!("{}/model.safetensors", tiny())).expect("reads");
    assert!(fs::read(at.path("whole/model.safetensors")).expect("reads") == original, "the last layer is exact");
}

#[test]
fn tasks_take_less_too() {
    let at = place();
    at.write("items", "{\"query\": \"Once upon\", \"choices\": [\" a time\", \" zebra\"], \"gold\": 0}\n");
    at.run(&["truncate", "a.impasto", "-o", "b", "--layer", "1"]).ok();
    let args = ["eval", "tasks", "b", "--reference", "b", "--tasks", "items", "--json"];
    let truncated = at.run(&args).json()["tasks"].clone();
    let args = ["eval", "tasks", "a.impasto", "--layer", "1", "--reference", "b", "--tasks", "items", "--json"];
    assert_eq!(at.run(&args).json()["tasks"], truncated);
}

#[test]
fn a_file_cut_at_any_byte_behind_the_base_runs() {
    let at = place();
    let base = at.run(&["inspect", "a.impasto", "--json"]).json()["layers"][0].clone();
    // The manifest is that of the whole file, so the base ends later than in a truncated file.
    let whole = at.run(&["inspect", "a.impasto", "--json"]).json()["manifest_bytes"].as_u64().expect("a number");
    let after = base["bytes"].as_u64().expect("a number") + whole;
    for length in [after, after + 1, after + 12_345, LAYERED.len() as u64 - 1] {
        fs::write(at.path("cut"), &LAYERED[..length as usize]).expect("writes");
        assert!(!story(&at, "cut", &[]).trim().is_empty());
        let verified = at.run(&["verify", "cut"]);
        assert!(verified.code == Some(5) && verified.out.contains("absent: unit "), "{verified:?}");
        at.run(&["truncate", "cut", "-o", "rest", "--budget", "1GB"]).ok();
        at.run(&["verify", "rest"]).ok();
        assert_eq!(story(&at, "cut", &[]), story(&at, "rest", &[]));
    }
    fs::write(at.path("cut"), &LAYERED[..base["bytes"].as_u64().expect("a number") as usize / 2]).expect("writes");
    at.run(&["run", "cut", "-p", "x"]).fails(5, "is absent");
    at.run(&["truncate", "cut", "-o", "rest", "--layer", "1"]).fails(5, "is absent");
    at.run(&["verify", "rest"]).ok();
}

#[test]
fn what_cannot_be_taken_is_said() {
    let at = place();
    at.run(&["encode", &tiny(), "-o", "single"]).ok();
    at.write("text", "Once upon a time.");
    at.write("items", "{\"query\": \"Once upon\", \"choices\": [\" a time\", \" zebra\"], \"gold\": 0}\n");
    let all = |cut: &[&str], check: &dyn Fn(Ran)| {
        let commands: [&[&str]; 6] = [
            &["truncate", "a.impasto", "-o", "b"],
            &["run", "a.impasto", "-p", "x"],
            &["decode", "a.impasto", "-o", "b"],
            &["eval", "ppl", "a.impasto", "--text", "text"],
            &["eval", "kld", "a.impasto", "--text", "text", "--reference", "a.impasto"],
            &["eval", "tasks", "a.impasto", "--tasks", "items"],
        ];
        commands.iter().for_each(|command| check(at.run(&[command, cut].concat())));
    };
    let fails = |cut: &[&str], code: i32, says: &str| all(cut, &|ran| ran.fails(code, says));
    fails(&["--layer", "4"], 2, "a.impasto: there is no layer 4: the file has layers 1 to 3");
    fails(&["--layer", "attn=9"], 2, "a.impasto: there is no layer 9: the file has layers 1 to 3");
    fails(&["--layer", "atn=1"], 2, "a.impasto: there is no tensor whose name contains \"atn\"");
    fails(&["--budget", "100KB"], 6, "a.impasto: 100000 bytes are too few: the base takes ");
    fails(&["--bpw", "2"], 6, "bits per weight)");
    at.run(&["truncate", "single", "-o", "b", "--layer", "1"]).fails(2, "there is no layer 1: the file has no layers");
    at.run(&["truncate", "single", "-o", "b", "--budget", "1MB"]).fails(6, "the base takes");
    at.run(&["run", &tiny(), "-p", "x", "--layer", "1"]).fails(2, "are for .impasto files only");
    at.run(&["truncate", "missing", "-o", "b", "--layer", "1"]).fails(1, "missing: No such file");
    at.run(&["truncate", "text", "-o", "b", "--layer", "1"]).fails(3, "not an Impasto file");
    at.run(&["truncate", "a.impasto", "-o", "text/b", "--layer", "1"]).fails(1, "text/b: ");
    // A damaged unit is an error only if it is used.
    let mut damaged = LAYERED.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    fs::write(at.path("damaged"), damaged).expect("writes");
    at.run(&["truncate", "damaged", "-o", "b", "--layer", "3"]).fails(4, "layer 2 of \"model.");
    at.run(&["truncate", "damaged", "-o", "c", "--layer", "2"]).ok();
    assert_eq!(at.left(), ["a.impasto", "c", "damaged", "items", "single", "text"]);
    // Messages of the command-line parser have more than one line.
    for cut in [
        &["--layer", "1", "--bpw", "3"][..],
        &["--layer", "1", "--budget", "3MB"],
        &["--layer", "0"],
        &["--layer", "attn"],
        &["--layer", "2,3"],
        &["--budget", "3XB"],
        &["--bpw", "-1"],
    ] {
        all(cut, &|ran| assert!(ran.code == Some(2) && ran.out.is_empty() && !ran.err.contains("panicked"), "{ran:?}"));
    }
    assert_eq!(at.run(&["truncate", "a.impasto", "-o", "b"]).code, Some(2));
    assert!(!at.path("b").exists());
}

/// Divergences are recorded before the result is printed: its root is that of the final file, and `inspect` shows them.
#[test]
fn what_is_measured_is_in_the_file() {
    let at = Workplace::new();
    let words =
        ["encode", &tiny(), "-o", "a.impasto", "--layers", "4,lossless", "--uncalibrated", "--measure", "--json"];
    let made = at.run(&words).json();
    let shown = at.run(&["inspect", "a.impasto", "--json"]).json();
    assert_eq!(made["root"], shown["root"]);
    let klds = |value: &serde_json::Value| -> Vec<f64> {
        value["layers"].as_array().expect("layers").iter().filter_map(|layer| layer["kld"].as_f64()).collect()
    };
    let measured = klds(&shown);
    assert_eq!(measured, klds(&made));
    assert!(measured.len() == 2 && measured[0] > 0.01 && measured[1] == 0.0, "{measured:?}");
    at.run(&["verify", "a.impasto"]).ok();
}

/// More feedback in coarse layers, which needs covariances, changes the base.
#[test]
fn the_knob_of_layers_turns() {
    let at = Workplace::new();
    at.write("text", &"Once upon a time there was a small cat. She liked to sit in the sun.\n".repeat(40));
    let args = ["calibrate", &tiny(), "--text", "text", "-o", "s", "--ctx", "64", "--tokens", "256"];
    at.run(&args).ok();
    let base = |feedback: &[&str]| {
        let words = ["encode", &tiny(), "-o", "a", "--layers", "2.5,4", "--statistics", "s"];
        at.run(&[&words, feedback].concat()).ok();
        at.run(&["decode", "a", "--layer", "1", "-o", "weights", "--force"]).ok();
        fs::read(at.path("weights/model.safetensors")).expect("reads")
    };
    let usual = base(&[]);
    assert!(usual == base(&["--layer-feedback", "0.25"]), "a quarter is the default");
    assert!(usual != base(&["--layer-feedback", "1"]));
}

#[test]
fn layers_that_cannot_be_are_said() {
    let at = Workplace::new();
    let refused = |layers: &str| at.run(&["encode", &tiny(), "-o", "a.impasto", "--uncalibrated", "--layers", layers]);
    for (layers, rule) in [
        ("lossless", "--lossless"),
        ("lossless,3", "nothing comes after"),
        ("3,x", "invalid value"),
        ("3,-1", "invalid value"),
        ("", "invalid value"),
        ("4,3", "larger than the one before"),
    ] {
        let Ran { err, code, .. } = refused(layers);
        assert!(err.contains(rule) && code == Some(2), "{layers}: {code:?}, {err}");
    }
    let knob = at.run(&["encode", &tiny(), "-o", "a.impasto", "--bpw", "4", "--layer-feedback", "0.5"]);
    assert!(knob.err.contains("--layers"), "{}", knob.err);
    assert_eq!(fs::read_dir(at.path("")).expect("a folder").count(), 0);
}

/// `decode` of a part of a layered file says what it leaves out, in words and in JSON.
#[test]
fn what_decode_leaves_out() {
    let at = Workplace::new();
    fs::write(at.path("a"), &*LAYERED).expect("writes");
    let whole = at.run(&["decode", "a", "-o", "whole"]).ok();
    assert!(!whole.err.contains("left out"), "{}", whole.err);
    let base = at.run(&["inspect", "a", "--json"]).json()["layers"][0]["bytes"].as_u64().expect("a size") as usize;
    fs::write(at.path("cut"), &LAYERED[..base + (LAYERED.len() - base) / 2]).expect("writes");
    for args in [&["decode", "cut", "-o", "b"][..], &["decode", "a", "--layer", "1", "-o", "c"]] {
        let cut = at.run(&[args, &["--json"]].concat());
        let value = cut.json();
        let left = value["left_out"].as_array().expect("a list");
        assert!(!left.is_empty());
        let mut bytes = 0;
        for tensor in left {
            let (level, layers) =
                (tensor["level"].as_u64().expect("a level"), tensor["layers"].as_u64().expect("a number"));
            assert!(level < layers, "{tensor}");
            bytes += tensor["bytes"].as_u64().expect("bytes");
        }
        assert!(bytes > 0 && bytes < LAYERED.len() as u64);
        let first = left[0]["name"].as_str().expect("a name");
        let said = at.run(&[args, &["--force"]].concat()).ok().err;
        assert!(said.contains(" are left out") && said.contains(first), "{said}");
    }
}
