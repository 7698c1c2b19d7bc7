//! Calibration, end to end: statistics of the tiny model on one text improve a file, as measured on another text.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;

use crate::support::{Tensor, open, tiny};
use impasto::calibrate::{CalibrateOptions, Calibrated, Statistics, calibrate};
use impasto::encode::{EncodeError, Options, Sequential, Target, encode_calibrated};
use impasto::{Checkpoint, CheckpointWeights, FileWeights};
use impasto_eval::{EvalOptions, EvalText, kld};
use impasto_model::WeightSource;
use impasto_runtime::{Model, RunOptions};
use tempfile::TempDir;

/// Homogeneous, so that its beginning can be used for calibration and its end for measurement.
const TEXT: &str = include_str!("../../../../assets/calibration/text.txt");
/// Length of the end that is measured, in characters.
const MEASURED: usize = 9_000;

fn model(source: &dyn WeightSource) -> Model {
    Model::load(source, &RunOptions::float()).expect("a model")
}

/// Statistics of the beginning of the text.
static STATISTICS: LazyLock<Statistics> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a folder");
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let tiny = model(&CheckpointWeights::new(&checkpoint));
    let mut tokens = tiny.tokenizer().expect("a tokenizer").encode(TEXT, true).expect("tokens");
    tokens.truncate(2048);
    let path = folder.path().join("statistics.safetensors");
    let hash = blake3::hash(TEXT.as_bytes());
    let options = CalibrateOptions { window: 256, ..CalibrateOptions::default() };
    let weights = CheckpointWeights::new(&checkpoint);
    let info = calibrate(&checkpoint, &weights, &tokens, &options, &hash, &path, &mut |_| ControlFlow::Continue(()))
        .expect("statistics");
    assert_eq!((info.tokens, info.held_back_tokens, info.linears.len()), (2048, 256, 6 * 7 + 1));
    assert!(info.linears.values().all(|linear| linear.sensitivity > 0.0));
    Statistics::open(&path).expect("what was written")
});

fn encoded(path: &Path, bits: f64, threads: usize, statistics: Option<&Statistics>) -> Result<Vec<u8>, EncodeError> {
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let options = Options { threads, ..Options::new(Target::BitsPerWeight(bits)) };
    let calibrated = statistics.map(|statistics| Calibrated { statistics, sequential: None });
    encode_calibrated(&checkpoint, path, &options, calibrated.as_ref(), &|_| ControlFlow::Continue(()))?;
    Ok(fs::read(path).expect("a file"))
}

#[test]
fn calibrated_files_are_better_and_the_same_for_any_threads() {
    let folder = TempDir::new().expect("a folder");
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let original = model(&CheckpointWeights::new(&checkpoint));
    let end = TEXT.char_indices().nth_back(MEASURED).map_or(TEXT, |(at, _)| &TEXT[at..]);
    let text = EvalText::new(original.tokenizer().expect("a tokenizer"), end).expect("tokens");
    let path = folder.path().join("x.impasto");
    let divergence = |statistics: Option<&Statistics>| {
        let bytes = encoded(&path, 4.5, 0, statistics).expect("encodes");
        let file = open(&path);
        let coded = model(&FileWeights::new(file).expect("assets"));
        let options = EvalOptions { ctx: 256, ..EvalOptions::default() };
        let divergence = kld(original.network(), coded.network(), &text, &options, &mut |_| ());
        (divergence.expect("scores").mean.value, bytes)
    };
    let ((plain, _), (calibrated, bytes)) = (divergence(None), divergence(Some(&STATISTICS)));
    println!("KLD at 4.5 bits: {plain:.4} without, {calibrated:.4} with statistics");
    assert!(calibrated < 0.6 * plain, "{calibrated} against {plain}");

    assert!(bytes == encoded(&path, 4.5, 1, Some(&STATISTICS)).expect("encodes"));
}

/// Error feedback pays in formats, too; the most fragile tensors have a format of their own; and the inputs of blocks may come
/// from coded blocks.
#[test]
fn calibrated_formats_are_better() {
    let folder = TempDir::new().expect("a folder");
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let weights = CheckpointWeights::new(&checkpoint);
    let original = model(&weights);
    let end = TEXT.char_indices().nth_back(MEASURED).map_or(TEXT, |(at, _)| &TEXT[at..]);
    let text = EvalText::new(original.tokenizer().expect("a tokenizer"), end).expect("tokens");
    let path = folder.path().join("x.impasto");
    let encode = |options: &Options, calibrated: Option<&Calibrated>| {
        encode_calibrated(&checkpoint, &path, options, calibrated, &|_| ControlFlow::Continue(())).expect("encodes")
    };
    let divergence = || {
        let coded = model(&FileWeights::new(open(&path)).expect("assets"));
        let options = EvalOptions { ctx: 256, ..EvalOptions::default() };
        kld(original.network(), coded.network(), &text, &options, &mut |_| ()).expect("scores").mean.value
    };
    let mut options = Options { formats: "mxfp4".parse().expect("a format"), ..Options::new(Target::Formats) };
    let calibrated = Calibrated { statistics: &STATISTICS, sequential: None };
    encode(&options, None);
    let plain = divergence();
    let report = encode(&options, Some(&calibrated));
    let better = divergence();
    println!("KLD in MXFP4: {plain:.4} without, {better:.4} with statistics");
    assert!(better < 0.85 * plain, "{better} against {plain}");
    assert_eq!(report.relative_step, None);

    options.formats.fragile = Some(impasto::Format::Fp8E4M3);
    let report = encode(&options, Some(&calibrated));
    let fragile = divergence();
    assert!(fragile < better, "{fragile} against {better}");
    let of = |wanted: Option<impasto::Format>| {
        let found = report
            .tensors
            .iter()
            .filter(|tensor| tensor.format.is_some() && wanted.is_none_or(|w| tensor.format == Some(w)));
        found.map(|tensor| tensor.shape.iter().product::<u64>()).sum::<u64>() as f64
    };
    let share = of(Some(impasto::Format::Fp8E4M3)) / of(None);
    assert!(share > 0.0 && share < 0.15, "{share} of the linear layers are fragile");

    let tokens = original.tokenizer().expect("a tokenizer").encode(TEXT, true).expect("tokens");
    let sequential = Some(Sequential { weights: &weights, tokens: &tokens });
    encode(&options, Some(&Calibrated { statistics: &STATISTICS, sequential }));
    let drifted = divergence();
    assert!(drifted < plain, "{drifted} against {plain}");
}

#[test]
fn statistics_of_another_model_are_refused() {
    let folder = TempDir::new().expect("a folder");
    let other = crate::support::Model::single(vec![Tensor::weights("w", impasto_core::DType::Bf16, &[128, 128], 1)]);
    let checkpoint = Checkpoint::open(&other.path).expect("a checkpoint");
    let options = Options::new(Target::BitsPerWeight(8.0));
    let path = folder.path().join("x.impasto");
    let calibrated = Calibrated { statistics: &STATISTICS, sequential: None };
    let refused = encode_calibrated(&checkpoint, &path, &options, Some(&calibrated), &|_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(EncodeError::OtherModel { .. })));
    let shown = Statistics::open(&tiny()).err().expect("no statistics").to_string();
    assert!(shown.contains("info"), "{shown}");
}
