//! The probe receives the inputs of linear layers, and weights can be replaced by name.

use crate::support::{Family, Folder, Table, decoder};
use impasto_model::decoder::Decoder;
use impasto_model::{CausalLm, ModelError, Probe, Want};

/// Everything that the probe received.
#[derive(Default, PartialEq)]
struct Recorder(Vec<(Vec<String>, Vec<f32>, usize)>);

impl Probe for Recorder {
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize) {
        self.0.push((names.iter().map(|n| n.to_string()).collect(), x.to_vec(), width));
    }
}

fn load(table: &Table, threads: usize) -> Decoder {
    decoder(table, threads).unwrap()
}

/// Runs all tokens; returns the recorded inputs and the logits.
fn record(model: &Decoder, tokens: &[u32], want: Want) -> (Recorder, Vec<f32>) {
    let net = &model;
    let mut recorder = Recorder::default();
    let mut cache = net.new_cache(0).unwrap();
    let hidden = net.hidden_probed(&mut cache, tokens, want, &mut recorder).unwrap();
    (recorder, net.logits(&hidden, 0..hidden.rows()).unwrap())
}

#[test]
fn every_linear_layer_is_shown_once() {
    for family in Family::all() {
        let model = load(&family.table, 2);
        let net = &model;
        let tokens = &family.tokens;
        let (seen, logits) = record(&model, tokens, Want::All);
        // The probe changes nothing, and the order is the same for every number of threads.
        let mut cache = net.new_cache(0).unwrap();
        assert_eq!(net.forward(&mut cache, tokens, Want::All).unwrap(), logits, "{}", family.name);
        let (again, _) = record(&load(&family.table, 1), tokens, Want::All);
        let names = |r: &Recorder| r.0.iter().map(|(names, _, _)| names.clone()).collect::<Vec<_>>();
        assert_eq!(names(&again), names(&seen));
        // In the order of `linears`: layers of one input together.
        let linears = net.linears();
        let mut shown = Vec::new();
        for (input, (names, x, width)) in seen.0.iter().enumerate() {
            assert_eq!(x.len(), tokens.len() * width);
            shown.extend(names.iter().map(|name| (input, name.as_str(), *width)));
        }
        let listed: Vec<_> = linears.iter().map(|l| (l.input, l.name, l.inputs)).collect();
        assert_eq!(shown, listed, "{}", family.name);
        // All matrices of the file, except an embedding that is not the output projection.
        let mut all: Vec<&str> = linears.iter().map(|l| l.name).collect();
        all.sort_unstable();
        let matrices = family.table.tensors.iter().filter(|(_, (shape, _))| shape.len() == 2).map(|(n, _)| n.as_str());
        let only_embedded = |n: &&str| n.contains("embed_tokens") && !net.config().tie_word_embeddings;
        assert_eq!(all, matrices.filter(|n| !only_embedded(n)).collect::<Vec<_>>(), "{}", family.name);
        for linear in &linears {
            assert_eq!(family.table.tensors[linear.name].0, [linear.outputs as u64, linear.inputs as u64]);
        }
    }
}

#[test]
fn the_inputs_are_those_of_the_layers() {
    // The input of the output projection gives the logits; the input of the first block is the normalized embedding.
    let family = Family::open("qwen2");
    let model = load(&family.table, 2);
    let (seen, logits) = record(&model, &family.tokens, Want::From(40));
    let (names, x, width) = seen.0.last().unwrap();
    assert_eq!((names.as_slice(), x.len()), (&["lm_head.weight".to_string()][..], 8 * width));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let head = &family.table.tensors["lm_head.weight"].1;
    for (row, logits) in x.chunks_exact(*width).zip(logits.chunks_exact(96)) {
        for (w, logit) in head.chunks_exact(*width).zip(logits) {
            assert!((dot(row, w) - f64::from(*logit)).abs() < 1e-4);
        }
    }
    let (names, x, width) = &seen.0[0];
    let expected = ["q", "k", "v"].map(|part| format!("model.layers.0.self_attn.{part}_proj.weight"));
    assert_eq!(names[..], expected);
    let norm = &family.table.tensors["model.layers.0.input_layernorm.weight"].1;
    let embedding = &family.table.tensors["model.embed_tokens.weight"].1;
    let row = &embedding[family.tokens[5] as usize * width..][..*width];
    let rms = (dot(row, row) / *width as f64 + 1e-6).sqrt();
    for ((x, e), n) in x[5 * width..].iter().zip(row).zip(norm) {
        assert!((f64::from(*x) - f64::from(*e) / rms * f64::from(*n)).abs() < 1e-5);
    }
}

#[test]
fn pieces_of_a_long_prompt() {
    let model = load(&Folder::tiny().table(), 2);
    let tokens: Vec<u32> = (0..700u32).map(|i| i * 131 % 4096).collect();
    let (seen, _) = record(&model, &tokens, Want::LastOnly);
    let inputs = model.linears().last().unwrap().input + 1;
    // Two pieces; only the second has a requested position.
    assert_eq!(seen.0.len(), 2 * inputs - 1);
    let rows = |at: usize| seen.0[at].1.len() / seen.0[at].2;
    assert_eq!((rows(0), rows(inputs - 1), rows(2 * inputs - 2)), (512, 188, 1));
}

#[test]
fn weights_by_name() {
    for family in Family::all() {
        let mut model = load(&family.table, 1);
        let (_, before) = record(&model, &family.tokens, Want::All);
        let names: Vec<String> = model.linears().iter().map(|l| l.name.to_string()).collect();
        for name in names {
            let stored = &family.table.tensors[&name].1;
            assert_eq!(model.weights(&name).unwrap(), stored);
            let rounded: Vec<f32> = stored.iter().map(|w| (w * 4.0).round() / 4.0).collect();
            model.set_weights(&name, &rounded).unwrap();
            let (_, changed) = record(&model, &family.tokens, Want::All);
            // Equal to a model that was loaded with these weights.
            let mut table = family.table.clone();
            table.tensors.get_mut(&name).unwrap().1 = rounded;
            assert!(changed == record(&load(&table, 1), &family.tokens, Want::All).1, "{}: {name}", family.name);
            assert!(changed != before, "{}: {name} does nothing", family.name);
            model.set_weights(&name, stored).unwrap();
        }
        assert!(record(&model, &family.tokens, Want::All).1 == before, "{}", family.name);
    }
    let mut net = load(&Family::open("phi3").table, 1);
    assert!(matches!(net.weights("model.norm.weight"), Err(ModelError::NoLinear { .. })));
    assert!(net.set_weights("nothing", &[]).unwrap_err().to_string().contains("no linear layer nothing"));
    let error = net.set_weights("model.layers.0.self_attn.qkv_proj.weight", &[0.0; 5]).unwrap_err().to_string();
    assert!(error.contains("5 values for shape [96, 32]"), "{error}");
}
