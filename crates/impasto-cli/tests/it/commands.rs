//! The commands on the tiny model, as a user runs them.

use std::fs;
use std::path::Path;

use crate::support::{Ran, Workplace, impasto, tiny};

#[test]
fn encode_verify_inspect_decode() {
    let at = Workplace::new();
    let encoded = at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    assert!(encoded.out.contains("a.impasto: ") && encoded.out.contains("bits per weight"), "{}", encoded.out);
    assert!(encoded.err.is_empty(), "no progress without a terminal: {}", encoded.err);
    let root = encoded.out.lines().find_map(|l| l.strip_prefix("root ")).expect("a root").to_owned();

    let verified = at.run(&["verify", "a.impasto"]).ok();
    assert!(verified.out.contains("all good") && verified.out.contains(&root), "{}", verified.out);

    let inspected = at.run(&["inspect", "a.impasto"]).ok();
    assert!(inspected.out.contains(&root) && inspected.out.contains("tokenizer.json"), "{}", inspected.out);
    assert!(!inspected.out.contains("model.layers.0."));
    let inspected = at.run(&["inspect", "a.impasto", "--tensors"]).ok();
    assert!(inspected.out.contains("model.layers.5.mlp.down_proj.weight"), "{}", inspected.out);

    let decoded = at.run(&["decode", "a.impasto", "--to", "safetensors", "-o", "out"]).ok();
    assert!(decoded.out.contains("byte for byte"), "{}", decoded.out);
    for entry in fs::read_dir(tiny()).expect("the tiny model") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        assert!(fs::read(&path).ok() == fs::read(at.path("out").join(name)).ok(), "{name:?} differs");
    }
}

/// What a tensor is predicted from is named.
#[test]
fn inspect_names_references() {
    let at = Workplace::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/files/17.18-co-located-f32.impasto");
    let objects = at.run(&["inspect", file, "--json"]).json()["objects"].as_array().expect("objects").clone();
    let (name, reference) = objects
        .iter()
        .find_map(|object| Some((object["name"].as_str()?, object["reference"].as_str()?)))
        .expect("a tensor with a reference");
    assert!(name != reference && objects.iter().any(|object| object["name"] == reference));
    let text = at.run(&["inspect", file, "--tensors"]).ok().out;
    assert!(text.contains(&format!("transform, predicted from {reference}")), "{text}");
}

#[test]
fn json_has_its_fields() {
    let at = Workplace::new();
    let encoded = at.run(&["--json", "encode", &tiny(), "-o", "a.impasto", "--bpw", "4", "--uncalibrated"]).json();
    let bits = encoded["bits_per_weight"].as_f64().expect("a number");
    assert!((3.98..=4.0).contains(&bits), "{bits}");
    assert_eq!(encoded["bytes"].as_u64(), fs::metadata(at.path("a.impasto")).ok().map(|m| m.len()));
    assert!(encoded["non_finite"].as_array().is_some_and(Vec::is_empty));
    assert!(encoded["relative_step"].as_f64().is_some_and(|step| step > 0.0));
    let tensor = &encoded["tensors"][0];
    for field in ["name", "dtype", "shape", "mode", "bytes"] {
        assert!(!tensor[field].is_null(), "{field}");
    }
    let verified = at.run(&["verify", "a.impasto", "--json"]).json();
    assert_eq!((verified["good"].as_bool(), &verified["root"]), (Some(true), &encoded["root"]));
    let inspected = at.run(&["inspect", "a.impasto", "--json"]).json();
    assert_eq!((&inspected["root"], &inspected["cut"]), (&encoded["root"], &false.into()));
    assert!(inspected["objects"].as_array().is_some_and(|objects| objects.len() > 50));
    for field in ["version", "bytes", "manifest_bytes", "units", "weights", "bits_per_weight", "layers"] {
        assert!(!inspected[field].is_null(), "{field}");
    }
    let decoded = at.run(&["decode", "a.impasto", "-o", "out", "--json"]).json();
    assert_eq!(decoded["identical"].as_bool(), Some(false));
    assert_eq!(decoded["files"].as_array().map(Vec::len), Some(5));
    let ran = at.run(&["run", "a.impasto", "-p", "Once upon a time", "-n", "3", "--json"]).json();
    assert!(ran["prompt_tokens"].as_array().is_some_and(|tokens| !tokens.is_empty()));
    assert!(ran["generation"].is_object());
    at.write("text", &"Once upon a time there was a small cat. She liked to sit in the sun.\n".repeat(20));
    let text = ["--text", "text", "--ctx", "32", "--windows", "2"];
    let ppl = at.run(&[&["eval", "ppl", "a.impasto", "--json"], &text[..]].concat()).json();
    assert!(ppl["perplexity"]["perplexity"]["value"].as_f64().is_some_and(|p| p > 1.0), "{ppl}");
    let reference = tiny();
    let kld = at.run(&[&["eval", "kld", "a.impasto", "--reference", &reference, "--json"], &text[..]].concat()).json();
    for field in ["mean", "median", "q90", "q99", "q999", "max", "same_top", "delta_ln_ppl"] {
        assert!(!kld["kld"][field].is_null(), "{field}: {kld}");
    }
    let bench = at.run(&["bench", "decode", "a.impasto", "--repeat", "1", "--json"]).json();
    assert!(bench["gb_per_s"].as_f64().is_some_and(|rate| rate > 0.0));
}

#[test]
fn the_file_runs_and_its_quality_is_measured() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    let story = at.run(&["run", "a.impasto", "-p", "Once upon a time", "-n", "12"]).ok();
    let original = at.run(&["run", &tiny(), "-p", "Once upon a time", "-n", "12"]).ok();
    assert!(story.out.split_whitespace().count() > 3 && story.out == original.out, "{} {}", story.out, original.out);
    assert!(story.err.contains("prompt tokens"), "{}", story.err);
    assert!(at.run(&["run", "a.impasto", "-p", "Once", "-n", "2", "--quiet"]).ok().err.is_empty());
    at.write("text", &"Once upon a time there was a small cat. She liked to sit in the sun.\n".repeat(20));
    let args = ["eval", "kld", "a.impasto", "--reference", &tiny(), "--text", "text", "--ctx", "64"];
    let kld = at.run(&[&args[..], &["--score", "second-half"]].concat()).ok();
    assert!(kld.out.contains("same top token       100.000%"), "a lossless file is the same model: {}", kld.out);
}

#[test]
fn sizes_are_met() {
    let at = Workplace::new();
    for (option, value, most) in
        [("--size", "1.2MB", 1_200_000), ("--size", "2MiB", 2 << 20), ("--bpw", "2.5", 983_820)]
    {
        at.run(&["encode", &tiny(), "-o", "a.impasto", option, value, "--uncalibrated"]).ok();
        let length = fs::metadata(at.path("a.impasto")).expect("a file").len();
        assert!(length <= most && length * 1000 >= most * 995, "{value}: {length}");
    }
}

#[test]
fn demo_and_completions() {
    let at = Workplace::new();
    let demo = at.run(&["demo"]).ok();
    assert!(demo.out.matches("Once upon a time").count() == 2 && demo.out.contains("root "), "{}", demo.out);
    for shell in ["bash", "zsh", "fish"] {
        let script = at.run(&["completions", shell]).ok().out;
        assert!(script.len() > 500 && script.contains("verify"), "{shell}");
    }
    assert!(at.run(&["--help"]).ok().out.contains("Exit codes"));
    assert!(at.run(&["--version"]).ok().out.starts_with("impasto "));
    assert_eq!(at.left(), [] as [&str; 0], "nothing is left behind");
}

/// A closed stdout is not an error: `impasto inspect FILE | head -1`.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_quiet() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    for args in [&["inspect", "a.impasto", "--json"][..], &["completions", "bash"], &["verify", "a.impasto"]] {
        let mut child = impasto(args)
            .current_dir(at.path(""))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().expect("ends"));
        assert!(ran.err.is_empty() && ran.code == Some(0), "{:?} {}", ran.code, ran.err);
    }
}

/// A file of the preset of JPEG runs from its units; other options that it has no place for are refused.
#[test]
fn the_preset_of_jpeg() {
    let at = Workplace::new();
    let encode = |way: &[&str]| at.run(&[&["encode", &tiny(), "-o", "a.impasto", "--preset", "jpeg"], way].concat());
    encode(&[]).fails(2, "--preset is for lossy files: use --bpw or --size");
    for way in [
        &["--lossless"][..],
        &["--layers", "2,4"],
        &["--bpw", "4", "--tools", "-dct"],
        &["--bpw", "4", "--effort", "best"],
        &["--bpw", "4", "--statistics", "s"],
        &["--bpw", "4", "--sequential"],
        &["--bpw", "4", "--segments", "2"],
    ] {
        let failed = encode(way);
        assert!(failed.code == Some(2) && failed.err.contains("'--preset <PRESET>' cannot be used"), "{}", failed.err);
    }
    assert!(at.left().is_empty());
    encode(&["--bpw", "5"]).ok();
    let inspected = at.run(&["inspect", "a.impasto", "--tensors"]).ok();
    assert!(inspected.out.contains("transform"), "{}", inspected.out);
    let run = |residence| {
        at.run(&["run", "a.impasto", "-p", "Once", "-n", "8", "--temperature", "0", "--residence", residence]).ok().out
    };
    assert_eq!(run("coded"), run("packed"));
}

/// A pruned file says how many weights are 0, and runs; what cannot be pruned is refused by an error that names the rule.
#[test]
fn pruned_files() {
    let at = Workplace::new();
    let encode = |way: &[&str]| at.run(&[&["encode", &tiny(), "-o", "a.impasto"], way].concat());
    let lossless = "--prune is not for a lossless file or layer";
    encode(&["--prune", "magnitude:2:4"]).fails(2, lossless);
    encode(&["--layers", "3,lossless", "--prune", "magnitude:2:4"]).fails(2, lossless);
    encode(&["--bpw", "4", "--preset", "jpeg", "--prune", "magnitude:2:4"]).fails(2, lossless);
    encode(&["--bpw", "4", "--uncalibrated", "--prune", "wanda:2:4"]).fails(2, "need calibration");
    for (way, rule) in [
        ("obs:50%", "the criterion is none of magnitude, wanda, sparsegpt"),
        ("wanda:4:4", "N is from 1 to M - 1"),
        ("wanda:100%", "a share is above 0% and below 100%"),
        ("wanda", "a criterion and a pattern"),
    ] {
        let ran = encode(&["--bpw", "4", "--prune", way]);
        assert!(ran.code == Some(2) && ran.err.contains(rule), "{ran:?}");
    }
    let alone = encode(&["--bpw", "4", "--prune-tensor", "x"]);
    assert!(alone.code == Some(2) && alone.err.contains("--prune <CRITERION:PATTERN>"), "{alone:?}");
    let named = ["--bpw", "4", "--uncalibrated", "--prune", "magnitude:50%", "--prune-tensor"];
    encode(&[&named[..], &["x*"]].concat()).fails(3, "matches x*, so there is nothing to prune");
    assert!(at.left().is_empty());

    let told = encode(&[&named[..], &["*.mlp.*", "--prune-tensor", "*.q_proj.*"]].concat()).ok();
    assert!(told.out.contains("pruned: 24 tensors, of whose weights 5"), "{}", told.out);
    let report = encode(&["--bpw", "4", "--uncalibrated", "--prune", "magnitude:2:4", "--json"]).json();
    for tensor in report["tensors"].as_array().expect("tensors") {
        let name = tensor["name"].as_str().expect("a name");
        let is_linear = name.contains("_proj");
        assert_eq!(tensor["zeros"].as_f64().is_some_and(|zeros| (0.5..0.6).contains(&zeros)), is_linear, "{tensor}");
    }
    at.run(&["verify", "a.impasto"]).ok();
    at.run(&["run", "a.impasto", "-p", "Once", "-n", "4"]).ok();
}

/// What has low-rank parts is said, by encode and by inspect; without them, nothing is.
#[test]
fn low_rank_parts() {
    let at = Workplace::new();
    let encode = |way: &[&str]| {
        at.run(&[&["encode", &tiny(), "-o", "a.impasto", "--bpw", "4", "--uncalibrated"], way].concat()).ok()
    };
    let shown = || at.run(&["inspect", "a.impasto", "--tensors"]).ok().out;
    assert!(encode(&[]).out.contains("low-rank parts in"));
    assert!(shown().contains("lattice, rank "), "{}", shown());
    let inspected = at.run(&["inspect", "a.impasto", "--json"]).json();
    let objects = inspected["objects"].as_array().expect("objects");
    let ranks: Vec<u64> = objects.iter().map(|object| object["rank"].as_u64().expect("a rank")).collect();
    assert!(ranks.iter().any(|&rank| rank > 0) && ranks.contains(&0), "{ranks:?}");
    let told = encode(&["--residual", "low-rank=2"]);
    assert!(told.out.contains("of rank 2 at most"), "{}", told.out);
    assert!(!encode(&["--residual", "none"]).out.contains("low-rank"));
    assert!(!shown().contains("rank "));
    at.run(&["encode", &tiny(), "-o", "b.impasto", "--lossless", "--residual", "auto"]).fails(2, "--residual is for");
    let unknown = at.run(&["encode", &tiny(), "-o", "b.impasto", "--bpw", "4", "--residual", "4:2"]);
    assert!(unknown.code == Some(2) && unknown.err.contains("`none`, `auto` or `low-rank=R`"), "{}", unknown.err);
}

/// What a file is for changes its integers: at one size, one for memory takes less of it and one for downloading more. Both
/// commands say how much. What contradicts is refused.
#[test]
fn files_for_a_use() {
    let at = Workplace::new();
    let encode = |way: &[&str]| at.run(&[&["encode", &tiny(), "-o", "a.impasto", "--uncalibrated"], way].concat());
    let memory = |way: &[&str]| {
        let encoded = encode(&[&["--bpw", "4", "--json"], way].concat()).json();
        let inspected = at.run(&["inspect", "a.impasto", "--memory", "--json"]).json();
        assert_eq!(encoded["memory"], inspected["memory"], "{way:?}");
        let run = at.run(&["bench", "run", "a.impasto", "-p", "0", "-n", "1", "-r", "1", "--json"]).json();
        let memory = &inspected["memory"];
        assert_eq!(memory["bytes"], run[0]["weight_bytes"], "{way:?}");
        let parts: f64 = memory["parts"].as_object().expect("parts").values().filter_map(|part| part.as_f64()).sum();
        assert_eq!(Some(parts), memory["bytes"].as_f64(), "{memory}");
        parts
    };
    let (usual, less, more) = (memory(&[]), memory(&["--for", "memory"]), memory(&["--for", "download"]));
    assert!(less < 0.97 * usual && more > 1.03 * usual, "{less} {usual} {more}");
    let layered =
        |way: &[&str]| encode(&[&["--layers", "2.5,4", "--json"], way].concat()).json()["memory"]["bytes"].as_f64();
    assert!(layered(&["--for", "download"]) > layered(&[]), "on a trellis");
    let shown = at.run(&["inspect", "a.impasto", "--memory"]).ok().out;
    assert!(shown.contains("in memory, packed: ") && shown.contains("outliers"), "{shown}");
    assert!(encode(&["--bpw", "4"]).ok().out.contains("in memory, packed: "));
    for (way, says) in [
        (&["--for", "memory"][..], "--for is for tensors on the lattice of a lossy file"),
        (&["--for", "memory", "--bpw", "4", "--trellis", "8"], "contradict: a trellis has finer steps"),
        (&["--for", "download", "--bpw", "4", "--prune", "magnitude:50%"], "a state may forbid 0"),
        (&["--for", "memory", "--layers", "2,4"], "--for memory is for files without layers"),
        (&["--for", "memory", "--bpw", "4", "--preset", "jpeg"], "cannot be used with"),
    ] {
        let failed = encode(way);
        assert!(failed.code == Some(2) && failed.err.contains(says), "{way:?}: {}", failed.err);
    }
}

/// A file in formats names them, runs, and is unpacked for engines; what has no place for them is refused.
#[test]
fn formats_of_engines() {
    let at = Workplace::new();
    let encode = |way: &[&str]| at.run(&[&["encode", &tiny(), "-o", "a.impasto", "--uncalibrated"], way].concat());
    for (way, says) in [
        (&["--format", "fp4"][..], "use int4, int8, mxfp4, nvfp4, fp8, fp8-e5m2"),
        (&["--format", "heads=fp8"], "use all, linear, embeddings"),
        (&["--policy", "fast=fp8"], "the only policy is fragile=FORMAT"),
        (&["--layers", "lossless"], "there is no layer below `lossless`"),
        (&["--format", "mxfp4", "--lossless"], "--format and --policy are for lossy files"),
        (&["--format", "mxfp4", "--tools", "none"], "--tools is for lossy files"),
        (&["--format", "mxfp4", "--residual", "low-rank=4"], "--residual is for tensors on the lattice"),
        (&["--format", "mxfp4", "--bpw", "4", "--prune", "magnitude:50%"], "cannot be used with"),
        (&["--format", "all=mxfp4", "--bpw", "5"], "request none"),
        (&["--policy", "fragile=fp8"], "known from calibration"),
    ] {
        let failed = encode(way);
        assert!(failed.code != Some(0) && failed.err.contains(says), "{way:?}: {}", failed.err);
    }
    let jpeg = at.run(&["encode", &tiny(), "-o", "a.impasto", "--preset", "jpeg", "--bpw", "4", "--format", "mxfp4"]);
    assert_eq!(jpeg.code, Some(2), "{}", jpeg.err);
    assert!(at.left().is_empty());
    let encoded = encode(&["--format", "mlp=mxfp4,attention=fp8"]).ok();
    assert!(encoded.out.contains("mxfp4") && encoded.out.contains("fp8"), "{}", encoded.out);
    let inspected = at.run(&["inspect", "a.impasto", "--tensors"]).ok();
    assert!(inspected.out.contains("lattice (mxfp4)") && inspected.out.contains("lattice (fp8)"), "{}", inspected.out);
    let run = |residence| {
        at.run(&["run", "a.impasto", "-p", "Once", "-n", "8", "--temperature", "0", "--residence", residence]).ok().out
    };
    assert_eq!(run("coded"), run("packed"));
    at.run(&["decode", "a.impasto", "--to", "compressed-tensors", "-o", "out"]).ok();
    at.run(&["encode", "out", "-o", "b.impasto"]).ok();
    let exported = at.run(&["inspect", "b.impasto", "--tensors"]).ok();
    assert!(exported.out.contains("weight_packed") && exported.out.contains("F8_E4M3"), "{}", exported.out);
    let mlx = at.run(&["decode", "a.impasto", "--to", "mlx", "-o", "mlx"]).ok();
    assert!(mlx.err.contains("MLX has FP8 under powers of two only"), "{}", mlx.err);
    let onnx = at.run(&["decode", "a.impasto", "--to", "onnx", "-o", "onnx"]).ok();
    assert!(onnx.out.contains("8 files"), "{}", onnx.out);
    at.run(&["decode", "a.impasto", "--to", "mlx", "--activations", "8bit", "-o", "no"])
        .fails(2, "--activations is for --to compressed-tensors");
    let rounded = ["decode", "a.impasto", "--to", "compressed-tensors", "--activations", "8bit", "-o", "rounded"];
    at.run(&rounded).ok();
}

/// A reordered file says what was reordered, and computes the same; what has no place for it is refused.
#[test]
fn hidden_units_and_heads_in_another_order() {
    let at = Workplace::new();
    let encode = |model: &str, way: &[&str]| at.run(&[&["encode", model, "-o", "a.impasto"], way].concat());
    let lossless = "--reorder is not for a lossless file or layer";
    encode(&tiny(), &["--reorder", "norm"]).fails(2, lossless);
    encode(&tiny(), &["--layers", "3,lossless", "--reorder", "norm"]).fails(2, lossless);
    let unmeasured = "--reorder activation needs calibration";
    encode(&tiny(), &["--bpw", "4", "--uncalibrated", "--reorder", "activation"]).fails(2, unmeasured);
    encode(&tiny(), &["--bpw", "4", "--preset", "jpeg", "--reorder", "activation"]).fails(2, unmeasured);
    // A file of weights alone does not say what network it is of.
    let alone = format!("{}/model.safetensors", tiny());
    encode(&alone, &["--bpw", "4", "--uncalibrated", "--reorder", "sum"]).fails(3, "config.json");
    assert!(at.left().is_empty());

    let way = ["--bpw", "6", "--uncalibrated", "--reorder"];
    let kept = encode(&tiny(), &[&way[..], &["none", "--json"]].concat()).json();
    assert!(kept["reordered"].is_null(), "{kept}");
    let told = encode(&tiny(), &[&way[..], &["chain"]].concat()).ok();
    assert!(told.out.contains("reordered by chain: hidden units of 6 MLPs, heads of "), "{}", told.out);
    let report = encode(&tiny(), &[&way[..], &["chain", "--json"]].concat()).json();
    assert_eq!((&report["reordered"]["by"], &report["reordered"]["mlps"]), (&"chain".into(), &6.into()), "{report}");
    assert!(report["reordered"]["tensors"].as_u64() > Some(18), "{report}");
    at.run(&["verify", "a.impasto"]).ok();
    at.write("text.txt", &"Once upon a time there was a little dog who lived in a big house. ".repeat(20));
    let kld = ["eval", "kld", "a.impasto", "--reference", &tiny(), "--text", "text.txt", "--ctx", "64", "--json"];
    let scored = at.run(&kld).json();
    assert!(scored["kld"]["mean"]["value"].as_f64() < Some(0.02), "{scored}");
}

#[test]
fn calibrate_and_encode_with_what_it_measured() {
    let at = Workplace::new();
    at.write("text.txt", &"Once upon a time there was a little dog who lived in a big house. ".repeat(20));
    let args = ["calibrate", &tiny(), "--text", "text.txt", "-o", "s.safetensors", "--ctx", "64", "--tokens", "128"];
    let measured = at.run(&args).ok();
    assert!(measured.out.contains("43 matrices on 128 tokens"), "{}", measured.out);
    at.run(&["encode", &tiny(), "-o", "a.impasto", "--bpw", "4", "--statistics", "s.safetensors"]).ok();
    at.run(&["verify", "a.impasto"]).ok();
    at.run(&["encode", &tiny(), "-o", "b.impasto", "--statistics", "s.safetensors"])
        .fails(2, "calibration is for lossy files");
    at.write("short.txt", "Once");
    let short = ["calibrate", &tiny(), "--text", "short.txt", "-o", "t.safetensors"];
    at.run(&short).fails(3, "not one window of 512");
    assert!(!at.path("t.safetensors").exists());
}

/// `encode` calibrates on the built-in text, on a given one, or with inputs from coded blocks. All work, with different
/// results.
#[test]
fn encode_calibrates_by_itself() {
    let at = Workplace::new();
    at.write("text.txt", &"Once upon a time there was a little dog who lived in a big house. ".repeat(100));
    let some = ["--calibration-tokens", "512"];
    let ways: [&[&str]; 6] = [
        &["--uncalibrated"],
        &some,
        &["--calibration", "text.txt", "--calibration-tokens", "512"],
        &["--calibration-tokens", "512", "--sequential"],
        &["--calibration-tokens", "512", "--floors", "conservative"],
        &["--calibration-tokens", "512", "--floors", "aggressive"],
    ];
    let mut roots = Vec::new();
    for way in ways {
        let encode = ["--json", "encode", &tiny(), "-o", "a.impasto", "--bpw", "3"];
        roots.push(at.run(&[&encode, way].concat()).json()["root"].to_string());
        at.run(&["verify", "a.impasto"]).ok();
    }
    for (i, root) in roots.iter().enumerate() {
        assert!(!roots[..i].contains(root), "{:?} changes nothing", ways[i]);
    }
}

#[test]
fn options_of_calibration_that_would_be_ignored_are_refused() {
    let at = Workplace::new();
    at.write("text.txt", "text");
    let encode = |way: &[&str]| at.run(&[&["encode", &tiny(), "-o", "a.impasto"], way].concat());
    for way in [
        &["--calibration", "text.txt"][..],
        &["--calibration-tokens", "64"],
        &["--sequential"],
        &["--uncalibrated"],
        &["--floors", "balanced"],
    ] {
        encode(way).fails(2, "calibration is for lossy files");
    }
    encode(&["--bpw", "4", "--statistics", "s", "--calibration", "text.txt"]).fails(2, "no effect with --statistics");
    encode(&["--bpw", "4", "--calibration", "text.txt"]).fails(3, "not one window of 512");
    let args = ["calibrate", &tiny(), "--text", "text.txt", "-o", "s", "--ctx", "1", "--tokens", "2"];
    at.run(&args).ok();
    encode(&["--bpw", "4", "--statistics", "s", "--sequential"])
        .fails(2, "the text that the statistics were computed from");
    assert!(!at.path("a.impasto").exists());
}

/// A model that cannot run is coded without calibration, with a note; requesting calibration is an error.
#[test]
fn a_model_that_cannot_run_is_not_calibrated() {
    let at = Workplace::new();
    std::fs::create_dir(at.path("model")).expect("a folder");
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(Path::new(&tiny()).join(name), at.path("model").join(name)).expect("a copy");
    }
    at.write("model/config.json", r#"{"architectures": ["BertModel"], "model_type": "bert"}"#);
    let ran = at.run(&["encode", "model", "-o", "a.impasto", "--bpw", "4"]).ok();
    assert!(ran.err.contains("not calibrated"), "{}", ran.err);
    at.write("text.txt", "text");
    at.run(&["encode", "model", "-o", "b.impasto", "--bpw", "4", "--calibration", "text.txt"]).fails(3, "bert");
}

/// Python writes infinity and NaN into JSON; fields with them count as not given.
#[test]
fn json_as_python_writes_it() {
    let at = Workplace::new();
    std::fs::create_dir(at.path("model")).expect("a folder");
    for name in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        fs::copy(Path::new(&tiny()).join(name), at.path("model").join(name)).expect("a copy");
    }
    for (name, fields) in [
        ("config.json", r#"{"time_step_limit": [0.0, Infinity], "rope_scaling": NaN,"#),
        ("generation_config.json", r#"{"temperature": NaN,"#),
        ("tokenizer_config.json", r#"{"model_max_length": -Infinity,"#),
    ] {
        let text = fs::read_to_string(at.path("model").join(name)).expect("reads");
        fs::write(at.path("model").join(name), text.replacen('{', fields, 1)).expect("writes");
    }
    let said = |model: &str| at.run(&["run", model, "-p", "Once upon a time", "-n", "5"]).ok().out;
    assert_eq!(said("model"), said(&tiny()));
    let encoded = at.run(&["encode", "model", "-o", "a", "--bpw", "4", "--calibration-tokens", "512"]).ok();
    assert!(!encoded.err.contains("not calibrated"), "{}", encoded.err);
    at.run(&["decode", "a", "--to", "gguf", "-o", "a.gguf"]).ok();
}

#[test]
fn a_model_runs_in_every_residence() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto", "--bpw", "5", "--uncalibrated"]).ok();
    let run = |options: &[&str]| {
        let words = ["run", "a.impasto", "-p", "Once upon a time", "-n", "5", "--json"];
        at.run(&[&words[..], options].concat()).json()
    };
    let text = |options: &[&str]| run(options)["generation"]["text"].as_str().expect("a text").to_owned();
    let float = text(&["--residence", "float"]);
    assert_eq!(float, text(&["--residence", "coded", "--kv", "f32"]));
    assert_eq!(float, text(&["--activations", "f32", "--kv", "k=f32,v=f16,1-2=f32"]));
    assert!(!text(&["--kv", "int4"]).is_empty());
    let bytes = |options: &[&str]| run(options)["load"]["weight_bytes"].as_u64().expect("bytes");
    let [packed, coded, float] = ["packed", "coded", "float"].map(|form| bytes(&["--residence", form]));
    assert!(coded < packed && packed * 4 < float, "{coded} {packed} {float}");
    for (options, code, word) in [
        (&["--kv", "int5"][..], 2, "int5"),
        (&["--kv", "9=f16"], 3, "block 9"),
        (&["--residence", "tar"], 2, "tar"),
        (&["--residence", "float", "--kv", "f16"], 2, "--kv is for"),
        (&["--residence", "coded", "--activations", "f32"], 2, "--activations is for"),
        (&["--context", "0"], 2, "0"),
        (&["--context", "2"], 3, "context of 2"),
        (&["--memory-limit", "1MB"], 3, "limit of 1000000"),
    ] {
        let ran = at.run(&[&["run", "a.impasto", "-p", "Once upon a time"][..], options].concat());
        assert!(ran.code == Some(code) && ran.err.contains(word), "{options:?}: {ran:?}");
    }
    let kld = |options: &[&str]| {
        let words = ["eval", "kld", "a.impasto", "--reference", &tiny(), "--text", "t.txt", "--ctx", "32", "--json"];
        at.run(&[&words[..], options].concat()).json()["kld"]["mean"]["value"].as_f64().expect("a divergence")
    };
    at.write("t.txt", &"One day a little dog went to the park and saw a big red ball. ".repeat(20));
    let (reference, packed) = (kld(&[]), kld(&["--residence", "packed"]));
    assert!(packed != reference && (packed / reference - 1.0).abs() < 0.2, "{packed} {reference}");
    assert!((kld(&["--residence", "coded", "--kv", "f32"]) / reference - 1.0).abs() < 1e-4);
    let several = ["eval", "kld", &tiny(), "a.impasto", "--reference", &tiny(), "--text", "t.txt", "--ctx", "32"];
    let rows = at.run(&[&several[..], &["--json"]].concat()).json();
    assert_eq!(rows[0]["kld"]["mean"]["value"].as_f64(), Some(0.0), "{rows}");
    assert_eq!(rows[1]["minus_first"]["value"].as_f64(), Some(reference), "{rows}");
    let table = at.run(&several).out;
    assert!(table.contains("minus the first") && table.lines().any(|line| line.starts_with("a.impasto ")), "{table}");
}

#[test]
fn bench_run_prints_tables() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto", "--bpw", "5", "--uncalibrated"]).ok();
    let bench = ["bench", "run", "a.impasto", "-p", "7,0", "-n", "3", "-d", "0,5", "-r", "2", "-t", "1,2"];
    let table = at.run(&bench).ok().out;
    for test in ["| pp7 |", "| pp7 @ d5 |", "| tg3 |", "| tg3 @ d5 |"] {
        assert_eq!(table.matches(test).count(), 2, "{test} in {table}");
    }
    let csv = at.run(&[&bench[..], &["-o", "csv"]].concat()).ok().out;
    assert_eq!(csv.lines().count(), 9, "{csv}");
    assert!(csv.lines().skip(1).all(|line| line.starts_with("\"a.impasto\",packed,")), "{csv}");
    let rows = at.run(&[&bench[..], &["-o", "json"]].concat()).json();
    let rows = rows.as_array().expect("rows");
    assert_eq!(rows.len(), 8);
    for row in rows {
        assert!(row["mean"].as_f64().is_some_and(|mean| mean > 0.0) && row["deviation"].as_f64().is_some());
        assert_eq!(row["seconds"].as_array().map(Vec::len), Some(2));
    }
    for words in
        [&["run", &tiny(), "-p", "Once", "--residence", "coded"][..], &[&bench[..], &["-o", "md", "--json"]].concat()]
    {
        assert_eq!(at.run(words).code, Some(2), "{words:?}");
    }
    let nothing = at.run(&["bench", "run", "a.impasto", "-p", "0", "-n", "0"]);
    assert!(nothing.code == Some(2) && nothing.err.contains("nothing to measure"), "{nothing:?}");
}
