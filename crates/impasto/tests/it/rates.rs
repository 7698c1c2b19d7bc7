//! Lossy files: the requested size is met from below, and each weight is as close as the step promises.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Mutex;

use crate::support::{Model, Random, Tensor, encode_to, few_of_tiny, listing, open, special, tiny};
use impasto::Checkpoint;
use impasto::encode::{EncodeError, Extent, Layers, Options, Progress, Report, Target, encode};
use impasto_core::DType;

fn assert_met(report: &Report, bytes: f64, what: &str) {
    let length = report.summary.file_length as f64;
    assert!(length <= bytes && length >= bytes * 0.995, "{what}: {length} bytes for {bytes}");
}

#[test]
fn bits_per_weight_are_met_on_the_tiny_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    for bits in [1.5, 4.0] {
        let report = encode_to(&tiny(), &path, Target::BitsPerWeight(bits), 0).expect("encodes");
        assert_met(&report, bits * report.weights as f64 / 8.0, &format!("{bits} bits"));
        assert_eq!(fs::metadata(&path).expect("a file").len(), report.summary.file_length);
        assert!(report.relative_step.is_some_and(|step| step > 0.0));
    }
    let report = encode_to(&tiny(), &path, Target::Size(1_234_567), 0).expect("encodes");
    assert_met(&report, 1_234_567.0, "bytes");
}

#[test]
fn all_rates_are_met() {
    let model = few_of_tiny();
    for bits in [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0] {
        let report = model.encode("a.impasto", Target::BitsPerWeight(bits)).expect("encodes");
        assert_met(&report, bits * report.weights as f64 / 8.0, &format!("{bits} bits"));
    }
    for bytes in [100_000, 234_567, 330_000] {
        let report = model.encode("a.impasto", Target::Size(bytes)).expect("encodes");
        assert_met(&report, bytes as f64, &format!("{bytes} bytes"));
    }
}

/// Encodes the tiny model; returns how often each tensor was begun.
fn times_coded(options: &Options) -> Vec<usize> {
    let folder = tempfile::tempdir().expect("a folder");
    let times = Mutex::new(BTreeMap::<String, usize>::new());
    let watch = |progress: Progress| {
        if let Progress::Coding(name, ..) = progress {
            *times.lock().expect("no panic").entry(name.to_owned()).or_default() += 1;
        }
        ControlFlow::Continue(())
    };
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    encode(&checkpoint, &folder.path().join("a.impasto"), options, &watch).expect("encodes");
    times.into_inner().expect("no panic").into_values().collect()
}

/// The steps of later tensors make up for what those before missed, so that no file is coded twice.
#[test]
fn files_are_coded_once() {
    for bits in [1.5, 2.5, 4.0, 6.0] {
        let times = times_coded(&Options::new(Target::BitsPerWeight(bits)));
        assert!(!times.is_empty() && times.iter().all(|&times| times == 1), "{bits} bits: {times:?}");
    }
    for (below, exact) in [(&[2.5][..], false), (&[2.5, 3.5][..], true), (&[][..], true)] {
        let below = below.iter().map(|&bits| Extent::BitsPerWeight(bits)).collect();
        let layers = Layers { below, exact, ..Layers::default() };
        let times = times_coded(&Options { layers, ..Options::new(Target::BitsPerWeight(5.0)) });
        assert!(!times.is_empty() && times.iter().all(|&times| times == 1), "{times:?}");
    }
}

/// The shapes of a small sentence model in binary32.
fn sentence_model(dtype: DType) -> Model {
    let mut tensors = vec![Tensor::weights("embeddings.word.weight", dtype, &[1000, 384], 1)];
    for layer in 0..1 {
        let mut add = |name: &str, shape: &[u64]| {
            let seed = 10 + tensors.len() as u64;
            tensors.push(Tensor::weights(&format!("layer.{layer}.{name}"), dtype, shape, seed));
        };
        add("query.weight", &[384, 384]);
        add("query.bias", &[384]);
        add("intermediate.weight", &[1536, 384]);
        add("output.weight", &[384, 1536]);
        add("norm.weight", &[384]);
    }
    Model::single(tensors)
}

#[test]
fn bits_per_weight_are_met_in_binary32() {
    let model = sentence_model(DType::F32);
    for bits in [1.0, 2.5, 4.0, 8.0, 12.0, 16.0, 20.0] {
        let report = model.encode("a.impasto", Target::BitsPerWeight(bits)).expect("encodes");
        assert_met(&report, bits * report.weights as f64 / 8.0, &format!("{bits} bits"));
    }
}

#[test]
fn sizes_that_cannot_be_met_leave_no_file() {
    let mask =
        Tensor::floats("mask", DType::F32, &[100, 100], (0..10_000).map(|i| if i / 100 > i % 100 { 0.0 } else { 1.0 }));
    let fixed = Tensor::noise("fixed", DType::I64, &[10, 100], 2);
    let model = Model::single(vec![Tensor::weights("w", DType::Bf16, &[256, 256], 1), mask, fixed]);
    let weights = 65536.0 + 10_000.0 + 1000.0;
    let least = match model.encode("a.impasto", Target::Size(300)) {
        Err(EncodeError::TooSmall { wanted: 300, least, least_bpw }) => {
            assert!((least_bpw - least as f64 * 8.0 / weights).abs() < 1e-9);
            least
        }
        other => panic!("{other:?}"),
    };
    for (target, small) in [
        (Target::Size(0), true),
        (Target::Size(least / 2), true),
        (Target::BitsPerWeight(0.0), true),
        (Target::BitsPerWeight(-4.0), true),
        (Target::BitsPerWeight(f64::NAN), true),
        (Target::BitsPerWeight(60.0), false),
        (Target::BitsPerWeight(f64::INFINITY), false),
        (Target::Size(u64::MAX), false),
    ] {
        match (small, model.encode("a.impasto", target)) {
            (true, Err(EncodeError::TooSmall { .. })) => {}
            (false, Err(EncodeError::TooLarge { most, .. })) => {
                let report = model.encode("b.impasto", Target::Size(most * 9 / 10)).expect("below the most");
                assert_met(&report, (most * 9 / 10) as f64, "nine tenths of the most");
                fs::remove_file(model.file("b.impasto")).expect("removes");
            }
            (_, other) => panic!("{target:?}: {other:?}"),
        }
    }
    // The size that the error names as the least is about enough.
    model.encode("a.impasto", Target::Size(least + least / 4)).expect("just above the least");
    let before = fs::read(model.file("a.impasto")).expect("reads");
    model.encode("a.impasto", Target::Size(20)).expect_err("too small");
    assert!(fs::read(model.file("a.impasto")).expect("reads") == before, "the old file stays");
    let left: Vec<String> = listing(model.folder.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(left.iter().filter(|name| !name.starts_with("model/")).collect::<Vec<_>>(), ["a.impasto"]);
}

/// The forecast must not assume the raw size for buffers that compress well: a causal mask is as large as a weight
/// matrix.
#[test]
fn buffers_that_pack_well_do_not_spoil_the_forecast() {
    let mut tensors = vec![Tensor::weights("w", DType::Bf16, &[512, 512], 1)];
    tensors.push(Tensor::new("mask", DType::Bool, &[1, 1, 700, 700], vec![1; 490_000]));
    tensors.push(Tensor::floats("bias", DType::F32, &[90_000], (0..90_000).map(|i| (i % 3) as f32)));
    tensors.push(Tensor::floats("zero", DType::F32, &[400, 400], vec![0.0; 160_000]));
    let model = Model::single(tensors);
    let report = model.encode("a.impasto", Target::Size(100_000)).expect("three bits a weight");
    assert_met(&report, 100_000.0, "with buffers");
}

#[test]
fn a_model_without_weights_to_lose_says_so() {
    let model = Model::single(vec![
        Tensor::weights("norm", DType::F32, &[9000], 1),
        Tensor::noise("i", DType::I32, &[100, 100], 2),
        Tensor::floats("zero", DType::F32, &[100, 100], vec![0.0; 10_000]),
        special("odd", DType::F32),
    ]);
    let error = model.encode("a.impasto", Target::BitsPerWeight(4.0)).expect_err("nothing to lose");
    assert!(matches!(error, EncodeError::NothingLossy { .. }), "{error}");
    assert!(!model.file("a.impasto").exists());
}

#[test]
fn tensors_that_are_not_finite_stay_exact_and_are_named() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let mut nan = Tensor::weights("one.nan", dtype, &[128, 128], 2);
        let bits =
            [0x7FC0_0001u32.to_le_bytes().to_vec(), 0x7E01u16.to_le_bytes().to_vec(), 0x7FC1u16.to_le_bytes().to_vec()];
        let bits = &bits[[DType::F32, DType::F16, DType::Bf16].iter().position(|&d| d == dtype).expect("one")];
        nan.bytes[..bits.len()].copy_from_slice(bits);
        let tensors = vec![nan, special("special", dtype), Tensor::weights("w", dtype, &[256, 256], 1)];
        let model = Model::single(tensors);
        let report = model.encode("a.impasto", Target::BitsPerWeight(11.0)).expect("encodes");
        assert_eq!(report.non_finite, ["one.nan", "special"]);
        let file = open(&model.file("a.impasto"));
        for tensor in &model.tensors {
            let decoded = file.tensor(&tensor.name).expect("tensor header");
            assert_eq!(decoded.is_exact(), tensor.name != "w");
            assert_eq!(decoded.bytes().expect("units") == tensor.bytes, tensor.name != "w", "{}", tensor.name);
        }
        assert!(model.encode("a.impasto", Target::Lossless).expect("encodes").non_finite.is_empty());
    }
}

/// Checks that each weight is within one step (the encoder takes the nearest multiple or the next smaller magnitude,
/// whichever costs less), plus rounding to the dtype and in the products.
fn assert_as_promised(model: &Model, bits: f64) {
    // If the size jumps at this rate, a rate nearby is tried.
    let near = (0..12).map(|i| bits * 1.013f64.powi(i));
    let mut coded = near.map(|bits| model.encode("a.impasto", Target::BitsPerWeight(bits)));
    let missed = |r: &Result<Report, EncodeError>| matches!(r, Err(EncodeError::Missed { .. }));
    coded
        .find(|r| !missed(r))
        .unwrap_or_else(|| panic!("no rate near {bits}"))
        .unwrap_or_else(|e| panic!("{bits}: {e}"));
    let file = open(&model.file("a.impasto"));
    let mut lossy = 0;
    for tensor in &model.tensors {
        let decoded = file.tensor(&tensor.name).expect("tensor header");
        let bytes = decoded.bytes().expect("units");
        let Some(steps) = decoded.header().and_then(|header| header.steps()) else {
            assert!(bytes == tensor.bytes, "{} is exact", tensor.name);
            continue;
        };
        lossy += 1;
        let (mantissa, smallest) = match tensor.dtype {
            DType::F32 => (23, f64::from(f32::from_bits(1))),
            DType::F16 => (10, 2f64.powi(-24)),
            _ => (7, f64::from(f32::from_bits(1 << 16))),
        };
        let step = f64::from(steps.step);
        for (i, (&w, v)) in tensor.values().iter().zip(crate::support::to_values(tensor.dtype, &bytes)).enumerate() {
            let (w, v) = (f64::from(w), f64::from(v));
            let rounding = v.abs() * 0.5f64.powi(mantissa + 1) + smallest / 2.0 + w.abs() * 0.5f64.powi(22);
            assert!(v.is_finite(), "{} {bits} bits, weight {i}: {w} became {v}, step {step}", tensor.name);
            // At most half a step outward; if the nearest multiple would be infinite, the next smaller magnitude.
            let most = if v.abs() > w.abs() { step / 2.0 } else { step };
            assert!(
                (w - v).abs() <= most + rounding && (v == 0.0 || (v < 0.0) == (w < 0.0)),
                "{} {bits} bits, weight {i}: {w} became {v}, step {step}",
                tensor.name
            );
        }
    }
    assert!(lossy > 0);
}

#[test]
fn each_weight_is_within_a_step() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let shapes: [&[u64]; 5] = [&[192, 160], &[1, 9000], &[9000, 1], &[48, 40, 3], &[4, 48, 64]];
        let mut tensors: Vec<Tensor> =
            shapes.iter().enumerate().map(|(i, s)| Tensor::weights(&format!("w{i}"), dtype, s, i as u64)).collect();
        // A constant tensor, and one with a few large weights among many small ones.
        tensors.push(Tensor::floats("constant", dtype, &[80, 80], vec![0.75; 6400]));
        let mut random = Random(3);
        let outliers = (0..10_000).map(|i| random.gaussian() * if i % 999 == 0 { 300.0 } else { 0.01 });
        tensors.push(Tensor::floats("outliers", dtype, &[100, 100], outliers));
        let model = Model::single(tensors);
        for bits in [1.5, 4.0, 9.0] {
            assert_as_promised(&model, bits);
        }
    }
}

/// Rounding to the lattice must not turn a weight into infinity, nor fail for a tensor of tiny weights.
#[test]
fn the_largest_and_the_smallest_weights_are_as_promised() {
    for (dtype, largest, smallest) in [
        (DType::F32, f32::MAX, f32::from_bits(40)),
        (DType::F16, 65504.0, 2f32.powi(-20)),
        (DType::Bf16, f32::from_bits(0x7F7F_0000), f32::from_bits(40 << 16)),
    ] {
        let mut random = Random(1);
        let large: Vec<f32> = (0..90_000).map(|_| (random.gaussian() * 0.6).clamp(-1.0, 1.0) * largest).collect();
        let small: Vec<f32> = (0..90_000).map(|_| random.gaussian() * smallest).collect();
        for (name, values) in [("large", large), ("small", small)] {
            let model = Model::single(vec![Tensor::floats(name, dtype, &[300, 300], values)]);
            for bits in [2.0, 3.1, 5.0] {
                // Subnormals have fewer bits than requested.
                if name == "large" || model.encode("a.impasto", Target::BitsPerWeight(bits)).is_ok() {
                    assert_as_promised(&model, bits);
                }
            }
        }
    }
}
