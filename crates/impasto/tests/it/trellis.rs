//! Files whose integers are on a trellis.

use impasto::encode::{
    EncodeError, Extent, Layers, Options, Preset, Pruning, Report, Residual, Target, Trellis, encode,
};
use impasto::verify::verify;
use impasto::{Checkpoint, Cut, File};
use impasto_core::Mode;

use crate::low_rank::{COLUMNS, ROWS, checkpoint, error, watch};
use crate::support::Random;

fn noise(folder: &std::path::Path) -> Checkpoint {
    let mut random = Random(21);
    checkpoint(folder, &[("noise", (0..ROWS * COLUMNS).map(|_| random.gaussian()).collect())])
}

/// Of Gaussian noise, a file of the same size has less error: by 0.1 bits at least, each 6.02 dB. The more states, the less. The
/// size is met, and the number of threads and of segments does not matter.
#[test]
fn errors_are_smaller_at_the_same_size() {
    let folder = tempfile::tempdir().expect("a folder");
    let (checkpoint, path) = (noise(folder.path()), folder.path().join("noise.impasto"));
    let encoded = |trellis: Option<Trellis>, bits: f64, threads, segments| -> (Report, f64, Vec<u8>) {
        let target = Target::BitsPerWeight(bits);
        let options = Options { trellis, threads, segments, residual: Residual::None, ..Options::new(target) };
        let report = encode(&checkpoint, &path, &options, &watch).expect("encodes");
        let file = File::open(&path).expect("opens");
        assert!(verify(&file).expect("reads").is_good());
        let header = file.tensor("noise.weight").expect("a tensor").header().cloned().expect("on the lattice");
        assert_eq!(header.trellis(), trellis);
        let error = error(&checkpoint, &file, "noise.weight");
        (report, error, std::fs::read(&path).expect("a file"))
    };
    for bits in [2.0, 4.0] {
        let (_, plain, _) = encoded(None, bits, 1, 1);
        let mut last = plain;
        for (log_states, gain) in [(2, 0.1), (3, 0.12), (5, 0.13)] {
            let (report, error, bytes) = encoded(Trellis::new(log_states), bits, 1, 1);
            assert!((plain / error).log2() > gain, "{bits}, {log_states}: {}", (plain / error).log2());
            assert!(error < last, "{error} {last}");
            last = error;
            assert_eq!(report.tensors[0].mode, Some(Mode::LATTICE));
            let (_, same, again) = encoded(Trellis::new(log_states), bits, 3, 1);
            assert!(same == error && bytes == again, "threads");
        }
    }
    let (_, error, _) = encoded(Trellis::new(3), 3.0, 2, 5);
    let (_, plain, _) = encoded(None, 3.0, 2, 5);
    assert!(error < plain, "with segments");
}

/// Layers on a trellis: the base has less error than without one at the same size, the top no more, and the exact layer restores the
/// checkpoint. The number of threads does not matter.
#[test]
fn layers_gain() {
    let folder = tempfile::tempdir().expect("a folder");
    let (checkpoint, path) = (noise(folder.path()), folder.path().join("noise.impasto"));
    let encoded = |trellis: Option<Trellis>, exact, threads| {
        let below = vec![Extent::BitsPerWeight(2.0), Extent::BitsPerWeight(3.0)];
        let layers = Layers { below, exact, ..Layers::default() };
        let target = Target::BitsPerWeight(4.0);
        let options = Options { trellis, layers, threads, residual: Residual::None, ..Options::new(target) };
        let report = encode(&checkpoint, &path, &options, &watch).expect("encodes");
        let file = File::open(&path).expect("opens");
        assert!(verify(&file).expect("reads").is_good());
        let header = file.tensor("noise.weight").expect("a tensor").header().cloned().expect("on the lattice");
        assert_eq!(header.trellis(), trellis);
        let bytes = std::fs::read(&path).expect("a file");
        let errors = (1..).zip(&report.layers).map(|(number, layer)| {
            let mut file = File::open(&path).expect("opens");
            file.cut(&Cut::Layer(number)).expect("a layer");
            let error = error(&checkpoint, &file, "noise.weight");
            // As if layers were equally large: a bit halves the error.
            error * (layer.bytes as f64 * 8.0 / (ROWS * COLUMNS) as f64).exp2()
        });
        (errors.collect::<Vec<f64>>(), bytes)
    };
    let (plain, _) = encoded(None, false, 1);
    let (found, bytes) = encoded(Trellis::new(3), false, 1);
    let gains: Vec<f64> = plain.iter().zip(&found).map(|(plain, found)| (plain / found).log2()).collect();
    // Without correlated inputs the top costs what it gains. The layer between ends within a refinement of few units.
    assert!(gains[0] > 0.02 && gains[2] > -0.03, "{gains:?}");
    assert!(bytes == encoded(Trellis::new(3), false, 3).1, "threads");
    let (found, _) = encoded(Trellis::new(3), true, 1);
    assert_eq!((found.len(), found[3]), (4, 0.0));
}

#[test]
fn a_trellis_is_refused_where_it_has_no_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let (checkpoint, path) = (noise(folder.path()), folder.path().join("noise.impasto"));
    let own = |bits| Options { trellis: Trellis::new(3), ..Options::new(Target::BitsPerWeight(bits)) };
    let pruning: Pruning = "magnitude:2:4".parse().expect("valid");
    let refused = [
        Options { target: Target::Lossless, ..own(3.0) },
        Options { preset: Preset::Jpeg, ..own(4.0) },
        Options { pruning: Some(pruning), ..own(4.0) },
    ];
    for options in refused {
        let found = encode(&checkpoint, &path, &options, &watch);
        assert!(matches!(found, Err(EncodeError::Trellis)), "{options:?}: {found:?}");
    }
}

#[test]
fn widths_are_refused_where_there_are_none_or_several() {
    let folder = tempfile::tempdir().expect("a folder");
    let (checkpoint, path) = (noise(folder.path()), folder.path().join("noise.impasto"));
    let own = |target| Options { fit_widths: true, ..Options::new(target) };
    let bits = Target::BitsPerWeight(4.0);
    let layers = Layers { below: vec![Extent::BitsPerWeight(2.0)], ..Layers::default() };
    let refused = [
        own(Target::Lossless),
        Options { layers, ..own(bits) },
        Options { trellis: Trellis::new(3), ..own(bits) },
        Options { preset: Preset::Jpeg, ..own(bits) },
    ];
    for options in refused {
        let error = encode(&checkpoint, &path, &options, &watch).expect_err("refused");
        assert!(matches!(error, EncodeError::Widths), "{error}");
    }
}
