//! Pruned files: the decoded weights have the zeros that the pattern asks for, in every layer, for any number of threads.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use crate::reorder::{STATISTICS, TOKENS};
use crate::support::{Model, Tensor, open, tiny};
use impasto::calibrate::Calibrated;
use impasto::encode::{
    Criterion, EncodeError, Extent, Layers, Options, Pattern, Preset, Pruning, Report, Sequential, Target,
    encode_calibrated,
};
use impasto::{Checkpoint, CheckpointWeights, Cut, File, truncate};
use impasto_core::DType;

fn options(pruning: &str, bits: f64) -> Options {
    Options { pruning: Some(pruning.parse().expect("valid")), ..Options::new(Target::BitsPerWeight(bits)) }
}

/// Encodes the tiny model, with statistics.
fn encoded(path: &Path, options: &Options, sequential: bool) -> Report {
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let weights = CheckpointWeights::new(&checkpoint);
    let sequential = sequential.then_some(Sequential { weights: &weights, tokens: &TOKENS });
    let calibrated = Calibrated { statistics: &STATISTICS, sequential };
    encode_calibrated(&checkpoint, path, options, Some(&calibrated), &|_| ControlFlow::Continue(())).expect("encodes")
}

/// Asserts that at most `kept` of `of` neighbours in each row of the pruned tensors are not 0. Returns the shares of zeros
/// of these tensors.
fn zeros(file: &File, report: &Report, kept: usize, of: usize) -> Vec<f64> {
    let pruned = report.tensors.iter().filter(|tensor| tensor.zeros.is_some());
    let share = |tensor: &impasto::encode::TensorReport| {
        let coded = file.tensor(&tensor.name).expect("a tensor");
        let values = crate::support::to_values(coded.dtype(), &coded.bytes().expect("its bytes"));
        let columns = tensor.shape[tensor.shape.len() - 1] as usize;
        for (at, group) in values.chunks_exact(columns).flat_map(|row| row.chunks(of)).enumerate() {
            let count = group.iter().filter(|&&weight| weight != 0.0).count();
            assert!(count <= kept, "{}, group {at}: {group:?}", tensor.name);
        }
        values.iter().filter(|&&weight| weight == 0.0).count() as f64 / values.len() as f64
    };
    pruned.map(share).collect()
}

#[test]
fn two_of_four_are_zero_in_the_decoded_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    for (criterion, sequential) in [("magnitude", false), ("wanda", false), ("sparsegpt", true)] {
        let report = encoded(&path, &options(&format!("{criterion}:2:4"), 4.0), sequential);
        let shares = zeros(&open(&path), &report, 2, 4);
        let reported: Vec<f64> = report.tensors.iter().filter_map(|tensor| tensor.zeros).collect();
        assert_eq!(shares, reported, "the report is right");
        assert_eq!(shares.len(), 6 * 7, "all linear layers of blocks");
        assert!(shares.iter().all(|share| (0.5..0.6).contains(share)), "{criterion}: {shares:?}");
        let embedding = report.tensors.iter().find(|tensor| tensor.name.contains("embed")).expect("an embedding");
        assert!(embedding.zeros.is_none());
    }
}

#[test]
fn shares_are_as_requested_whatever_the_number_of_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    let bytes = |pruning: &str, threads: usize| {
        let report = encoded(&path, &Options { threads, ..options(pruning, 4.0) }, false);
        let share: f64 = pruning.split_once(':').expect("a share").1[..2].parse::<f64>().expect("a number") / 100.0;
        let shares = zeros(&open(&path), &report, 1, 1);
        assert!(shares.iter().all(|zeros| (share - 0.005..share + 0.08).contains(zeros)), "{pruning}: {shares:?}");
        fs::read(&path).expect("a file")
    };
    bytes("magnitude:50%", 2);
    bytes("wanda:25%", 2);
    assert!(bytes("sparsegpt:75%", 1) == bytes("sparsegpt:75%", 3));
}

#[test]
fn what_is_zero_above_is_zero_in_all_layers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, cut) = (folder.path().join("a.impasto"), folder.path().join("cut.impasto"));
    let below = vec![Extent::BitsPerWeight(2.5), Extent::BitsPerWeight(3.3)];
    let layers = Layers { below, feedback: 1.0, ..Layers::default() };
    let report = encoded(&path, &Options { layers, ..options("sparsegpt:2:4", 4.2) }, false);
    let mut before = 1.0;
    for layer in 1..=3 {
        truncate(&open(&path), &Cut::Layer(layer), &cut).expect("truncates");
        let shares = zeros(&open(&cut), &report, 2, 4);
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!(shares.len() == 6 * 7 && mean >= 0.5 && mean <= before, "{mean} after {before}");
        before = mean;
    }
}

/// Without statistics, by names.
#[test]
fn tensors_that_are_named_are_pruned() {
    let tensors = ["a.embed_tokens.weight", "a.up.weight", "a.down.weight"];
    let model = Model::single(
        tensors.iter().zip(1..).map(|(name, n)| Tensor::weights(name, DType::Bf16, &[96, 80], n)).collect(),
    );
    let checkpoint = Checkpoint::open(&model.path).expect("a checkpoint");
    let path = model.file("a.impasto");
    let encode =
        |options: &Options| encode_calibrated(&checkpoint, &path, options, None, &|_| ControlFlow::Continue(()));
    let pruned = |names: &[&str]| {
        let tensors = names.iter().map(|&name| name.to_owned()).collect();
        let pruning = Pruning { tensors, ..("magnitude:3:5".parse().expect("valid")) };
        let report = encode(&Options { pruning: Some(pruning), ..Options::new(Target::BitsPerWeight(6.0)) })?;
        assert_eq!(
            zeros(&open(&path), &report, 3, 5).len(),
            report.tensors.iter().filter(|t| t.zeros.is_some()).count()
        );
        Ok(report.tensors.into_iter().filter(|t| t.zeros.is_some()).map(|t| t.name).collect::<Vec<_>>())
    };
    assert_eq!(pruned(&[]).expect("encodes"), ["a.down.weight", "a.up.weight"]);
    assert_eq!(pruned(&["*.up.*", "*embed*"]).expect("encodes"), ["a.embed_tokens.weight", "a.up.weight"]);
    let refused: Result<_, EncodeError> = pruned(&["*.up.*", "x*"]);
    assert!(refused.expect_err("no such name").to_string().contains("matches x*, so there is nothing to prune"));
}

#[test]
fn what_cannot_be_pruned_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let refused = |options: &Options| {
        encode_calibrated(&checkpoint, &path, options, None, &|_| ControlFlow::Continue(())).expect_err("refused")
    };
    let layers = Layers { below: vec![Extent::BitsPerWeight(3.0)], exact: true, ..Layers::default() };
    let magnitude = options("magnitude:2:4", 5.0);
    for options in [
        Options { target: Target::Lossless, ..magnitude.clone() },
        Options { layers, ..magnitude.clone() },
        Options { preset: Preset::Jpeg, ..magnitude },
    ] {
        assert!(matches!(refused(&options), EncodeError::PruneExact));
    }
    for pattern in [Pattern::Share(1.5), Pattern::Share(f64::NAN), Pattern::Groups { kept: 0, of: 0 }] {
        let pruning = Pruning { criterion: Criterion::Magnitude, pattern, tensors: vec![] };
        let refused = refused(&Options { pruning: Some(pruning), ..Options::new(Target::BitsPerWeight(5.0)) });
        assert!(matches!(refused, EncodeError::PrunePattern { .. }), "{refused}");
    }
    let unmeasured = refused(&options("wanda:2:4", 5.0));
    assert!(unmeasured.to_string().contains("pruning by wanda needs calibration"), "{unmeasured}");
    assert!(!path.exists());
}
