//! Recovery: multipliers of rows and weights of norms bring a file closer to the original, and nothing else changes.

use std::ops::ControlFlow;
use std::path::Path;

use impasto::encode::{Extent, Layers, Options, Target, encode};
use impasto::format::{IndexArray, Mode, TensorHeader};
use impasto::recover::{RecoverError, RecoverOptions, Recovering, Recovery, recover};
use impasto::{Bases, Checkpoint, CheckpointWeights, Cut, File, FileWeights};
use impasto_model::{CausalLm, Want, WeightSource};
use impasto_runtime::{Model, Residence, RunOptions, View};

use crate::support::{open, tiny};

/// The beginning is trained on.
const TEXT: &str = include_str!("../../../../assets/calibration/text.txt");
const TOKENS: usize = 3 * 1024;

fn tokens(original: &dyn WeightSource) -> Vec<u32> {
    let model = Model::load(original, &RunOptions::float()).expect("a model");
    let mut tokens = model.tokenizer().expect("a tokenizer").encode(&TEXT[..30_000], true).expect("tokens");
    tokens.truncate(TOKENS);
    tokens
}

fn options() -> RecoverOptions {
    RecoverOptions { steps: 6, rate: 0.01, window: 128, threads: 2, ..RecoverOptions::default() }
}

fn run(folder: &Path, options: &RecoverOptions, stop: bool) -> Result<Recovery, RecoverError> {
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let original = CheckpointWeights::new(&checkpoint);
    let mut watch = |_: usize, step: Recovering| match step {
        Recovering::Step(2, _) if stop => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let [from, to] = ["coded.impasto", "recovered.impasto"].map(|name| folder.join(name));
    recover(&Bases::default(), &from, &to, &original, &tokens(&original), options, &mut watch)
}

fn coded(folder: &Path, target: Target, layers: Layers) {
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let options = Options { layers, threads: 2, ..Options::new(target) };
    encode(&checkpoint, &folder.join("coded.impasto"), &options, &|_| ControlFlow::Continue(())).expect("encodes");
}

/// Returns the multipliers of each tensor header and the number of changed norms, after checking that the other units are the
/// same.
fn changes(folder: &Path) -> (Vec<IndexArray>, usize) {
    let [coded, recovered] = ["coded.impasto", "recovered.impasto"].map(|name| open(&folder.join(name)));
    let (before, after) = (coded.reader(), recovered.reader());
    assert_eq!(before.units().len(), after.units().len());
    let (mut found, mut norms) = (Vec::new(), 0);
    for unit in 0..before.units().len() as u32 {
        let [old, new] = [before, after].map(|reader| reader.read_unit(unit).expect("a unit").to_vec());
        let entry = &before.units()[unit as usize];
        if before.objects()[entry.object as usize].name.ends_with("norm.weight") {
            norms += usize::from(old != new);
            continue;
        }
        if entry.mode != Mode::TENSOR_HEADER || old == new {
            assert!(old == new, "unit {unit}");
            continue;
        }
        let (object, matrix) =
            (&before.objects()[entry.object as usize], before.matrix(entry.object).expect("a matrix"));
        let read = |bytes: &[u8]| {
            TensorHeader::read(bytes, object.dtype().expect("a dtype"), matrix.rows(), matrix.cols()).expect("reads")
        };
        let mut header = read(&new);
        found.extend(header.multipliers().cloned());
        assert!(header.set_multipliers(None) && header == read(&old));
    }
    (found, norms)
}

fn logits(model: &dyn CausalLm) -> Vec<f32> {
    let mut cache = model.new_cache(0).expect("a cache");
    model.forward(&mut cache, &[5, 17, 300, 2, 44, 800, 1, 9, 73], Want::All).expect("logits")
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    (square(&difference) / square(b)).sqrt()
}

#[test]
fn a_file_of_few_bits_comes_closer() {
    let folder = tempfile::tempdir().expect("a folder");
    coded(folder.path(), Target::BitsPerWeight(3.0), Layers::default());
    let recovery = run(folder.path(), &options(), false).expect("recovers");
    let [layer] = &recovery.layers[..] else { panic!("{:?}", recovery.layers) };
    assert!(layer.is_kept && layer.after < 0.99 * layer.before && layer.rows > 0, "{layer:?}");
    let (arrays, norms) = changes(folder.path());
    assert!(arrays.len() > 20 && norms > 8 && layer.norms > 0, "{} {norms}", arrays.len());
    // What was measured is what the file has: the packed runtime agrees with the floats that are read.
    let load = |options: &RunOptions| {
        let weights = FileWeights::new(open(&folder.path().join("recovered.impasto"))).expect("weights");
        logits(Model::load(&weights, options).expect("loads").network())
    };
    let float = load(&RunOptions::float());
    let packed = load(&RunOptions { threads: 2, residence: Residence::Packed, packs: None, ..RunOptions::default() });
    let old = FileWeights::new(open(&folder.path().join("coded.impasto"))).expect("weights");
    let old = logits(Model::load(&old, &RunOptions::float()).expect("loads").network());
    let (rounding, change) = (distance(&packed, &float), distance(&old, &float));
    assert!(rounding < distance(&packed, &old), "packed {rounding}");
    assert!(rounding < 0.03 && change > 2.0 * rounding / 3.0, "packed {rounding}, before {change}");
    // The same again, with another number of threads.
    let bytes = std::fs::read(folder.path().join("recovered.impasto")).expect("a file");
    assert_eq!(run(folder.path(), &RecoverOptions { threads: 1, ..options() }, false).expect("recovers"), recovery);
    assert!(std::fs::read(folder.path().join("recovered.impasto")).expect("a file") == bytes);
}

#[test]
fn each_layer_has_its_own_multipliers_and_the_exact_one_every_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let layers = Layers { below: vec![Extent::BitsPerWeight(2.8)], exact: true, ..Layers::default() };
    coded(folder.path(), Target::BitsPerWeight(3.6), layers);
    let recovery = run(folder.path(), &options(), false).expect("recovers");
    assert!(recovery.layers[0].is_kept, "{:?}", recovery.layers);
    assert!(recovery.layers.iter().all(|layer| layer.norms == 0), "the exact layer has them");
    assert_eq!(changes(folder.path()).1, 0);
    let path = folder.path().join("recovered.impasto");
    let (whole, checkpoint) = (open(&path), Checkpoint::open(&tiny()).expect("tiny"));
    for tensor in checkpoint.tensors() {
        let read = whole.tensor(&tensor.name).expect("a tensor").bytes().expect("bytes");
        assert!(read == checkpoint.bytes(tensor), "{}", tensor.name);
    }
    let at = |layer: usize| {
        let mut file: File = open(&path);
        file.cut(&Cut::Layer(layer)).expect("a layer");
        FileWeights::new(file).expect("weights")
    };
    let options = RunOptions { threads: 2, packs: None, ..RunOptions::default() };
    let sources = [at(1), at(2)];
    let model =
        Model::load_layers(&sources.each_ref().map(|source| source as &dyn WeightSource), &options).expect("loads");
    for layer in 0..2 {
        let view = View::new(model.shared_runtime().expect("a runtime"), layer).expect("a layer");
        let alone = Model::load(&at(layer + 1), &options).expect("loads");
        assert!(logits(&view) == logits(alone.network()), "layer {}", layer + 1);
        let float = Model::load(&at(layer + 1), &RunOptions::float()).expect("loads");
        assert!(distance(&logits(&view), &logits(float.network())) < 0.03);
    }
}

#[test]
fn few_bytes_hold_few_multipliers() {
    let folder = tempfile::tempdir().expect("a folder");
    coded(folder.path(), Target::BitsPerWeight(3.0), Layers::default());
    let of = |bytes| {
        run(folder.path(), &RecoverOptions { bytes, ..options() }, false).expect("recovers");
        let (arrays, _) = changes(folder.path());
        let mut out = Vec::new();
        arrays.iter().for_each(|array| array.write(&mut out));
        out.len()
    };
    let all = of(None);
    assert!(of(Some(all as u64 / 2)) <= all / 2);
}

#[test]
fn what_cannot_be_recovered_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("recovered.impasto");
    coded(folder.path(), Target::BitsPerWeight(3.0), Layers::default());
    let error = run(folder.path(), &options(), true).unwrap_err();
    assert_eq!(error.to_string(), "cancelled");
    let error = run(folder.path(), &RecoverOptions { memory_limit: Some(1 << 20), ..options() }, false).unwrap_err();
    assert!(error.to_string().contains("more than the limit of 1048576"), "{error}");
    let error = run(folder.path(), &RecoverOptions { window: 4096, ..options() }, false).unwrap_err();
    assert!(error.to_string().contains("tokens"), "{error}");
    assert!(!output.exists());
    run(folder.path(), &options(), false).expect("recovers");
    std::fs::rename(&output, folder.path().join("coded.impasto")).expect("renames");
    let error = run(folder.path(), &options(), false).unwrap_err();
    assert!(matches!(error, RecoverError::Already(_)), "{error}");
    coded(folder.path(), Target::Lossless, Layers::default());
    let error = run(folder.path(), &options(), false).unwrap_err();
    assert!(matches!(error, RecoverError::Nothing(_)), "{error}");
    assert!(!output.exists());
}
