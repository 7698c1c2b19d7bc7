//! Layered files from the encoder: sizes are met, the exact layer restores every bit, and bytes do not depend on
//! threads.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use crate::support::{Model, Tensor, decode, few_of_tiny, listing, open, tiny};
use impasto::encode::{EncodeError, Extent, Layers, Options, Report, Target, encode};
use impasto::{Checkpoint, Cut, File, truncate};
use impasto_core::DType;

const BITS: [f64; 3] = [2.5, 3.5, 5.0];

fn options(bits: &[f64], exact: bool) -> Options {
    let (&top, below) = bits.split_last().expect("a rate");
    let below = below.iter().map(|&bits| Extent::BitsPerWeight(bits)).collect();
    Options { layers: Layers { below, exact, ..Layers::default() }, ..Options::new(Target::BitsPerWeight(top)) }
}

fn encode_in(model: &Path, file: &Path, options: &Options) -> Result<Report, EncodeError> {
    encode(&Checkpoint::open(model).expect("a good checkpoint"), file, options, &|_| ControlFlow::Continue(()))
}

/// Returns the squared difference of all tensors from those of the checkpoint.
fn error(file: &File, checkpoint: &Checkpoint) -> f64 {
    let of_tensor = |name: &str| {
        let tensor = file.tensor(name).expect("a tensor");
        let info = checkpoint.tensor(name).expect("a tensor");
        let values = |bytes: &[u8]| crate::support::to_values(tensor.dtype(), bytes);
        let (ours, theirs) = (values(&tensor.bytes().expect("its bytes")), values(checkpoint.bytes(info)));
        ours.iter().zip(&theirs).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    file.tensor_names().map(of_tensor).sum()
}

#[test]
fn layers_of_the_tiny_model_meet_their_sizes_and_end_in_its_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    let report = encode_in(&tiny(), &path, &options(&BITS, true)).expect("encodes");
    assert_eq!(report.layers.len(), 4);
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    let mut before = f64::INFINITY;
    for (n, (layer, bits)) in (1..).zip(report.layers.iter().zip(BITS)) {
        let wanted = bits * report.weights as f64 / 8.0;
        // Lower layers end between increments, so they may be smaller.
        let least = if n == 3 { 0.995 } else { 0.9 };
        assert!(layer.bytes as f64 <= wanted && layer.bytes as f64 >= wanted * least, "{layer:?} for {wanted}");
        let cut = folder.path().join("cut.impasto");
        let summary = truncate(&open(&path), &Cut::Layer(n), &cut).expect("truncates");
        assert!(
            summary.file_length <= layer.bytes && summary.file_length + 64 >= layer.bytes,
            "{layer:?}, {summary:?}"
        );
        assert_eq!(fs::metadata(&cut).expect("a file").len(), summary.file_length);
        let now = error(&open(&cut), &checkpoint);
        assert!(now < before * 0.6, "layer {n}: {now} after {before}");
        before = now;
    }
    assert_eq!(report.layers[3].bytes, report.summary.file_length);
    let restored = folder.path().join("restored");
    decode(&open(&path), &restored, false).expect("decodes");
    assert_eq!(listing(&restored), listing(&tiny()));
}

#[test]
fn every_float_comes_back() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let mut tensors = vec![
            Tensor::weights("a.weight", dtype, &[192, 160], 1),
            Tensor::weights("b.weight", dtype, &[130, 700], 2),
            Tensor::weights("c.bias", dtype, &[160], 3),
            crate::support::special("d.special", dtype),
            Tensor::weights("e.convolution", dtype, &[48, 40, 3], 4),
            Tensor::noise("f.noise", DType::I8, &[70, 90], 5),
            Tensor::new("g.zero", dtype, &[80, 80], vec![0; 6400 * dtype.size()]),
        ];
        // Weights far from their neighbours, zeros of both signs, subnormals: values that are predicted badly.
        let size = dtype.size();
        for (at, bits) in [(0u32, 1u32), (7, 0x8000_8000), (900, 0x4100_4700), (1500, 0xC180_C701)] {
            let at = at as usize * size;
            tensors[1].bytes[at..at + size].copy_from_slice(&bits.to_le_bytes()[4 - size..]);
        }
        let model = Model::single(tensors);
        let file = model.file("a.impasto");
        // Tensors of noise, and those with non-finite values, are exact already in the base.
        encode_in(&model.path, &file, &options(&[7.0, 9.0], true)).expect("encodes");
        let restored = model.file("restored");
        decode(&open(&file), &restored, false).expect("decodes");
        assert_eq!(listing(&restored), listing(&model.path), "{dtype:?}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let model = few_of_tiny();
    let bytes = |threads: usize| {
        let path = model.file(&format!("{threads}.impasto"));
        encode_in(&model.path, &path, &Options { threads, ..options(&BITS, true) }).expect("encodes");
        fs::read(path).expect("a file")
    };
    assert!(bytes(1) == bytes(3));
}

#[test]
fn layers_that_cannot_be_leave_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    let outcome = |bits: &[f64]| encode_in(&tiny(), &path, &options(bits, false));
    assert!(matches!(outcome(&[3.5, 2.5]), Err(EncodeError::LayerOrder)));
    assert!(matches!(outcome(&[3.5, 3.5]), Err(EncodeError::LayerOrder)));
    assert!(matches!(outcome(&[0.01, 3.5]), Err(EncodeError::TooSmall { .. })));
    let many: Vec<f64> = (0..17).map(|i| 2.0 + 0.1 * f64::from(i)).collect();
    assert!(matches!(outcome(&many), Err(EncodeError::Layers { most: 16 })));
    for feedback in [-0.1, 1.1, f32::NAN] {
        let mut options = options(&[3.0, 4.0], false);
        options.layers.feedback = feedback;
        assert!(matches!(encode_in(&tiny(), &path, &options), Err(EncodeError::Layers { .. })));
    }
    assert!(matches!(outcome(&[3.5, 60.0]), Err(EncodeError::TooLarge { .. })));
    assert_eq!(listing(folder.path()), []);
}
