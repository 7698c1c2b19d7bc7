//! Low-rank parts of tensors: what they save, and what is refused.

use std::ops::ControlFlow;
use std::path::Path;

use impasto::encode::{EncodeError, Extent, Layers, Options, Report, Residual, Target, Tools, encode};
use impasto::verify::verify;
use impasto::{Checkpoint, File};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::{DType, Mode, values};

use crate::support::Random;

pub const ROWS: usize = 576;
pub const COLUMNS: usize = 384;

pub fn watch(_: impasto::encode::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Writes matrices of BF16, by name, as a checkpoint.
pub fn checkpoint(folder: &Path, matrices: &[(&str, Vec<f32>)]) -> Checkpoint {
    let bytes =
        |values: &[f32]| values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>();
    let all: Vec<(TensorSpec, Vec<u8>)> = matrices
        .iter()
        .map(|(name, values)| {
            let shape = vec![(values.len() / COLUMNS) as u64, COLUMNS as u64];
            (TensorSpec::new(format!("{name}.weight"), DType::Bf16, shape), bytes(values))
        })
        .collect();
    let all: Vec<_> = all.iter().map(|(spec, bytes)| (spec.clone(), &bytes[..])).collect();
    write_safetensors(&folder.join("model.safetensors"), None, &all).expect("written");
    Checkpoint::open(folder).expect("a checkpoint")
}

/// What merging an adapter of rank 8 adds to the matrices of a model.
fn adapter(random: &mut Random) -> Vec<f32> {
    let mut noise = |n: usize, size: f32| -> Vec<f32> { (0..n).map(|_| size * random.gaussian()).collect() };
    let (down, up) = (noise(ROWS * 8, 0.02), noise(COLUMNS * 8, 0.05));
    let weight = |i: usize| (0..8).map(|k| down[i / COLUMNS * 8 + k] * up[i % COLUMNS * 8 + k]).sum();
    (0..ROWS * COLUMNS).map(weight).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut out = Vec::new();
    values::to_f32(DType::Bf16, bytes, &mut out);
    out
}

/// Returns the root mean square of the error of a tensor, relative to its weights.
pub fn error(checkpoint: &Checkpoint, file: &File, name: &str) -> f64 {
    let original = floats(checkpoint.bytes(checkpoint.tensor(name).expect("a tensor")));
    let decoded = floats(&file.tensor(name).expect("a tensor").bytes().expect("decodes"));
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let difference = square(&mut original.iter().zip(&decoded).map(|(a, b)| a - b));
    (difference / square(&mut original.iter().copied())).sqrt()
}

fn encoded(checkpoint: &Checkpoint, path: &Path, residual: Residual, options: Options) -> Report {
    encode(checkpoint, path, &Options { residual, ..options }, &watch).expect("encodes")
}

/// The difference that a merged adapter of rank 8 makes takes less than 3% of its 16-bit floats, at 1% of error.
#[test]
fn a_merged_adapter_takes_three_percent() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = Random(11);
    let matrices = ["a", "b", "c"].map(|name| (name, adapter(&mut random)));
    let checkpoint = checkpoint(folder.path(), &matrices);
    let path = folder.path().join("a.impasto");
    let own = || Options::new(Target::BitsPerWeight(0.03 * 16.0));
    let report = encoded(&checkpoint, &path, Residual::Auto, own());
    assert!(report.tensors.iter().all(|tensor| tensor.rank == 8), "{:?}", report.tensors);
    let file = File::open(&path).expect("opens");
    assert!(verify(&file).expect("reads").is_good());
    for name in ["a", "b", "c"] {
        let error = error(&checkpoint, &file, &format!("{name}.weight"));
        assert!(error < 0.01, "{name}: {error}");
    }
    let raw = 3 * 2 * ROWS * COLUMNS;
    assert!(report.summary.file_length as f64 <= 0.03 * raw as f64, "{} of {raw}", report.summary.file_length);
    // Without the part, so few bits keep next to nothing.
    encoded(&checkpoint, &path, Residual::None, own());
    let plain = error(&checkpoint, &File::open(&path).expect("opens"), "a.weight");
    assert!(plain > 0.3, "{plain}");
}

/// Rows with a mean in common have a part of rank 1, also below a refinement; noise has none. The number of threads does not
/// matter.
#[test]
fn a_mean_of_all_rows_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = Random(12);
    let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.gaussian()).collect() };
    let (plain, mean) = (noise(ROWS * COLUMNS), noise(COLUMNS));
    let shifted = plain.iter().enumerate().map(|(i, w)| w + 2.0 * mean[i % COLUMNS]).collect();
    let checkpoint = checkpoint(folder.path(), &[("noise", plain), ("shifted", shifted)]);
    let [with, without] = ["with", "without"].map(|name| folder.path().join(name));
    let layers = || Layers { below: vec![Extent::BitsPerWeight(2.5)], ..Layers::default() };
    for layers in [Layers::default(), layers()] {
        let own = |threads| {
            let (layers, tools) = (layers.clone(), Tools::NONE);
            Options { threads, layers, tools, ..Options::new(Target::BitsPerWeight(4.0)) }
        };
        let report = encoded(&checkpoint, &with, Residual::Auto, own(1));
        assert_eq!(report.tensors.iter().map(|tensor| tensor.rank).collect::<Vec<_>>(), [0, 1]);
        assert!(report.tensors.iter().all(|tensor| tensor.mode == Some(Mode::LATTICE)));
        encoded(&checkpoint, &without, Residual::Auto, own(2));
        assert!(std::fs::read(&with).expect("a file") == std::fs::read(&without).expect("a file"));
        let plain = encoded(&checkpoint, &without, Residual::None, own(2));
        // The mean has four times the square of the rest, though not in every column: about 0.8 bits of one of two tensors.
        let [fine, coarse] = [&report, &plain].map(|report| report.relative_step.expect("a step"));
        assert!(fine < 0.83 * coarse, "{fine} {coarse}");
        let file = File::open(&with).expect("opens");
        assert!(verify(&file).expect("reads").is_good());
        for name in ["noise.weight", "shifted.weight"] {
            let error = error(&checkpoint, &file, name);
            assert!(error < 0.5 * fine, "{name}: {error} at {fine}");
        }
    }
}

/// At the same step, a part of the error of rounding makes it smaller.
#[test]
fn the_error_of_rounding_is_approximated() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = Random(13);
    let noise = (0..ROWS * COLUMNS).map(|_| random.gaussian()).collect();
    let checkpoint = checkpoint(folder.path(), &[("noise", noise)]);
    let path = folder.path().join("a.impasto");
    let of = |residual| {
        let report = encoded(&checkpoint, &path, residual, Options::new(Target::BitsPerWeight(3.0)));
        let error = error(&checkpoint, &File::open(&path).expect("opens"), "noise.weight");
        (report, error / encoded_step(&path))
    };
    let (plain, of_plain) = of(Residual::None);
    let (part, of_part) = of(Residual::LowRank(20));
    assert_eq!((plain.tensors[0].rank, part.tensors[0].rank), (0, 20));
    // The 20 leading values of noise of these sides have a square of about 17% of all.
    let share = 1.0 - (of_part / of_plain).powi(2);
    assert!((0.12..0.22).contains(&share), "{share}");
    let lengths = [&plain, &part].map(|report| report.summary.file_length as f64);
    assert!((lengths[0] / lengths[1] - 1.0).abs() < 0.006, "{lengths:?}");
}

/// Returns the step of the tensor in its tensor header.
fn encoded_step(path: &Path) -> f64 {
    let file = File::open(path).expect("opens");
    let tensor = file.tensor("noise.weight").expect("a tensor");
    tensor.header().and_then(|header| header.step()).expect("a lattice").0.into()
}

#[test]
fn what_has_no_place_for_a_part_refuses_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path(), &[("noise", vec![1.0; 2 * COLUMNS])]);
    let path = folder.path().join("a.impasto");
    let below = Layers { below: vec![Extent::BitsPerWeight(2.5)], ..Layers::default() };
    let residual = Residual::LowRank(4);
    for options in [
        Options { residual, ..Options::new(Target::Lossless) },
        Options { residual, layers: below, ..Options::new(Target::BitsPerWeight(4.0)) },
    ] {
        let refused = encode(&checkpoint, &path, &options, &watch).expect_err("no place");
        assert!(matches!(refused, EncodeError::Residual), "{refused}");
        assert!(!path.exists());
    }
    for text in ["", "low-rank", "low-rank=0", "low-rank=256", "low-rank=x", "2:4"] {
        assert!(text.parse::<Residual>().is_err(), "{text}");
    }
    assert_eq!("low-rank=255".parse(), Ok(Residual::LowRank(255)));
}
