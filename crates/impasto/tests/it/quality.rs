//! Files whose target is a KL divergence: what is measured is what the file has.

use std::ops::ControlFlow;
use std::path::Path;

use crate::support::{Tensor, few_of_tiny, listing, open, tiny};
use impasto::encode::{
    EncodeError, Extent, Judge, Judged, Layers, Options, Preset, Report, Target, encode, encode_to_quality,
};
use impasto::run::{CausalLm, Decoder, DecoderConfig, Failure, Want, WeightSource};
use impasto::{Checkpoint, CheckpointWeights, FileWeights};
use impasto_core::DType;
use impasto_eval::row_divergences;

const TOKENS: [u32; 40] = {
    let mut tokens = [0; 40];
    let mut i = 0;
    while i < 40 {
        tokens[i] = (i * i * 31 % 199) as u32 + 7;
        i += 1;
    }
    tokens
};

fn logits(source: &dyn WeightSource) -> Result<(Vec<f32>, usize), Failure> {
    let config = DecoderConfig::from_json(&source.asset("config.json").ok_or("no config.json")?)?;
    let model = Decoder::load(source, config, 1)?;
    Ok((model.forward(&mut model.new_cache(TOKENS.len())?, &TOKENS, Want::All)?, model.vocab_size()))
}

/// The mean divergence of a source from the checkpoint.
fn divergence(original: &[f32], source: &dyn WeightSource) -> Result<Judged, Failure> {
    let (logits, vocab) = logits(source)?;
    let all = row_divergences(original, &logits, vocab)?;
    let (mean, error) = (impasto_eval::Estimate::mean(&all).value, impasto_eval::Estimate::mean(&all).error);
    Ok(Judged { kld: mean, error, tokens: all.len() })
}

fn encode_tiny(path: &Path, options: &Options) -> Result<Report, EncodeError> {
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    let weights = CheckpointWeights::new(&checkpoint);
    let (original, _) = logits(&weights).expect("runs");
    let measure = |source: &dyn WeightSource| divergence(&original, source);
    let judge = Judge { weights: &weights, measure: &measure };
    encode_to_quality(&checkpoint, path, options, None, judge, &|_| ControlFlow::Continue(()))
}

#[test]
fn the_file_has_the_quality_that_was_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    let (original, _) = logits(&CheckpointWeights::new(&checkpoint)).expect("runs");
    let mut before = 0;
    for target in [0.3, 0.05, 0.004] {
        let report = encode_tiny(&path, &Options::new(Target::Kld(target))).expect("encodes");
        let quality = report.quality.expect("a quality");
        assert_eq!((quality.target, quality.reached.tokens), (target, TOKENS.len()));
        assert!(quality.reached.kld <= target && quality.reached.kld > target * 0.8, "{quality:?}");
        assert!(quality.tries <= 8, "{quality:?}");
        let measured = divergence(&original, &FileWeights::new(open(&path)).expect("weights")).expect("runs");
        assert!((measured.kld / quality.reached.kld - 1.0).abs() < 1e-9, "{measured:?} {quality:?}");
        assert!(report.summary.file_length > before, "the better, the larger");
        before = report.summary.file_length;
    }
}

#[test]
fn what_cannot_be_reached_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    let refused = |options: Options| match encode_tiny(&path, &options) {
        Err(EncodeError::Quality(why)) => why,
        other => panic!("{other:?}"),
    };
    let options = || Options::new(Target::Kld(0.05));
    let below = vec![Extent::BitsPerWeight(2.0)];
    refused(Options { layers: Layers { below, ..Layers::default() }, ..options() });
    refused(Options { preset: Preset::Jpeg, ..options() });
    for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(Options::new(Target::Kld(odd)));
    }
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    let without = encode(&checkpoint, &path, &options(), &|_| ControlFlow::Continue(()));
    assert!(matches!(without, Err(EncodeError::Quality(_))), "{without:?}");

    // A measure that never falls, one that fails, and a watcher that ends the search.
    let weights = CheckpointWeights::new(&checkpoint);
    let encode_with = |measure: &(dyn Fn(&dyn WeightSource) -> Result<Judged, Failure> + Sync), left: usize| {
        let left = std::sync::atomic::AtomicUsize::new(left);
        let watch = |_: impasto::encode::Progress| match left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        encode_to_quality(&checkpoint, &path, &options(), None, Judge { weights: &weights, measure }, &watch)
    };
    let bad = |_: &dyn WeightSource| Ok(Judged { kld: 1.0, error: 0.0, tokens: 1 });
    assert!(matches!(encode_with(&bad, 1 << 40), Err(EncodeError::TooGood { least: 1.0, .. })));
    let fails = |_: &dyn WeightSource| Err("no network".into());
    assert!(matches!(encode_with(&fails, 1 << 40), Err(EncodeError::Judge(_))));
    assert!(matches!(encode_with(&bad, 1), Err(EncodeError::Cancelled)));
    assert!(listing(folder.path()).is_empty());
}

/// A measure that depends on one number, the error of a tensor, is met in few tries; tied tensors and those that are kept are
/// asked for too.
#[test]
fn few_tries() {
    let model = few_of_tiny();
    let checkpoint = Checkpoint::open(&model.path).expect("a checkpoint");
    let weights = CheckpointWeights::new(&checkpoint);
    let name = model.tensors.iter().max_by_key(|tensor: &&Tensor| tensor.elements()).expect("one").name.clone();
    assert!(model.tensors.iter().any(|tensor| tensor.dtype == DType::F32 || tensor.dtype == DType::Bf16));
    let exact = weights.load_f32(&name).expect("weights");
    let tries = std::sync::atomic::AtomicUsize::new(0);
    let measure = |source: &dyn WeightSource| {
        tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let coded = source.load_f32(&name)?;
        let error: f64 = coded.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let size: f64 = exact.iter().map(|&x| f64::from(x).powi(2)).sum();
        Ok(Judged { kld: error / size, error: 0.0, tokens: 1 })
    };
    let judge = Judge { weights: &weights, measure: &measure };
    let path = model.file("a.impasto");
    for target in [0.1, 1e-3, 1e-5] {
        let before = tries.load(std::sync::atomic::Ordering::Relaxed);
        let options = Options::new(Target::Kld(target));
        let report = encode_to_quality(&checkpoint, &path, &options, None, judge, &|_| ControlFlow::Continue(()));
        let quality = report.expect("encodes").quality.expect("a quality");
        assert_eq!(tries.load(std::sync::atomic::Ordering::Relaxed) - before, quality.tries);
        assert!(quality.tries <= 6 && quality.reached.kld <= target && quality.reached.kld >= 0.97 * target);
    }
}
