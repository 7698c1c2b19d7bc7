//! Errors as a user sees them: one line that names the cause, the documented exit code, and no file left behind.

use std::fs;

use crate::support::{Ran, Workplace, impasto, tiny};

#[test]
fn bad_checkpoints() {
    let at = Workplace::new();
    at.write("empty", "");
    at.write("words", "this is no safetensors file at all");
    for name in ["pointer", "pointer.gguf"] {
        at.write(name, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n");
    }
    fs::create_dir(at.path("folder")).expect("a folder");
    at.write("folder/config.json", "{}");
    fs::create_dir(at.path("half")).expect("a folder");
    let whole = fs::read(format!("{}/model.safetensors", tiny())).expect("the tiny model");
    fs::write(at.path("half/model.safetensors"), &whole[..whole.len() / 2]).expect("writes");
    for (input, code, says) in [
        ("empty", 3, "empty: the file is empty"),
        ("words", 3, "words: it is text, not a safetensors file"),
        ("pointer", 3, "pointer: it is a Git LFS pointer, not a safetensors file: `git lfs pull` fetches the file"),
        ("pointer.gguf", 3, "pointer.gguf: it is a Git LFS pointer, not a GGUF file"),
        ("folder", 3, "folder: no weights"),
        ("half", 3, "model.safetensors"),
        ("missing", 1, "missing: No such file"),
    ] {
        at.run(&["encode", input, "-o", "a.impasto"]).fails(code, says);
        at.run(&["run", input, "-p", "x"]).fails(code, says);
        assert!(!at.path("a.impasto").exists());
    }
}

/// Of a model whose weights are named in place of its folder, the other files are not taken; the messages say so.
#[test]
fn weights_named_in_place_of_their_folder() {
    let at = Workplace::new();
    let weights = format!("{}/model.safetensors", tiny());
    let says = format!("for the whole model, give {}", tiny());
    let ran = at.run(&["run", &weights, "-p", "x"]);
    ran.fails(3, "config.json: not found");
    assert!(ran.err.contains(&says), "{}", ran.err);
    at.write("text", "x");
    at.run(&["calibrate", &weights, "--text", "text", "-o", "s"]).fails(3, &says);
    let ran = at.run(&["encode", &weights, "-o", "a"]).ok();
    assert!(ran.err.starts_with("note: ") && ran.err.contains(&says), "{}", ran.err);
    fs::copy(&weights, at.path("alone")).expect("a copy");
    assert!(at.run(&["encode", "alone", "-o", "a"]).ok().err.is_empty());
}

/// A file of 10 KB that stands for 272 MiB.
#[test]
fn expanding_files() {
    let at = Workplace::new();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/broken/11.3-tiles.impasto");
    let file = file.display().to_string();
    let says = "for \"x\": more than 2^28, and more than 512 times its own 9697 bytes (SPEC 11.3)";
    for command in [
        &["verify", &file][..],
        &["decode", &file, "-o", "out"],
        &["truncate", &file, "-o", "out", "--budget", "1MB"],
        &["run", &file, "-p", "x"],
        &["chat", &file],
        &["eval", "ppl", &file, "--text", "text"],
        &["eval", "kld", &tiny(), "--reference", &file, "--text", "text"],
        &["bench", "decode", &file],
        &["bench", "run", &file],
    ] {
        at.write("text", &"Hello. ".repeat(1000));
        let ran = at.run(command);
        ran.fails(3, says);
        assert!(
            ran.err.contains("11.3-tiles.impasto: it expands to 285212694 bytes, 285212672 of them"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("--allow-expansion"), "{}", ran.err);
        assert!(!at.path("out").exists());
    }
    // It is a valid file, for those who want it.
    let shown = at.run(&["inspect", &file]).ok().out;
    assert!(shown.contains("expands from 9697 B to 285.21 MB: other commands need --allow-expansion"), "{shown}");
    at.run(&["verify", &file, "--allow-expansion"]).ok();
    let cut = at.run(&["truncate", &file, "-o", "out", "--budget", "1MB", "--allow-expansion"]).ok();
    assert!(cut.err.contains("so reading it needs --allow-expansion"), "{}", cut.err);
    let small = ["verify", &file, "--allow-expansion", "--memory-limit", "16MB"];
    at.run(&small).fails(3, "\"x\" takes 33554432 bytes of memory, more than the limit of 16000000 (SPEC 11.1)");
}

#[test]
fn bad_files() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "good"]).ok();
    let good = fs::read(at.path("good")).expect("reads");
    let damaged = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    for (name, bytes, code, says) in [
        ("empty", vec![], 3, "too few for a header"),
        ("magic", damaged(1), 3, "not an Impasto file"),
        ("major", damaged(8), 3, "major version"),
        ("short", good[..50].to_vec(), 3, "too few for a header"),
        ("manifest", damaged(100), 3, "the hash of the manifest is not the one in the header"),
        ("cut-early", good[..200].to_vec(), 3, "reaches past the end"),
        ("cut", good[..good.len() / 2].to_vec(), 5, "is absent"),
        ("damaged", damaged(good.len() / 2), 4, "is damaged"),
        (
            "weights",
            fs::read(format!("{}/model.safetensors", tiny())).expect("reads"),
            3,
            "it is a safetensors file, not an Impasto file",
        ),
        ("page", b"<!DOCTYPE html><html><body>404".to_vec(), 3, "it is a web page, not an Impasto file"),
    ] {
        fs::write(at.path(name), bytes).expect("writes");
        let prefix = format!("impasto: {name}: ");
        let failed = at.run(&["decode", name, "-o", "out"]);
        failed.fails(code, says);
        assert!(failed.err.starts_with(&prefix), "{}", failed.err);
        let left = fs::read_dir(at.path("out")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{name}: no partial file");
        if code > 3 {
            // These files open, so the results report what is wrong.
            let verified = at.run(&["verify", name]);
            assert_eq!(verified.code, Some(code));
            assert!(verified.out.contains(if code == 4 { "damaged: unit " } else { "absent: unit " }));
            at.run(&["inspect", name]).ok();
            at.run(&["run", name, "-p", "x"]).fails(code, says);
        } else {
            at.run(&["verify", name]).fails(code, says);
            at.run(&["inspect", name]).fails(code, says);
        }
    }
    at.run(&["verify", "missing"]).fails(1, "missing: No such file");
    at.run(&["encode", "good", "-o", "again"]).fails(3, "good: it is an Impasto file, not a safetensors file");
    at.run(&["inspect", &tiny()]).fails(1, "tiny: it is a folder, not a file");
}

#[test]
fn bad_texts_and_options() {
    let at = Workplace::new();
    at.write("short", "Hi.");
    fs::write(at.path("binary"), [0xFF, 0xFE, 0]).expect("writes");
    let model = tiny();
    let ppl = |rest: &[&str]| at.run(&[&["eval", "ppl", &model], rest].concat());
    ppl(&["--text", "missing"]).fails(1, "missing: No such file");
    ppl(&["--text", "short"]).fails(3, "short: the text has");
    ppl(&["--text", "binary"]).fails(3, "binary: ");
    ppl(&["--text", "short", "--windows", "0"]).fails(2, "windows = 0");
    ppl(&["--text", "short", "--ctx", "1"]).fails(2, "ctx = 1");
    at.run(&["run", &model, "-p", "x", "--top-p", "7"]).fails(2, "top-p = 7");
    at.run(&["run", &model, "-p", ""]).fails(3, "no tokens");
    at.run(&["run", &model, "-p", "x", "--system", "y"]).fails(3, "chat template");
    // Messages of the command-line parser have more than one line.
    for args in [
        &["completions", "foosh"][..],
        &["encode", &model, "-o", "a", "--size", "80XB"],
        &["encode", &model, "-o", "a", "--bpw", "-3"],
        &["encode", &model, "-o", "a", "--bpw", "nan"],
        &["run", &model, "-p", "x", "--unknown"],
        &["encode", &model, "-o", "a", "--bpw", "3", "--lossless"],
        &["encode", &model, "-o", "a", "--bpw", "3", "--uncalibrated", "--sequential"],
        &["encode", &model, "-o", "a", "--threads", "100000"],
        &["encode", &model],
        &["nonsense"],
        &[],
    ] {
        let failed = at.run(args);
        assert_eq!(failed.code, Some(2), "{args:?}: {}", failed.err);
        assert!(failed.out.is_empty() && !failed.err.is_empty() && !failed.err.contains("panicked"), "{args:?}");
    }
    assert_eq!(at.left(), ["binary", "short"]);
}

/// Text may begin with a dash, and a negative number is a value out of range, not an option.
#[test]
fn values_that_begin_with_a_dash() {
    let at = Workplace::new();
    let model = tiny();
    let run = |rest: &[&str]| at.run(&[&["run", &model, "-n", "1"], rest].concat());
    for prompt in ["- eggs", "-hello", "--raw", "-1"] {
        run(&["-p", prompt, "--stop", "---", "--stop", "-n"]).ok();
    }
    run(&["-p", "x", "--system", "- be kind"]).fails(3, "chat template");
    run(&["-p", "x", "--temperature", "-1"]).fails(2, "temperature = -1");
    run(&["-p", "x", "--top-p", "-0.5"]).fails(2, "top-p = -0.5");
    for (args, says) in [
        (&["run", &model, "-p", "x", "-n", "-1"][..], "not a whole number, 0 or above"),
        (&["run", &model, "-p", "x", "--seed", "-1"], "not a whole number, 0 or above"),
        (&["run", &model, "-p", "x", "--threads", "-1"], "not a number from 0 to 1024"),
        (&["encode", &model, "-o", "a", "--bpw", "-3"], "not a number above 0"),
        (&["encode", &model, "-o", "a", "--size", "-3"], "not a size above 0"),
        (&["bench", "run", &model, "-n", "-4"], "not a number from 0 to 16777216"),
    ] {
        let failed = at.run(args);
        assert!(failed.code == Some(2) && failed.err.contains(says), "{args:?}: {}", failed.err);
    }
}

/// The variable for the instruction set works like an option: an invalid value is not ignored.
#[test]
fn a_wrong_instruction_level() {
    let at = Workplace::new();
    let with = |level: &str| {
        let mut command = impasto(&["-q", "encode", &tiny(), "-o", "a"]);
        Ran::of(command.current_dir(at.path("")).env("IMPASTO_CPU", level).output().expect("starts"))
    };
    for level in ["avx3", "SCALAR", " scalar", "avx2\n"] {
        with(level).fails(2, &format!("IMPASTO_CPU: {level:?} is not an instruction set"));
    }
    assert_eq!(at.left(), [] as [&str; 0]);
    for level in ["", "scalar"] {
        with(level).ok();
    }
    #[cfg(not(target_arch = "x86_64"))]
    with("avx2").fails(2, "this processor lacks avx2");
}

#[test]
fn sizes_that_cannot_be_met() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a", "--bpw", "0.05", "--uncalibrated"])
        .fails(6, "are too few: the smallest file");
    at.run(&["encode", &tiny(), "-o", "a", "--size", "2KB", "--uncalibrated"])
        .fails(6, "are too few: the smallest file");
    at.run(&["encode", &tiny(), "-o", "a", "--size", "80MB", "--uncalibrated"]).fails(6, "--lossless");
    assert_eq!(at.left(), [] as [&str; 0]);
}

#[test]
fn places_that_cannot_be_written() {
    let at = Workplace::new();
    fs::create_dir(at.path("folder")).expect("a folder");
    at.write("text", "x");
    for output in ["folder", "folder/", "new/"] {
        let says = format!("impasto: {output}: it is a folder; give the path of a file");
        at.run(&["encode", &tiny(), "-o", output, "--bpw", "4"]).fails(1, &says);
        at.run(&["calibrate", &tiny(), "--text", "text", "-o", output]).fails(1, &says);
    }
    // Nothing stays of a folder that was made for nothing.
    at.run(&["encode", &tiny(), "-o", "new/deep/a", "--size", "2KB", "--uncalibrated"]).fails(6, "are too few");
    fs::remove_file(at.path("text")).expect("removes");
    at.run(&["encode", &tiny(), "-o", "a"]).ok();
    at.write("file", "x");
    at.run(&["decode", "a", "-o", "file/out"]).fails(1, "file/out");
    at.run(&["decode", "a", "-o", "file"]).fails(1, "file");
    assert_eq!(at.left(), ["a", "file", "folder"]);
    #[cfg(target_os = "linux")]
    at.run(&["encode", &tiny(), "-o", "/proc/a"]).fails(1, "/proc/a: ");
}

/// Temporary data lies beside the output, so the system's folder for it may be missing or small.
#[test]
fn the_folder_for_temporary_files_is_not_needed() {
    let at = Workplace::new();
    let encode = |options: &[&str]| {
        let mut command = impasto(&[&["encode", &tiny(), "-o", "a"], options].concat());
        Ran::of(command.current_dir(at.path("")).env("TMPDIR", "/nonexistent").output().expect("starts")).ok();
    };
    encode(&[]);
    encode(&["--bpw", "4", "--calibration-tokens", "512", "--sequential"]);
    encode(&["--layers", "2.5,4", "--uncalibrated"]);
    assert_eq!(at.left(), ["a"]);
}

#[test]
fn an_old_file_is_replaced_at_once_or_stays() {
    let at = Workplace::new();
    at.write("a", "the old file");
    at.run(&["encode", &tiny(), "-o", "a", "--bpw", "0.05", "--uncalibrated"])
        .fails(6, "are too few: the smallest file");
    assert_eq!(fs::read(at.path("a")).expect("reads"), b"the old file");
    at.run(&["encode", &tiny(), "-o", "a", "--bpw", "3", "--uncalibrated"]).ok();
    at.run(&["verify", "a"]).ok();
    assert_eq!(at.left(), ["a"]);
}

/// Names in a file may contain terminal control characters; messages and tables do not pass them on.
#[test]
fn names_do_not_reach_the_terminal_raw() {
    let at = Workplace::new();
    let raw = ['\u{1b}', '\u{9b}', '\u{7f}', '\u{202e}'];
    let json = r#"{"\u001b[31m\nsecond\u009b31m\u007f\u202e":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
        "x":{"dtype":"\u001b[31mF4\u009b\nthird","shape":[4],"data_offsets":[2,4]}}"#;
    let file = [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &[1, 2, 3, 4]].concat();
    fs::write(at.path("red.safetensors"), file).expect("writes");
    at.run(&["encode", "red.safetensors", "-o", "a"]).ok();
    let length = fs::metadata(at.path("a")).expect("a file").len() as usize;
    fs::write(at.path("cut"), &fs::read(at.path("a")).expect("reads")[..length - 1]).expect("writes");
    for file in ["a", "cut"] {
        for args in [
            &["inspect", file, "--tensors"][..],
            &["verify", file],
            &["inspect", file, "--json"],
            &["verify", file, "--json"],
        ] {
            let shown = at.run(args);
            assert_eq!(shown.code, Some(if file == "cut" && args[0] == "verify" { 5 } else { 0 }), "{shown:?}");
            let all = format!("{}{}", shown.out, shown.err);
            assert!(!all.contains(raw) && !all.contains("\nsecond") && !all.contains("\nthird"), "{all:?}");
            if args.contains(&"--json") {
                let value: serde_json::Value = serde_json::from_str(&shown.out).expect("JSON");
                assert!(
                    args[0] != "inspect" || value["objects"].to_string().contains('\u{9b}'),
                    "names are whole in JSON"
                );
            }
        }
        let decoded = at.run(&["decode", file, "-o", file.repeat(2).as_str(), "--to", "safetensors"]);
        assert!(!decoded.err.contains(raw) && !decoded.out.contains(raw), "{decoded:?}");
    }
}
