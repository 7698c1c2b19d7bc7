//! Running block by block gives the same results as window by window, for any number of threads.

use std::collections::BTreeMap;

use crate::support::{Family, Folder, Table};
use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Decoder, Frame, Labels, Walk, WalkBack};
use impasto_model::{CausalLm, GradientProbe, ModelError, Probe, Want};

/// Inputs and gradients by layer, in token order. The gradient of the embeddings has the name "".
#[derive(Default)]
struct Recorder {
    inputs: BTreeMap<String, Vec<f32>>,
    gradients: BTreeMap<String, Vec<f32>>,
}

impl Recorder {
    fn gradient(&mut self, name: &str, values: &[f32]) {
        self.gradients.entry(name.into()).or_default().extend(values);
    }
}

impl Probe for Recorder {
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize) {
        assert!(x.len().is_multiple_of(width));
        for name in names {
            self.inputs.entry((*name).into()).or_default().extend(x);
        }
    }
}

impl GradientProbe for Recorder {
    fn head(&mut self, name: &str, fisher: &[f32], _: usize) {
        self.gradient(name, fisher);
    }

    fn linear_gradient(&mut self, name: &str, gradient: &[f32], _: usize) {
        self.gradient(name, gradient);
    }

    fn embedding_gradient(&mut self, _: &[u32], gradient: &[f32], _: usize) {
        self.gradient("", gradient);
    }
}

fn config(table: &Table) -> DecoderConfig {
    DecoderConfig::from_json(&table.assets["config.json"]).unwrap()
}

fn frame(table: &Table, threads: usize) -> Frame {
    Frame::load(table, config(table), threads).unwrap()
}

/// Runs forward and backward, loading each block when it is needed.
fn walked(table: &Table, tokens: &[u32], window: usize, threads: usize) -> Recorder {
    let frame = frame(table, threads);
    let mut seen = Recorder::default();
    let mut walk = Walk::new(&frame, tokens, window).unwrap();
    assert_eq!(walk.tokens(), tokens.len());
    let blocks = frame.config().blocks.len();
    let mut streams = Vec::new();
    for index in 0..blocks {
        let block = frame.load_block(table, index).unwrap();
        for sublayer in 0..block.sublayers.len() {
            streams.push(walk.stream().to_vec());
            walk.advance(&frame, &block, sublayer, Some(&mut seen));
        }
    }
    walk.finish(&frame, &mut seen);
    let mut back = WalkBack::new(&frame, walk.stream(), window, 7, &mut seen).unwrap();
    for index in (0..blocks).rev() {
        let block = frame.load_block(table, index).unwrap();
        for sublayer in (0..block.sublayers.len()).rev() {
            back.retreat(&frame, &block, sublayer, &streams.pop().unwrap(), &mut seen);
        }
    }
    back.finish(&frame, tokens, &mut seen);
    seen
}

/// Runs one window after another.
fn run(table: &Table, tokens: &[u32], window: usize) -> Recorder {
    let decoder = Decoder::load(table, config(table), 2).unwrap();
    let mut seen = Recorder::default();
    for (seed, tokens) in (7..).zip(tokens.chunks(window)) {
        decoder.backward(tokens, Labels::Sampled { seed }, &mut seen).unwrap();
    }
    seen
}

fn check(what: &str, got: &BTreeMap<String, Vec<f32>>, expected: &BTreeMap<String, Vec<f32>>) {
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        assert_eq!(got[name].len(), expected.len(), "{what}: {name}");
        for (g, e) in got[name].iter().zip(expected) {
            assert!((g - e).abs() <= 2e-5 * largest, "{what}: {name}: {g} {e}, largest {largest}");
        }
    }
}

fn compare(what: &str, table: &Table, tokens: &[u32], window: usize) {
    let (seen, expected) = (walked(table, tokens, window, 3), run(table, tokens, window));
    check(what, &seen.inputs, &expected.inputs);
    check(what, &seen.gradients, &expected.gradients);
    let one = walked(table, tokens, window, 1);
    assert!(one.inputs == seen.inputs && one.gradients == seen.gradients, "{what}: depends on the number of threads");
}

#[test]
fn families() {
    for family in Family::all() {
        compare(&family.name, &family.table, &family.tokens[..48], 12);
    }
}

/// Windows that fill more than one piece.
#[test]
fn pieces() {
    let tokens: Vec<u32> = (0..2500u32).map(|i| i * i % 4093).collect();
    compare("tiny", &Folder::tiny().table(), &tokens, 500);
}

/// A caller that replaces weights during the walk.
#[test]
fn replaced_weights() {
    for name in ["gemma2", "phi3"] {
        let family = Family::open(name);
        let (table, tokens) = (&family.table, &family.tokens[..48]);
        let round = |w: &[f32]| w.iter().map(|w| (w * 8.0).round() / 8.0).collect::<Vec<f32>>();
        let mut changed = table.clone();
        let frame = frame(table, 2);
        let mut walk = Walk::new(&frame, tokens, 24).unwrap();
        let mut seen = Recorder::default();
        for index in 0..frame.config().blocks.len() {
            let mut block = frame.load_block(table, index).unwrap();
            for sublayer in 0..block.sublayers.len() {
                let before = walk.stream().to_vec();
                walk.observe(&frame, &block, sublayer, &mut seen);
                assert_eq!(walk.stream(), before, "observe must not advance");
                let names: Vec<String> = block.linears().map(|layer| layer.name.to_string()).collect();
                for name in names.iter().filter(|name| name.contains("mlp") == (sublayer == 1)) {
                    let rounded = round(block.weights(name).unwrap());
                    block.set_weights(name, &rounded).unwrap();
                    changed.tensors.get_mut(name).unwrap().1 = rounded;
                }
                walk.advance(&frame, &block, sublayer, None);
            }
        }
        walk.finish(&frame, &mut seen);
        let decoder = Decoder::load(&changed, config(table), 1).unwrap();
        let mut expected = Recorder::default();
        for tokens in tokens.chunks(24) {
            decoder.hidden_probed(&mut decoder.new_cache(0).unwrap(), tokens, Want::All, &mut expected).unwrap();
        }
        // The first input of each sublayer reflects all replaced weights; the second does not, as it is in the same
        // sublayer.
        let inner = |name: &String| name.contains("o_proj") || name.contains("down_proj");
        seen.inputs.retain(|name, _| !inner(name));
        expected.inputs.retain(|name, _| !inner(name));
        check(name, &seen.inputs, &expected.inputs);
    }
}

#[test]
fn refusals() {
    let family = Family::open("qwen2");
    let frame = frame(&family.table, 1);
    let error = |tokens: &[u32], window| Walk::new(&frame, tokens, window).err().expect("an error");
    assert_eq!(error(&[1, 2, 3], 2).to_string(), "window = 2 for 3 tokens: must divide the number of tokens");
    assert!(matches!(error(&[1], 0), ModelError::BadOption { .. }));
    assert!(matches!(error(&[], 1), ModelError::EmptyPrompt));
    assert!(matches!(error(&[1; 129], 129), ModelError::ContextOverflow { tokens: 129, context: 128 }));
    assert!(matches!(error(&[1, 96], 1), ModelError::TokenId { id: 96, position: 1, vocab: 96 }));
    assert!(Walk::new(&frame, &[1; 256], 128).is_ok(), "together they may be longer than the context");
}
