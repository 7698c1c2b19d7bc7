//! GGUF files in block types: what is written is what any reader finds, whatever the form of the model.
//!
//! `IMPASTO_PYTHON` is an interpreter with the packages numpy and gguf; without it, one test is skipped with a message, or fails if
//! `IMPASTO_REQUIRE_PYTHON=1`.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use impasto_checkpoint::gguf::Metadata;
use impasto_checkpoint::{Checkpoint, TensorSpec, write_gguf, write_safetensors};
use impasto_core::{DType, values};
use impasto_encode::{EncodeError, GgufMix, QuantizeOptions, QuantizeReport, quantize};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny");

fn to_gguf(model: &Path, path: &Path, mix: GgufMix, threads: usize) -> Result<QuantizeReport, EncodeError> {
    let options = QuantizeOptions { mix, threads, memory_limit: None };
    quantize(&Checkpoint::open(model).expect("a model"), path, &options, None, &|_| ControlFlow::Continue(()))
}

/// A GGUF of one matrix, `blk.0.attn_q.weight`.
fn one_matrix(path: &Path, dtype: DType, rows: usize, weights: &[f32]) {
    let bytes: Vec<u8> = match dtype {
        DType::F16 => weights.iter().flat_map(|&w| half::f16::from_f32(w).to_le_bytes()).collect(),
        _ => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
    };
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama");
    let spec = TensorSpec::new("blk.0.attn_q.weight", dtype, [rows as u64, (weights.len() / rows) as u64]);
    write_gguf(path, &metadata, &[(spec, &bytes)]).expect("a GGUF");
}

fn weights(path: &Path, name: &str) -> (DType, Vec<f32>) {
    let checkpoint = Checkpoint::open(path).expect("a GGUF");
    let info = checkpoint.tensor(name).expect("a tensor");
    let mut weights = Vec::new();
    assert!(values::to_f32(info.dtype, checkpoint.bytes(info), &mut weights), "{name}");
    (info.dtype, weights)
}

#[test]
fn the_same_file_from_a_folder_and_a_gguf_on_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, again, other] = ["m.gguf", "again/m.gguf", "other/m.gguf"].map(|name| folder.path().join(name));
    let report = to_gguf(TINY.as_ref(), &first, GgufMix::Q4KM, 1).expect("a GGUF");
    assert_eq!(report.bytes, fs::metadata(&first).expect("a file").len());
    assert!(report.tensors.iter().any(|tensor| tensor.dtype == DType::Q4K && tensor.error.is_some_and(|e| e > 0.0)));
    to_gguf(TINY.as_ref(), &again, GgufMix::Q4KM, 3).expect("a GGUF");
    assert!(fs::read(&first).expect("bytes") == fs::read(&again).expect("bytes"));

    // The same model with the names and rows of a GGUF: exactly, as blocks of 16-bit floats are.
    let exact = folder.path().join("exact.gguf");
    let checkpoint = Checkpoint::open(&first).expect("a GGUF");
    let floats: Vec<(TensorSpec, Vec<u8>)> = checkpoint
        .tensors()
        .iter()
        .map(|info| {
            let (_, weights) = weights(&first, &info.name);
            (
                TensorSpec::new(info.name.clone(), DType::F32, info.shape.clone()),
                weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
            )
        })
        .collect();
    let given: Vec<(TensorSpec, &[u8])> = floats.iter().map(|(spec, bytes)| (spec.clone(), &bytes[..])).collect();
    write_gguf(&exact, checkpoint.metadata().expect("metadata"), &given).expect("a GGUF");
    let report = to_gguf(&exact, &other, GgufMix::Q8_0, 2).expect("a GGUF");
    let made = Checkpoint::open(&other).expect("a GGUF");
    assert_eq!(made.metadata().and_then(|metadata| metadata.u64("general.file_type")), Some(7));
    assert_eq!(made.tensors().len(), checkpoint.tensors().len());
    // The root mean square of errors is less than half a step of 8 bits.
    for tensor in report.tensors {
        let (found, original) = (weights(&other, &tensor.name).1, weights(&exact, &tensor.name).1);
        for (found, original) in found.chunks(32).zip(original.chunks(32)) {
            let largest = original.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            let square: f32 = found.iter().zip(original).map(|(a, b)| (a - b) * (a - b)).sum();
            assert!((square / 32.0).sqrt() <= largest / 254.0, "{}: {square} of {largest}", tensor.name);
        }
    }
}

#[test]
fn odd_widths_and_zeros_have_a_sound_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, path) = (folder.path().join("m.gguf"), folder.path().join("q.gguf"));
    for (columns, wanted) in [(256, DType::Q4K), (96, DType::Q5_0), (40, DType::F16)] {
        let given: Vec<f32> = (0..3 * columns).map(|i| if i < columns { 0.0 } else { (i % 13) as f32 - 6.0 }).collect();
        for dtype in [DType::F32, DType::F16] {
            one_matrix(&model, dtype, 3, &given);
            to_gguf(&model, &path, GgufMix::Q4KM, 1).expect("a GGUF");
            let (found, weights) = weights(&path, "blk.0.attn_q.weight");
            assert_eq!(found, wanted);
            let off = weights.iter().zip(&given).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(off < 0.5, "{columns}: {off}");
            assert!(weights[..columns].iter().all(|&w| w == 0.0), "zeros stay");
        }
    }
}

#[test]
fn what_blocks_cannot_hold_is_an_error_and_the_old_file_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, path) = (folder.path().join("m.gguf"), folder.path().join("q.gguf"));
    fs::write(&path, "old").expect("writes");
    for (weight, says) in [(f32::NAN, "NaN or infinity"), (f32::NEG_INFINITY, "NaN or infinity"), (1e6, "above 65504")]
    {
        for columns in [256, 40] {
            let mut given = vec![0.5; 2 * columns];
            given[columns + 7] = weight;
            one_matrix(&model, DType::F32, 2, &given);
            let error = to_gguf(&model, &path, GgufMix::Q4KM, 1).expect_err("an error").to_string();
            assert!(error.contains("blk.0.attn_q.weight") && error.contains(says), "{error}");
        }
    }
    let error = to_gguf(&model, &model, GgufMix::Q4KM, 1).expect_err("an error");
    assert!(matches!(error, EncodeError::OverInput(_)), "{error}");
    // A model without a configuration has no names in a GGUF.
    let bare = folder.path().join("bare.safetensors");
    write_safetensors(&bare, None, &[(TensorSpec::new("a.weight", DType::F32, [2, 32]), &[0; 256])]).expect("a file");
    let error = to_gguf(&bare, &path, GgufMix::Q4KM, 1).expect_err("an error").to_string();
    assert!(error.contains("config.json"), "{error}");
    let options = QuantizeOptions { mix: GgufMix::Q4KM, threads: 1, memory_limit: Some(1000) };
    let tiny = Checkpoint::open(TINY.as_ref()).expect("a model");
    let watch = |_: impasto_encode::Progress| ControlFlow::Continue(());
    let error = quantize(&tiny, &path, &options, None, &watch).expect_err("an error");
    assert!(matches!(error, EncodeError::TensorMemory { .. }), "{error}");
    let options = QuantizeOptions { memory_limit: None, ..options };
    let error = quantize(&tiny, &path, &options, None, &|_| ControlFlow::Break(())).expect_err("an error");
    assert!(matches!(error, EncodeError::Cancelled), "{error}");
    assert_eq!(fs::read(&path).expect("bytes"), b"old");
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// The Python package finds the same weights in a file of each type.
#[test]
fn the_package_gguf_reads_every_type() {
    let program = std::env::var_os("IMPASTO_PYTHON");
    let usable = program.filter(|program| {
        let output = Command::new(program).args(["-c", "import numpy, gguf.quants"]).output();
        output.is_ok_and(|output| output.status.success())
    });
    let Some(program) = usable else {
        let required = std::env::var("IMPASTO_REQUIRE_PYTHON").is_ok_and(|value| value == "1");
        assert!(!required, "IMPASTO_PYTHON names no Python with the packages numpy and gguf");
        println!("SKIPPED: set IMPASTO_PYTHON to a Python with the packages numpy and gguf");
        return;
    };
    let script = "import sys, gguf, gguf.quants as q\nfor path in sys.argv[1:]:\n    for t in gguf.GGUFReader(path).tensors:\n        \
                  q.dequantize(t.data, t.tensor_type).astype('<f4').tofile(f'{path}.{t.name}')\n";
    let folder = tempfile::tempdir().expect("a folder");
    let paths: Vec<_> = GgufMix::ALL.iter().map(|mix| folder.path().join(mix.name())).collect();
    for (mix, path) in GgufMix::ALL.into_iter().zip(&paths) {
        let model = folder.path().join("m.gguf");
        one_matrix(
            &model,
            DType::F32,
            40,
            &(0..40 * 512).map(|i| ((i * i) % 1009) as f32 / 504.0 - 1.0).collect::<Vec<_>>(),
        );
        to_gguf(&model, path, mix, 1).expect("a GGUF");
    }
    let output = Command::new(program).args(["-B", "-c", script]).args(&paths).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for path in paths {
        let (dtype, found) = weights(&path, "blk.0.attn_q.weight");
        let theirs = fs::read(format!("{}.blk.0.attn_q.weight", path.display())).expect("weights");
        assert!(dtype.is_block() && found.iter().flat_map(|w| w.to_le_bytes()).eq(theirs), "{dtype:?}");
    }
}
