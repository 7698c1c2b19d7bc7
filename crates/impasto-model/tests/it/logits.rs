//! Logits against those of Hugging Face transformers (tests/golden, made by tools/make_goldens.py).
//!
//! The error of a position is its largest absolute difference divided by its largest absolute logit.

use crate::support::{Folder, decoder, golden};
use impasto_model::decoder::Decoder;
use impasto_model::{CausalLm, Want};
use serde_json::Value;

/// Measured: at most 3e-6.
const TOLERANCE: f32 = 1e-4;

fn load(source: &Folder, threads: usize) -> Decoder {
    decoder(source, threads).unwrap()
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden().join(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn all_logits(model: &Decoder, tokens: &[u32]) -> Vec<f32> {
    let mut cache = model.new_cache(tokens.len()).unwrap();
    model.forward(&mut cache, tokens, Want::All).unwrap()
}

/// Largest error over the positions, each relative to its element of `scale`.
fn error<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>, scale: f32) -> f32 {
    pairs.map(|(g, e)| (g - e).abs()).fold(0.0, f32::max) / scale
}

#[test]
fn random_models() {
    for name in ["random-untied", "random-tied"] {
        let tokens = ids(&json(&format!("{name}/golden.json"))["tokens"]);
        let raw = std::fs::read(golden().join(name).join("logits.f32")).unwrap();
        let expected: Vec<f32> = raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for threads in [1, 2] {
            let model = load(&Folder::golden(name), threads);
            let got = all_logits(&model, &tokens);
            assert_eq!(got.len(), expected.len());
            let vocab = model.vocab_size();
            let rows = got.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
            let worst = rows
                .map(|(g, e)| error(g.iter().zip(e), e.iter().fold(0.0, |m: f32, x| m.max(x.abs()))))
                .fold(0.0, f32::max);
            println!("{name}, {threads} threads: largest error {worst:.2e}");
            assert!(worst < TOLERANCE);
        }
    }
}

/// Compares with a golden file of the top 8 logits, every stride-th logit, and the scores of the tokens.
fn sampled(folder: &Folder, file: &str) {
    let golden = json(file);
    let model = load(folder, 0);
    let tokens = ids(&golden["tokens"]);
    let got = all_logits(&model, &tokens);
    let vocab = model.vocab_size();
    let stride = golden["stride"].as_u64().unwrap() as usize;
    let scales = floats(&golden["max_abs"]);
    let (mut worst, mut worst_nll) = (0.0f32, 0.0f64);
    for (at, row) in got.chunks_exact(vocab).enumerate() {
        let top = ids(&golden["top_ids"][at]);
        let at_top: Vec<f32> = top.iter().map(|&id| row[id as usize]).collect();
        let strided: Vec<f32> = row.iter().step_by(stride).copied().collect();
        let (top_expected, strided_expected) = (floats(&golden["top_logits"][at]), floats(&golden["strided"][at]));
        assert_eq!(strided.len(), strided_expected.len());
        let pairs = at_top.iter().zip(&top_expected).chain(strided.iter().zip(&strided_expected));
        worst = worst.max(error(pairs, scales[at]));
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(largest - row[top[0] as usize] <= TOLERANCE * scales[at], "another token is likeliest at {at}");
        if let Some(&next) = tokens.get(at + 1) {
            let sum: f64 = row.iter().map(|&x| f64::from(x - largest).exp()).sum();
            let nll = f64::from(largest) + sum.ln() - f64::from(row[next as usize]);
            worst_nll = worst_nll.max((nll - golden["nll"][at].as_f64().unwrap()).abs());
        }
    }
    println!("{file}: {} positions, largest error {worst:.2e}, of a token's score {worst_nll:.2e}", tokens.len());
    assert!(worst < TOLERANCE);
    assert!(worst_nll < 1e-4);
}

#[test]
fn tiny() {
    sampled(&Folder::tiny(), "tiny.json");
}

#[test]
fn smollm2() {
    let name = "smollm2-135m-continuous";
    match std::env::var_os("IMPASTO_MODELS").map(|dir| std::path::Path::new(&dir).join(name)) {
        Some(path) if path.exists() => sampled(&Folder::open(path), &format!("{name}.json")),
        _ => println!("SKIPPED: set IMPASTO_MODELS to the folder that holds {name}"),
    }
}

#[test]
fn one_token_at_a_time_equals_all_at_once() {
    for name in ["random-untied", "random-tied"] {
        let tokens = ids(&json(&format!("{name}/golden.json"))["tokens"]);
        for threads in [1, 3] {
            let model = load(&Folder::golden(name), threads);
            let net = &model;
            let whole = all_logits(&model, &tokens);
            let largest = whole.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            for cuts in [vec![1; 24], vec![7, 1, 1, 15], vec![23, 1]] {
                let mut cache = net.new_cache(0).unwrap();
                let mut pieces = Vec::new();
                let mut at = 0;
                for n in cuts {
                    pieces.extend(net.forward(&mut cache, &tokens[at..at + n], Want::All).unwrap());
                    at += n;
                    assert_eq!(cache.len(), at);
                }
                assert!(error(pieces.iter().zip(&whole), largest) < 1e-5);
            }
            // Truncating and running again gives the same result.
            let mut cache = net.new_cache(4).unwrap();
            net.forward(&mut cache, &tokens, Want::LastOnly).unwrap();
            cache.truncate(10);
            let again = net.forward(&mut cache, &tokens[10..], Want::All).unwrap();
            assert!(error(again.iter().zip(&whole[10 * net.vocab_size()..]), largest) < 1e-5);
        }
    }
}

#[test]
fn a_long_prompt_runs_in_pieces() {
    // Longer than a prefill piece.
    let model = load(&Folder::tiny(), 2);
    let net = &model;
    let tokens: Vec<u32> = (0..700u32).map(|i| i * 131 % 4096).collect();
    let whole = all_logits(&model, &tokens);
    let mut cache = net.new_cache(0).unwrap();
    net.forward(&mut cache, &tokens[..699], Want::LastOnly).unwrap();
    let last = net.forward(&mut cache, &tokens[699..], Want::LastOnly).unwrap();
    let expected = &whole[699 * 4096..];
    assert!(error(last.iter().zip(expected), expected.iter().fold(0.0, |m: f32, x| m.max(x.abs()))) < 1e-4);
    // The same positions, requested in every way.
    for (want, first) in [(Want::All, 0), (Want::From(300), 300), (Want::From(699), 699), (Want::LastOnly, 699)] {
        let mut rows = Vec::new();
        let mut cache = net.new_cache(0).unwrap();
        net.for_each_logits_chunk(&mut cache, &tokens, want, 64, &mut |at, logits| {
            assert_eq!(at, first + rows.len() / 4096);
            assert!(logits.len() <= 64 * 4096);
            rows.extend_from_slice(logits);
            Ok(())
        })
        .unwrap();
        assert_eq!(rows.len(), (700 - first) * 4096);
        assert!(error(rows.iter().zip(&whole[first * 4096..]), 10.0) < 1e-5);
    }
}
