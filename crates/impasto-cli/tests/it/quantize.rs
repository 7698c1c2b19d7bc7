//! `impasto quantize`, as a user runs it.

use std::fs;

use crate::support::{Workplace, tiny};

fn kld(at: &Workplace, models: &[&str]) -> Vec<f64> {
    let text =
        "The sea was calm that night, and the lighthouse keeper wrote his letter by the light of one small lamp. ";
    at.write("text.txt", &text.repeat(8));
    let tiny = tiny();
    let options = ["--reference", &tiny, "--text", "text.txt", "--ctx", "64", "--windows", "2"];
    let results = at.run(&[&["--json", "eval", "kld"], models, &options[..]].concat()).json();
    let of = |result: &serde_json::Value| result["mean"]["value"].as_f64().expect("a divergence");
    match results["models"].as_array() {
        Some(models) => models.iter().map(|model| of(&model["kld"])).collect(),
        None => vec![of(&results["kld"])],
    }
}

#[test]
fn a_model_becomes_a_gguf_that_runs() {
    let at = Workplace::new();
    let tiny = tiny();
    let guide = ["--calibration-tokens", "2048"];
    let made =
        at.run(&[&["--json", "quantize", &tiny, "-o", "m.gguf", "--type", "q4_k_m"], &guide[..]].concat()).json();
    assert_eq!(made["bytes"].as_u64(), fs::metadata(at.path("m.gguf")).ok().map(|file| file.len()));
    let tensors = made["tensors"].as_array().expect("tensors");
    let is = |name: &str, kind: &str| {
        tensors.iter().any(|t| {
            t["name"] == name && t["type"] == kind && t["calibrated"] == true && t["error"].as_f64() > Some(0.0)
        })
    };
    assert!(is("blk.2.ffn_down.weight", "Q6_K") && is("blk.0.ffn_down.weight", "Q4_K"), "{made}");
    assert!(is("blk.0.attn_q.weight", "Q5_0") && is("token_embd.weight", "Q8_0"), "{made}");
    assert!(at.run(&["run", "m.gguf", "--raw", "-p", "Once upon a time", "-n", "4"]).ok().out.len() > 4);

    // The same from a file that keeps every bit.
    at.run(&["encode", &tiny, "-o", "a.impasto"]).ok();
    let again = at.run(&[&["quantize", "a.impasto", "-o", "x/m.gguf", "--type", "Q4_K_M"], &guide[..]].concat()).ok();
    assert!(again.out.contains("Q4_K") && again.out.contains("bits per weight"), "{}", again.out);
    assert!(fs::read(at.path("m.gguf")).expect("bytes") == fs::read(at.path("x/m.gguf")).expect("bytes"));
    assert_eq!(at.left(), ["a.impasto", "m.gguf", "x"]);
}

/// At the same size, calibrated rounding is better than the usual way to quantize.
#[test]
fn calibration_earns_quality() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    at.run(&["decode", "a.impasto", "--to", "gguf", "--type", "q4_0", "-o", "plain.gguf"]).ok();
    let guide = ["--calibration-tokens", "4096"];
    at.run(&[&["quantize", &tiny(), "-o", "ours.gguf", "--type", "iq4_nl"], &guide[..]].concat()).ok();
    at.run(&["quantize", &tiny(), "-o", "blind.gguf", "--type", "iq4_nl", "--uncalibrated"]).ok();
    let of = |name: &str| kld(&at, &[name])[0];
    let (ours, blind, plain) = (of("ours.gguf"), of("blind.gguf"), of("plain.gguf"));
    assert!(ours < blind && blind < plain, "{ours} {blind} {plain}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let at = Workplace::new();
    let tiny = tiny();
    let quantize = |more: &[&str]| at.run(&[&["quantize", &tiny, "-o", "m.gguf"], more].concat());
    let none = quantize(&["--type", "q4_k"]);
    assert!(none.code == Some(2) && none.err.contains("q4_k_m"), "{none:?}");
    at.write("t.txt", "A text.");
    quantize(&["--type", "q8_0", "--calibration", "t.txt", "--statistics", "s"])
        .fails(2, "--calibration has no effect");
    quantize(&["--type", "q8_0", "--calibration", "t.txt"]).fails(3, "window");
    at.run(&["quantize", "none", "-o", "m.gguf", "--type", "q8_0"]).fails(1, "none");
    at.run(&["quantize", &format!("{tiny}/model.safetensors"), "-o", "m.gguf", "--type", "q8_0"])
        .fails(3, "config.json");
    assert_eq!(at.left(), ["t.txt"]);
}
