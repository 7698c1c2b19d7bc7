//! `impasto encode --recover`.

use std::fs;
use std::path::Path;

use crate::support::{Workplace, tiny};

#[test]
fn a_recovered_file_keeps_its_size_and_says_what_was_earned() {
    let at = Workplace::new();
    let encode = ["encode", &tiny(), "-o", "a.impasto", "--bpw", "3", "--calibration-tokens", "2048"];
    let report = at.run(&[&encode[..], &["--recover=5", "--json"]].concat()).json();
    let recovery = &report["recovery"];
    assert_eq!(recovery["steps"], 5);
    let layer = &recovery["layers"][0];
    let kld = |key: &str| layer[key].as_f64().expect("a divergence");
    assert!(layer["norm_weights"].as_u64().is_some_and(|n| n > 100), "{layer}");
    assert!(layer["kept"] == true && kld("kld_after") < kld("kld_before"), "{recovery}");
    let bits = report["bits_per_weight"].as_f64().expect("bits");
    assert!((2.97..=3.0).contains(&bits), "{bits}");
    let length = fs::metadata(at.path("a.impasto")).expect("a file").len();
    assert_eq!(report["bytes"], length);
    let tensors: u64 = report["tensors"].as_array().expect("tensors").iter().filter_map(|t| t["bytes"].as_u64()).sum();
    assert!(tensors < length && tensors * 10 > length * 9);
    let inspected = at.run(&["inspect", "a.impasto", "--json"]).json();
    let objects = inspected["objects"].as_array().expect("objects");
    let is_recovered = |object: &&serde_json::Value| object["recovered"] == serde_json::json!([0]);
    assert!(objects.iter().filter(is_recovered).count() > 20);
    assert!(at.run(&["inspect", "a.impasto", "--tensors"]).ok().out.contains("lattice, recovered"));
    at.run(&["verify", "a.impasto"]).ok();
    let text = at.run(&[&encode[..], &["--recover=5"]].concat()).ok().out;
    assert!(text.starts_with("recovery: KLD "), "{text}");
}

/// What was coded is kept if there is nothing to recover, and that is said.
#[test]
fn nothing_to_recover() {
    let at = Workplace::new();
    let encode = ["encode", &tiny(), "-o", "a.impasto", "--bpw", "4", "--calibration-tokens", "2048"];
    let ran = at.run(&[&encode[..], &["--residual", "low-rank=4", "--recover=1"]].concat()).ok();
    assert!(ran.err.contains("no row has a multiplier"), "{}", ran.err);
    at.run(&["verify", "a.impasto"]).ok();
    assert_eq!(at.left(), ["a.impasto"]);
}

#[test]
fn what_cannot_be_recovered() {
    let at = Workplace::new();
    let encode =
        |options: &[&str]| at.run(&[&["encode", &tiny(), "-o", "a.impasto", "--recover"][..], options].concat());
    encode(&[]).fails(2, "--recover is for tensors on the lattice of a lossy file");
    encode(&["--format", "int4"]).fails(2, "--recover is for tensors on the lattice of a lossy file");
    // Memory is checked before anything is coded.
    let little = ["--bpw", "4", "--calibration-tokens", "1024", "--memory-limit", "150MB"];
    encode(&little).fails(3, "recovery takes about");
    fs::create_dir(at.path("model")).expect("a folder");
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(Path::new(&tiny()).join(name), at.path("model").join(name)).expect("a copy");
    }
    at.write("model/config.json", r#"{"architectures": ["BertModel"], "model_type": "bert"}"#);
    at.run(&["encode", "model", "-o", "a.impasto", "--bpw", "4", "--recover"]).fails(3, "bert");
    assert!(!at.path("a.impasto").exists());
    // The checkpoint is not overwritten, although the file is coded elsewhere first.
    fs::copy(Path::new(&tiny()).join("config.json"), at.path("model/config.json")).expect("a copy");
    let weights = fs::read(at.path("model/model.safetensors")).expect("weights");
    let over = ["encode", "model", "-o", "model/model.safetensors", "--bpw", "4", "--recover=1"];
    let refused = at.run(&over);
    assert!(refused.code != Some(0) && refused.err.contains("model.safetensors"), "{refused:?}");
    assert!(fs::read(at.path("model/model.safetensors")).expect("weights") == weights);
}
