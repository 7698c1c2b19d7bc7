//! `impasto analyze sensitivity`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Workplace, tiny};

const SMALL: [&str; 8] = ["--ctx", "64", "--shards", "2", "--windows", "2", "--held-back", "4"];

/// Copies the tiny model, with the weights of a tensor multiplied by 16.
fn with_large(at: &Workplace, name: &str) {
    fs::create_dir(at.path("large")).expect("a folder");
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(Path::new(&tiny()).join(file), at.path("large").join(file)).expect("a copy");
    }
    let mut bytes = fs::read(Path::new(&tiny()).join("model.safetensors")).expect("weights");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    assert_eq!(header[name]["dtype"], "BF16");
    let offset = |at: usize| 8 + length + header[name]["data_offsets"][at].as_u64().expect("an offset") as usize;
    for weight in bytes[offset(0)..offset(1)].chunks_exact_mut(2) {
        let bits = u16::from_le_bytes([weight[0], weight[1]]);
        // Four more in the exponent.
        let changed = if bits & 0x7f80 == 0 { bits } else { bits + (4 << 7) };
        weight.copy_from_slice(&changed.to_le_bytes());
    }
    fs::write(at.path("large/model.safetensors"), bytes).expect("writes");
}

/// The most sensitive tensor per weight, by a number of each tensor.
fn most(report: &Value, of: impl Fn(&Value) -> Option<f64>) -> &str {
    let tensors = report["tensors"].as_array().expect("tensors");
    let per_weight = |t: &Value| of(t).map(|x| x / t["weights"].as_f64().expect("a number"));
    let most = tensors
        .iter()
        .filter(|t| of(t).is_some())
        .max_by(|a, b| per_weight(a).partial_cmp(&per_weight(b)).expect("numbers"));
    most.expect("a tensor")["name"].as_str().expect("a name")
}

#[test]
fn a_sensitive_tensor_is_found() {
    let at = Workplace::new();
    let large = "model.layers.5.self_attn.o_proj.weight";
    with_large(&at, large);
    let args =
        ["analyze", "sensitivity", "large", "--calibration-tokens", "1024", "--plot", "a.svg", "--report", "a.json"];
    let which = ["*.2.self_attn.o_proj.weight", "*.4.self_attn.o_proj.weight", large, "*embed_tokens*"];
    let which = which.map(|name| ["--tensor", name]).concat();
    let out = at.run(&[&args[..], &SMALL, &which].concat()).ok().out;
    let report: Value = serde_json::from_slice(&fs::read(at.path("a.json")).expect("a report")).expect("JSON");
    let tensors = report["tensors"].as_array().expect("tensors");
    for tensor in tensors {
        let bits = tensor["bits"].as_f64().expect("bits");
        assert!((2.9..=3.0).contains(&bits), "{tensor}");
        assert!(tensor["measured"].as_f64().is_some_and(|kld| kld > 0.0), "{tensor}");
        assert_eq!(tensor["halves"].as_array().expect("halves").len(), 2);
        assert!(out.contains(tensor["name"].as_str().expect("a name")));
    }
    assert_eq!(most(&report, |t| t["measured"].as_f64()), large);
    for estimator in ["kronecker", "yaqa", "fisher", "trace", "token", "statistics"] {
        let value = |t: &Value| t["estimates"][estimator]["value"].as_f64().filter(|_| t["kind"] == "o");
        assert_eq!(most(&report, value), large, "{estimator}");
    }
    // The scale of weights is nothing to it.
    let magnitude = |at: usize| {
        tensors[at]["estimates"]["magnitude"]["value"].as_f64().expect("a number")
            / tensors[at]["weights"].as_f64().expect("a number")
    };
    assert!((1..tensors.len()).all(|at| (0.5..2.0).contains(&(magnitude(at) / magnitude(1)))));
    // The estimates that follow from runs have one value for each shard, and a spread.
    let yaqa = &tensors[1]["estimates"]["yaqa"];
    assert!(yaqa["shards"].as_array().is_some_and(|shards| shards.len() == 2) && yaqa["spread"].as_f64().is_some());
    let correlations = report["correlations"].as_array().expect("correlations");
    assert_eq!(correlations.len(), 11);
    for of in correlations {
        let overall = of["overall"].as_f64().expect("a correlation");
        assert!((-1.0..=1.0).contains(&overall) && of["excess"].as_f64().is_some_and(|x| x > -1e-9), "{of}");
        assert!(
            of["kinds"]["o"].as_f64().is_some_and(|o| (o - overall).abs() < 1e-9),
            "the embedding has no gradient: {of}"
        );
    }
    let plot = fs::read_to_string(at.path("a.svg")).expect("a plot");
    assert!(plot.starts_with("<svg") && plot.matches("<circle").count() > 11 * (tensors.len() - 1), "{plot}");
    assert!(report["command"].as_str().expect("a command").ends_with("--tensor '*embed_tokens*'"));
}

#[test]
fn a_model_that_cannot_run_has_some_estimates() {
    let at = Workplace::new();
    fs::create_dir(at.path("bert")).expect("a folder");
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(Path::new(&tiny()).join(name), at.path("bert").join(name)).expect("a copy");
    }
    at.write("bert/config.json", r#"{"architectures": ["BertModel"], "model_type": "bert"}"#);
    let args = ["analyze", "sensitivity", "bert", "--tensor", "*.1.mlp.*"];
    let refused = at.run(&args);
    assert!(refused.err.contains("--no-run"), "{}", refused.err);
    refused.fails(3, "bert");
    let report = at.run(&[&args[..], &["--no-run", "--json"]].concat()).json();
    assert_eq!(report["correlations"], serde_json::json!([]));
    let tensors = report["tensors"].as_array().expect("tensors");
    assert_eq!(tensors.len(), 3);
    for tensor in tensors {
        let estimates: Vec<&String> = tensor["estimates"].as_object().expect("estimates").keys().collect();
        assert_eq!(estimates, ["magnitude", "structure"]);
        assert_eq!(tensor["measured"], Value::Null);
    }
    assert!(at.run(&[&args[..], &["--no-run"]].concat()).ok().out.contains("structure"));
}

#[test]
fn wrong_requests_are_explained() {
    let at = Workplace::new();
    let run = |more: &[&str]| at.run(&[&["analyze", "sensitivity", &tiny()][..], more].concat());
    for (request, option) in [(["--no-run", "--plot", "a.svg"], "--plot"), (["--shards", "0", "--quiet"], "--shards")] {
        let refused = run(&request);
        assert!(refused.code == Some(2) && refused.err.contains(option), "{refused:?}");
    }
    run(&["--no-run", "--tensor", "nothing"]).fails(3, "nothing");
    at.write("short.txt", "A short text.");
    run(&["--text", "short.txt", "--calibration-tokens", "512", "--tensor", "*.1.mlp.up*"])
        .fails(3, "not one window of 512");
    run(&["--calibration-tokens", "512", "--memory-limit", "64MB", "--tensor", "*.1.mlp.up*"])
        .fails(3, "more than the limit");
    at.run(&["calibrate", &tiny(), "-o", "s.safetensors", "--text", "short.txt", "--ctx", "3", "--tokens", "3"]).ok();
    let statistics = ["--statistics", "s.safetensors"];
    assert!(run(&[&["--no-run", "--json", "--tensor", "*.1.mlp.up*"][..], &statistics].concat()).json()["tensors"][0]["estimates"]["statistics"]["value"].as_f64().is_some());
    with_large(&at, "model.layers.5.self_attn.o_proj.weight");
    at.run(&[&["analyze", "sensitivity", "large", "--no-run"][..], &statistics].concat()).fails(3, "another model");
}
