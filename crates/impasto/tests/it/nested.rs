//! Layers of a file in memory together: each gives the logits of the file that is cut there.

use std::sync::OnceLock;

use impasto::encode::{Extent, Layers, Options, Target, encode};
use impasto::{Checkpoint, Cut, File, FileWeights};
use impasto_container::{Limits, Reader};
use impasto_model::{CausalLm, ModelError, Want, WeightSource};
use impasto_runtime::{Model, Residence, RunOptions, RuntimeError, View};

use crate::support::Model as Checkpoints;

const PROMPT: [u32; 9] = [5, 17, 300, 2, 44, 800, 1, 9, 73];
const LAYERS: usize = 4;

/// The tiny model in the layers 2.5, 3.5, 5 and exact.
fn layered() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let model = Checkpoints::wide_tiny();
        let path = model.file("layered.impasto");
        let below = vec![Extent::BitsPerWeight(2.5), Extent::BitsPerWeight(3.5)];
        let layers = Layers { below, exact: true, ..Layers::default() };
        let options = Options { layers, ..Options::new(Target::BitsPerWeight(5.0)) };
        let checkpoint = Checkpoint::open(&model.path).expect("a checkpoint");
        encode(&checkpoint, &path, &options, &|_| std::ops::ControlFlow::Continue(())).expect("encodes");
        std::fs::read(path).expect("a file")
    })
}

fn cut(cut: &Cut) -> FileWeights<&'static [u8]> {
    let reader = Reader::open(layered(), "layered.impasto", &Limits::default()).expect("a file");
    let mut file = File::new(reader);
    file.cut(cut).expect("a cut");
    FileWeights::new(file).expect("assets")
}

pub fn options() -> RunOptions {
    RunOptions { threads: 2, ..RunOptions::default() }
}

/// A model with these layers, counted from 1, in memory.
pub fn nested(layers: &[usize]) -> Model {
    nested_with(layers, &options())
}

pub fn nested_with(layers: &[usize], options: &RunOptions) -> Model {
    let sources: Vec<_> = layers.iter().map(|&layer| cut(&Cut::Layer(layer))).collect();
    let sources: Vec<&dyn WeightSource> = sources.iter().map(|source| source as _).collect();
    Model::load_layers(&sources, options).expect("loads")
}

fn logits(model: &dyn CausalLm, tokens: &[u32]) -> Vec<u32> {
    let mut cache = model.new_cache(0).expect("a cache");
    let logits = model.forward(&mut cache, tokens, Want::All).expect("logits");
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn each_layer_is_the_file_that_is_cut_there() {
    let model = nested(&[1, 2, 3, 4]);
    let runtime = model.shared_runtime().expect("a runtime");
    assert_eq!(runtime.layers(), LAYERS);
    for layer in 0..LAYERS {
        let alone = Model::load(&cut(&Cut::Layer(layer + 1)), &options()).expect("loads");
        let view = View::new(runtime.clone(), layer).expect("a layer");
        for tokens in [&PROMPT[..1], &PROMPT[..]] {
            assert!(logits(&view, tokens) == logits(alone.network(), tokens), "layer {}", layer + 1);
        }
        assert!(runtime.bytes_at(layer).expect("a layer") <= runtime.memory_bytes());
    }
    let few = nested(&[2, 4]);
    let view = few.runtime().expect("a runtime").at(0).expect("a layer");
    let alone = Model::load(&cut(&Cut::Layer(2)), &options()).expect("loads");
    assert!(logits(&view, &PROMPT) == logits(alone.network(), &PROMPT));
}

#[test]
fn layers_are_chosen_for_each_part_while_the_model_runs() {
    let model = nested(&[1, 2, 3]);
    let runtime = model.runtime().expect("a runtime");
    let view = runtime.at(0).expect("a layer");
    let base = logits(&view, &PROMPT);
    for (attention, mlp, rest) in [(3, 1, 2), (1, 3, 3), (2, 2, 1)] {
        let of = |name: &str| match name {
            name if name.contains("attn") => attention,
            name if name.contains("mlp") => mlp,
            _ => rest,
        };
        runtime.set_layers(|name| of(name) - 1).expect("layers");
        let parts = vec![("attn".to_owned(), attention), ("mlp".to_owned(), mlp), (String::new(), rest)];
        let alone = Model::load(&cut(&Cut::Parts(parts)), &options()).expect("loads");
        assert!(logits(runtime, &PROMPT) == logits(alone.network(), &PROMPT), "{attention} {mlp} {rest}");
        assert!(logits(&view, &PROMPT) == base, "a view keeps its layer");
    }
    let error = runtime.set_layers(|name| if name.contains("mlp") { 3 } else { 0 }).unwrap_err();
    assert!(matches!(error, ModelError::NoLayer { layer: 4, layers: 3 }), "{error}");
    assert!(matches!(runtime.at(3).err(), Some(ModelError::NoLayer { layer: 4, layers: 3 })));
}

#[test]
fn a_cache_of_one_layer_serves_another() {
    let model = nested(&[1, 3]);
    let runtime = model.runtime().expect("a runtime");
    let base = runtime.at(0).expect("a layer");
    let mut cache = runtime.new_cache(0).expect("a cache");
    let mut out = Vec::new();
    runtime.next_logits(&mut cache, &PROMPT[..8], &mut out).expect("logits");
    let mut fork = cache.fork().expect("a fork");
    base.next_logits(&mut fork, &PROMPT[8..], &mut out).expect("logits");
    let of_base = out.clone();
    drop(fork);
    runtime.next_logits(&mut cache, &PROMPT[8..], &mut out).expect("logits");
    assert_ne!(of_base, out);
    let last = out.iter().map(|logit| logit.to_bits());
    let whole = logits(runtime, &PROMPT);
    assert!(last.eq(whole[8 * out.len()..].iter().copied()), "the fork left the cache as it was");
}

#[test]
fn layers_that_cannot_be_together_are_refused() {
    let source = cut(&Cut::Layer(1));
    let refused = |layers: &[&dyn WeightSource], residence| {
        let options = RunOptions { residence, ..options() };
        let error = Model::load_layers(layers, &options).err().expect("a refusal");
        assert!(matches!(error, RuntimeError::Model(ModelError::Layers(_))), "{error}");
    };
    refused(&[], Residence::Packed);
    refused(&[&source, &source], Residence::Coded);
    refused(&[&source, &source], Residence::Float);
    let options = RunOptions { memory_limit: Some(100_000), ..options() };
    let error = Model::load_layers(&[&source, &source], &options).err().expect("a limit");
    assert!(matches!(error, RuntimeError::Model(ModelError::MemoryLimit { .. })), "{error}");
    // Layers that are the same take no more memory than one.
    let twice = Model::load_layers(&[&source, &source], &self::options()).expect("loads");
    let once = Model::load(&source, &self::options()).expect("loads");
    assert_eq!(twice.memory_bytes(), once.memory_bytes());
}
