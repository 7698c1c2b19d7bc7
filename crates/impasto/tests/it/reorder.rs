//! Files with reordered hidden units and heads: the same network, with statistics and without, from folders and GGUF.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::gguf::tiny_gguf;
use crate::support::{Tensor, open, tiny};
use impasto::calibrate::{CalibrateOptions, Calibrated, Statistics, calibrate};
use impasto::encode::{
    EncodeError, Extent, Layers, Options, ReorderBy, Reordering, Report, Sequential, Target, encode_calibrated,
};
use impasto::{Checkpoint, CheckpointWeights, FileWeights};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::DType;
use impasto_model::{Want, WeightSource};
use impasto_runtime::{Model, RunOptions};
use tempfile::TempDir;

/// Tokens that the tiny model is calibrated on.
pub static TOKENS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let model = Model::load(&CheckpointWeights::new(&checkpoint), &RunOptions::float()).expect("a model");
    let mut tokens = model.tokenizer().expect("a tokenizer").encode(impasto::calibrate::TEXT, true).expect("tokens");
    tokens.truncate(1024);
    tokens
});

/// Statistics of the tiny model.
pub static STATISTICS: LazyLock<Statistics> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a folder");
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let (weights, path) = (CheckpointWeights::new(&checkpoint), folder.path().join("s.safetensors"));
    let options = CalibrateOptions { window: 256, ..CalibrateOptions::default() };
    let hash = blake3::hash(impasto::calibrate::TEXT.as_bytes());
    calibrate(&checkpoint, &weights, &TOKENS, &options, &hash, &path, &mut |_| ControlFlow::Continue(())).expect("it");
    Statistics::open(&path).expect("what was written")
});

/// Encodes a model at 6 bits. Returns the report and the reordering.
fn encoded(
    checkpoint: &Checkpoint,
    path: &Path,
    by: Option<ReorderBy>,
    statistics: Option<&Statistics>,
    sequential: bool,
) -> (Report, Option<Arc<Reordering>>) {
    let weights = CheckpointWeights::new(checkpoint);
    let reordering = by.map(|by| Arc::new(Reordering::new(&weights, by, statistics, None).expect("an order")));
    let options = Options { reordering: reordering.clone(), ..Options::new(Target::BitsPerWeight(6.0)) };
    let sequential = sequential.then_some(Sequential { weights: &weights, tokens: &TOKENS });
    let calibrated = statistics.map(|statistics| Calibrated { statistics, sequential });
    let report = encode_calibrated(checkpoint, path, &options, calibrated.as_ref(), &|_| ControlFlow::Continue(()));
    (report.expect("encodes"), reordering)
}

/// Asserts that every tensor of a file is that of the source in its order, and returns the largest relative error.
fn error(source: &dyn WeightSource, path: &Path, reordering: Option<&Reordering>) -> f64 {
    let file = FileWeights::new(open(path)).expect("assets");
    let mut worst = 0.0f64;
    for name in source.tensor_names() {
        let (original, coded) = (source.load_f32(&name).expect("it"), file.load_f32(&name).expect("it"));
        let columns = source.shape(&name).expect("a shape").last().map_or(1, |&n| n as usize);
        let order = reordering.and_then(|reordering| reordering.tensor_order(&name));
        let at = |order: Option<&Vec<u32>>, i: usize| order.map_or(i, |order| order[i] as usize);
        let (rows, moved) = (order.and_then(|o| o.rows.as_ref()), order.and_then(|o| o.columns.as_ref()));
        let (mut square, mut power) = (0.0, 0.0);
        for (i, &weight) in coded.iter().enumerate() {
            let from = original[at(rows, i / columns) * columns + at(moved, i % columns)];
            square += f64::from(weight - from).powi(2);
            power += f64::from(from).powi(2);
        }
        worst = worst.max((square / power).sqrt());
    }
    worst
}

/// Logits of some tokens.
fn logits(source: &dyn WeightSource) -> Vec<f32> {
    let model = Model::load(source, &RunOptions::float()).expect("a model");
    let net = model.network();
    net.forward(&mut net.new_cache(64).expect("room"), &TOKENS[..64], Want::All).expect("logits")
}

/// Relative root mean square difference.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let (difference, power): (f64, f64) =
        (a.iter().zip(b).map(|(a, b)| square(a - b)).sum(), b.iter().map(|&b| square(b)).sum());
    (difference / power).sqrt()
}

#[test]
fn a_reordered_file_is_as_good() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("x.impasto");
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let source = CheckpointWeights::new(&checkpoint);
    let original = logits(&source);
    // The reordered checkpoint itself, through the fast runtime.
    let (report, _) = encoded(&checkpoint, &path, None, Some(&STATISTICS), false);
    assert!(report.reordered.is_none());
    let usual = apart(&logits(&FileWeights::new(open(&path)).expect("assets")), &original);
    let weights = error(&source, &path, None);
    for (by, sequential) in [(ReorderBy::Activation, false), (ReorderBy::Spectral, true)] {
        let (report, reordering) = encoded(&checkpoint, &path, Some(by), Some(&STATISTICS), sequential);
        let reordered = report.reordered.expect("it was requested");
        assert_eq!((reordered.by, reordered.mlps, reordered.tensors > 6 * 3), (by, 6, true), "{reordered:?}");
        let found = error(&source, &path, reordering.as_deref());
        assert!(found < 1.3 * weights, "{by:?}: {found} {weights}");
        let found = apart(&logits(&FileWeights::new(open(&path)).expect("assets")), &original);
        println!("{by:?}: {found:.4}, usually {usual:.4}");
        assert!(found < 1.3 * usual, "{by:?}: {found} {usual}");
    }
}

/// The values of a GGUF are translated first, and then reordered.
#[test]
fn a_gguf_is_reordered_as_its_translation() {
    let folder = TempDir::new().expect("a folder");
    let (model, path) = (folder.path().join("tiny.gguf"), folder.path().join("x.impasto"));
    tiny_gguf(&model, DType::Q8_0);
    let checkpoint = Checkpoint::open(&model).expect("a GGUF");
    let (_, reordering) = encoded(&checkpoint, &path, Some(ReorderBy::Norm), None, false);
    let found = error(&CheckpointWeights::new(&checkpoint), &path, reordering.as_deref());
    assert!(found < 0.05, "{found}");
}

/// Blocks with the same weights get the same order and are stored once; one that differs in one tensor gets another, and
/// is right, too.
#[test]
fn shared_tensors_stay_right() {
    let tiny = Checkpoint::open(&tiny()).expect("tiny");
    let folder = TempDir::new().expect("a folder");
    let bytes = |name: &str| {
        let shared = name.replace("layers.1.", "layers.0.").replace("layers.2.mlp.gate", "layers.0.mlp.gate");
        tiny.bytes(tiny.tensor(&shared).expect("it"))
    };
    let tensors: Vec<_> = tiny.tensors().iter().map(|t| (TensorSpec::from(t), bytes(&t.name))).collect();
    write_safetensors(&folder.path().join("model.safetensors"), None, &tensors).expect("written");
    for asset in tiny.assets() {
        std::fs::write(folder.path().join(&asset.name), &asset.bytes).expect("an asset");
    }
    let (checkpoint, path) = (Checkpoint::open(folder.path()).expect("a model"), folder.path().join("x.impasto"));
    let (report, reordering) = encoded(&checkpoint, &path, Some(ReorderBy::Sum), None, false);
    let tied = report.tensors.iter().filter(|tensor| tensor.mode.is_none()).map(|tensor| tensor.name.as_str());
    let tied: Vec<&str> = tied.collect();
    assert!(tied.len() >= 7 && tied.iter().all(|name| name.contains("layers.1.")), "{tied:?}");
    let found = error(&CheckpointWeights::new(&checkpoint), &path, reordering.as_deref());
    assert!(found < 0.05, "{found}");
}

#[test]
fn what_restores_the_checkpoint_is_not_reordered() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("x.impasto");
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let weights = CheckpointWeights::new(&checkpoint);
    let reordering = Some(Arc::new(Reordering::new(&weights, ReorderBy::Sum, None, None).expect("an order")));
    let encode = |checkpoint: &Checkpoint, options: Options| {
        encode_calibrated(checkpoint, &path, &options, None, &|_| ControlFlow::Continue(())).expect_err("refused")
    };
    let lossless = Options { reordering: reordering.clone(), ..Options::new(Target::Lossless) };
    let layers = Layers { below: vec![Extent::BitsPerWeight(3.0)], exact: true, ..Layers::default() };
    let lossy = Options { reordering, ..Options::new(Target::BitsPerWeight(5.0)) };
    for options in [lossless, Options { layers, ..lossy.clone() }] {
        let refused = encode(&checkpoint, options);
        assert!(matches!(refused, EncodeError::ReorderExact) && refused.to_string().contains("restore the order"));
    }
    let other = crate::support::Model::single(vec![Tensor::weights("w", DType::Bf16, &[128, 128], 1)]);
    let refused = encode(&Checkpoint::open(&other.path).expect("a checkpoint"), lossy).to_string();
    assert!(refused.contains("\"model.layers.0.mlp.down_proj.weight\": the order"), "{refused}");
    assert!(!path.exists());
}
