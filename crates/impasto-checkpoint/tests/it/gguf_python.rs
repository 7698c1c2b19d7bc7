//! The Python package gguf reads what this crate writes, and vice versa.
//!
//! `IMPASTO_PYTHON` is an interpreter with the package; without it, the tests are skipped with a message, or fail if
//! `IMPASTO_REQUIRE_PYTHON=1`. `IMPASTO_MODELS` is a folder with real models.

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use impasto_checkpoint::gguf::{Array, Metadata, Value};
use impasto_checkpoint::{Checkpoint, Opaque, TensorInfo, TensorSpec, write_gguf};
use impasto_core::DType;

/// Returns the interpreter, if there is one.
fn python() -> Option<PathBuf> {
    let found = env::var_os("IMPASTO_PYTHON").map(PathBuf::from);
    let has_package = |program: &PathBuf| {
        let result = Command::new(program).args(["-c", "import gguf"]).output();
        result.is_ok_and(|output| output.status.success())
    };
    let usable = found.filter(has_package);
    if usable.is_none() {
        let required = env::var("IMPASTO_REQUIRE_PYTHON").is_ok_and(|value| value == "1");
        assert!(!required, "IMPASTO_PYTHON names no Python with the package gguf");
        println!("SKIPPED: set IMPASTO_PYTHON to a Python with the package gguf");
    }
    usable
}

/// Runs `tests/gguf_package.py` and returns its output.
fn run(python: &Path, command: &str, path: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf_package.py");
    let output = Command::new(python).arg("-B").arg(script).arg(command).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Formats a value as its type and the hexadecimal digits of its bytes.
fn shown(value: &Value) -> String {
    let digits = match value {
        Value::U8(n) => hex(n.to_le_bytes()),
        Value::I8(n) => hex(n.to_le_bytes()),
        Value::U16(n) => hex(n.to_le_bytes()),
        Value::I16(n) => hex(n.to_le_bytes()),
        Value::U32(n) => hex(n.to_le_bytes()),
        Value::I32(n) => hex(n.to_le_bytes()),
        Value::F32(x) => hex(x.to_le_bytes()),
        Value::U64(n) => hex(n.to_le_bytes()),
        Value::I64(n) => hex(n.to_le_bytes()),
        Value::F64(x) => hex(x.to_le_bytes()),
        Value::Bool(truth) => hex([u8::from(*truth)]),
        Value::String(bytes) => hex(bytes),
        Value::Array(array) => {
            return format!("9 {} {} {}", array.element_type() as u32, array.len(), shown_all(array));
        }
    };
    format!("{} {digits}", value.value_type() as u32)
}

fn shown_all(array: &Array) -> String {
    let digits: Vec<String> = match array {
        Array::U8(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::I8(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::U16(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::I16(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::U32(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::I32(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::F32(list) => list.iter().map(|x| hex(x.to_le_bytes())).collect(),
        Array::U64(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::I64(list) => list.iter().map(|n| hex(n.to_le_bytes())).collect(),
        Array::F64(list) => list.iter().map(|x| hex(x.to_le_bytes())).collect(),
        Array::Bool(list) => list.iter().map(|&truth| hex([u8::from(truth)])).collect(),
        Array::String(list) => list.iter().map(hex).collect(),
        Array::Array(_) => panic!("the package flattens arrays of arrays"),
    };
    digits.join(",")
}

/// Lists all keys, values and tensors like the script.
fn listing(checkpoint: &Checkpoint) -> String {
    let mut out = String::new();
    for (key, value) in checkpoint.metadata().unwrap().iter() {
        writeln!(out, "key {key} {}", shown(value)).unwrap();
    }
    for tensor in checkpoint.tensors() {
        out += &tensor_line(checkpoint, tensor);
    }
    out
}

fn tensor_line(checkpoint: &Checkpoint, tensor: &TensorInfo) -> String {
    let data = checkpoint.bytes(tensor);
    let mixed = (1u64..).zip(data).fold(0u64, |sum, (place, &byte)| sum.wrapping_add(place.wrapping_mul(byte.into())));
    let kind = tensor.type_name.as_deref().unwrap_or(tensor.dtype.name());
    format!("tensor {} {kind} {:?} {} {mixed}\n", tensor.name, tensor.shape, data.len())
}

fn same_lines(ours: &str, theirs: &str) {
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}

#[test]
fn what_the_package_writes_is_read() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    run(&python, "write", dir.path());
    let whole = Checkpoint::open(&dir.path().join("whole.gguf")).unwrap();
    assert!(whole.shards()[0].is_canonical());
    assert!(whole.tensors().len() > 35, "{}", whole.tensors().len());
    assert!(DType::BLOCKS.iter().all(|dtype| whole.tensors().iter().any(|t| t.dtype == *dtype)));
    same_lines(&listing(&whole), &run(&python, "list", &dir.path().join("whole.gguf")));

    let first = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let first = first.filter(|path| path.to_string_lossy().contains("parts-")).max().unwrap();
    let parts = Checkpoint::open(&first).unwrap();
    assert!(parts.shards().len() > 2 && parts.shards().iter().all(|shard| shard.is_canonical()));
    let lines: Vec<String> = parts.tensors().iter().map(|t| tensor_line(&parts, t)).collect();
    assert_eq!(lines, whole.tensors().iter().map(|t| tensor_line(&whole, t)).collect::<Vec<_>>());
    assert_eq!(parts.metadata().unwrap().i32s("a.ints"), Some(vec![1, -2, 3]));
}

#[test]
fn what_is_written_the_package_reads() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours.gguf");
    let mut metadata: Metadata = [("general.architecture", "test")].into_iter().collect();
    metadata.insert("u8", Value::U8(200));
    metadata.insert("i8", -7i8);
    metadata.insert("u16", 60_000u16);
    metadata.insert("i16", -30_000i16);
    metadata.insert("u32", u32::MAX);
    metadata.insert("i32", i32::MIN);
    metadata.insert("f32", 1.1f32);
    metadata.insert("bool", true);
    metadata.insert("u64", u64::MAX);
    metadata.insert("i64", i64::MIN);
    metadata.insert("f64", 1.1f64);
    metadata.insert("string", "é\n");
    metadata.insert("strings", vec!["a".to_owned(), String::new(), "中".to_owned()]);
    metadata.insert("bytes", Value::Array(Array::U8(vec![1, 2, 255])));
    metadata.insert("bools", vec![false, true]);
    metadata.insert("floats", vec![0.25f64, -1e300]);
    let opaque = |name: &str, bytes| Opaque { name: name.into(), bytes };
    let mut specs = vec![
        TensorSpec::opaque("opaque.nv", [2, 128], opaque("NVFP4", 144)),
        TensorSpec::opaque("opaque.q8", [2, 512], opaque("Q8_K", 1168)),
        TensorSpec::new("void", DType::F16, [0, 3]),
    ];
    for dtype in DType::BLOCKS {
        specs.push(TensorSpec::new(format!("block.{}", dtype.name()), dtype, [3, 2 * dtype.weights() as u64]));
    }
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::F64, DType::I8, DType::I16, DType::I32, DType::I64] {
        specs.push(TensorSpec::new(format!("plain.{}", dtype.name()), dtype, [2, 1, 3, 5]));
    }
    let data: Vec<Vec<u8>> =
        specs.iter().map(|spec| (0..spec.byte_len().unwrap()).map(|i| (i * 37 % 251) as u8).collect()).collect();
    let tensors: Vec<(TensorSpec, &[u8])> = specs.into_iter().zip(data.iter().map(Vec::as_slice)).collect();
    for alignment in [32u32, 4096] {
        metadata.insert("general.alignment", alignment);
        write_gguf(&path, &metadata, &tensors).unwrap();
        same_lines(&listing(&Checkpoint::open(&path).unwrap()), &run(&python, "list", &path));
    }
}

#[test]
fn a_real_file_is_read_as_the_package_reads_it() {
    let path = env::var_os("IMPASTO_MODELS").map(|dir| Path::new(&dir).join("smollm2-135m-q4_1.gguf"));
    let Some(path) = path.filter(|path| path.exists()) else {
        println!("SKIPPED: set IMPASTO_MODELS to the folder that holds smollm2-135m-q4_1.gguf");
        return;
    };
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.metadata().unwrap().str("general.architecture"), Some("llama"));
    assert!(checkpoint.shards()[0].is_canonical());
    let Some(python) = python() else { return };
    same_lines(&listing(&checkpoint), &run(&python, "list", &path));
}
