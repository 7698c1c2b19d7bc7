//! Compares block dtypes with the Python package `gguf`, through golden files (made by `tools/make_block_goldens.py`)
//! and fresh random data.
//!
//! `IMPASTO_PYTHON` names a Python interpreter with the packages numpy and gguf (tested with 0.19). Without one, the
//! test that needs it is skipped with a message, or fails if `IMPASTO_REQUIRE_PYTHON=1`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs, thread};

use impasto_core::{DType, blocks};
use proptest::prelude::*;

const QUANTIZED: [DType; 5] = [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0];

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn bytes(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn dequantize(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.size() * dtype.weights()];
    assert!(blocks::dequantize(dtype, bytes, &mut out));
    out
}

fn quantize(dtype: DType, weights: &[f32]) -> Vec<u8> {
    let mut out = vec![0xAB];
    assert!(blocks::quantize(dtype, weights, &mut out));
    assert_eq!(out.remove(0), 0xAB, "appended");
    out
}

/// Asserts that weights have the same bits, or are both NaN.
fn assert_same_weights(dtype: DType, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
        assert!(same, "{dtype:?}, weight {i}: {found:e}, not {wanted:e}");
    }
}

/// Asserts that blocks have the same bytes, except that a scale or minimum may be any NaN where a NaN is expected.
fn assert_same_blocks(dtype: DType, found: &[u8], wanted: &[u8], weights: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    let floats = if matches!(dtype, DType::Q4_1 | DType::Q5_1) { 4 } else { 2 };
    let is_nan = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).is_nan();
    let blocks = found.chunks_exact(dtype.size()).zip(wanted.chunks_exact(dtype.size()));
    for ((found, wanted), weights) in blocks.zip(weights.chunks_exact(32)) {
        let mut scales = found[..floats].chunks(2).zip(wanted[..floats].chunks(2));
        let same = scales.all(|(a, b)| a == b || is_nan(a) && is_nan(b)) && found[floats..] == wanted[floats..];
        assert!(same, "{dtype:?} of {weights:?}:\n{found:?}, not\n{wanted:?}");
    }
}

#[test]
fn dequantizes_as_the_goldens() {
    for dtype in DType::BLOCKS {
        let golden = golden(&format!("dequantize/{}.bin", dtype.name()));
        let blocks = golden.len() / (dtype.size() + 4 * dtype.weights());
        assert!(blocks >= 16);
        let (bytes, weights) = golden.split_at(blocks * dtype.size());
        assert_same_weights(dtype, &dequantize(dtype, bytes), &floats(weights));
    }
}

#[test]
fn quantizes_as_the_goldens() {
    let weights = floats(&golden("quantize/weights.bin"));
    assert!(weights.len() >= 32 * 64);
    for dtype in QUANTIZED {
        let wanted = golden(&format!("quantize/{}.bin", dtype.name()));
        assert_same_blocks(dtype, &quantize(dtype, &weights), &wanted, &weights);
    }
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    for dtype in DType::PLAIN.into_iter().chain(DType::BLOCKS).chain([DType::Opaque]) {
        let mut out = Vec::new();
        assert_eq!(blocks::quantize(dtype, &[1.0; 256], &mut out), QUANTIZED.contains(&dtype));
        let blocks = if QUANTIZED.contains(&dtype) { 256 / dtype.weights() } else { 0 };
        assert_eq!(out.len(), blocks * dtype.size());
    }
}

proptest! {
    /// The error is at most half a step, plus what rounding the scale and the minimum to binary16 adds; a whole step at
    /// the end of the range that the integers of Q4_0 and Q5_0 do not reach.
    #[test]
    fn quantization_errors_are_bounded(
        dtype in prop::sample::select(QUANTIZED.to_vec()),
        weights in prop::collection::vec(-1f32..1.0, 32),
        exponent in -8i32..12,
        shift in -2f32..2.0,
    ) {
        let weights: Vec<f32> = weights.iter().map(|w| (w + shift) * 2f32.powi(exponent)).collect();
        let (least, most) = weights.iter().fold((f32::MAX, f32::MIN), |(l, m), &w| (l.min(w), m.max(w)));
        let largest = most.max(-least);
        let step = match dtype {
            DType::Q4_0 => largest / 8.0,
            DType::Q5_0 => largest / 16.0,
            DType::Q8_0 => largest / 127.0,
            DType::Q4_1 => (most - least) / 15.0,
            _ => (most - least) / 31.0,
        };
        let steps = if matches!(dtype, DType::Q4_0 | DType::Q5_0) { 1.0 } else { 0.5 };
        // Half an ulp of a binary16, normal or subnormal, in the scale (times the integer) and in the minimum.
        let rounding = |x: f32, times: f32| (x.abs() / 2048.0).max(2f32.powi(-25)) * times;
        let bound = step * steps + rounding(step, 127.0f32.min(largest.max(most - least) / step)) + rounding(least, 1.0);
        for (&w, q) in weights.iter().zip(dequantize(dtype, &quantize(dtype, &weights))) {
            prop_assert!((w - q).abs() <= bound * 1.0001, "{dtype:?}: {w} became {q}; bound {bound}");
        }
    }

    /// Any bits can be quantized; a block with infinities or NaNs does not become finite.
    #[test]
    fn any_weights_are_taken(bits in prop::collection::vec(any::<u32>(), 32)) {
        let weights: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for dtype in QUANTIZED {
            let back = dequantize(dtype, &quantize(dtype, &weights));
            let finite = weights.iter().all(|w| w.is_finite());
            prop_assert!(finite || back.iter().any(|w| !w.is_finite()));
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Returns blocks of weights of one magnitude, multiples of one step, or arbitrary bits.
    fn weights(&mut self, blocks: usize) -> Vec<f32> {
        let mut weights = Vec::with_capacity(32 * blocks);
        for _ in 0..blocks {
            let (kind, power) = (self.next() % 8, (self.next() % 100) as i32 - 70);
            weights.extend((0..32).map(|_| match kind {
                0 => f32::from_bits(self.next() as u32),
                1 => (self.next() % 64) as f32 / 4.0 - 8.0,
                _ => (self.next() as i32 as f32) * 2f32.powi(power),
            }));
        }
        weights
    }
}

/// Returns the interpreter, if it has the packages.
fn python() -> Option<OsString> {
    let program = env::var_os("IMPASTO_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(&program).args(["-c", "import numpy, gguf.quants"]).output();
    if output.is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    let required = env::var("IMPASTO_REQUIRE_PYTHON").is_ok_and(|value| value == "1");
    assert!(!required, "{program:?} is not a Python interpreter with the packages numpy and gguf");
    eprintln!(
        "SKIPPED: {program:?} is not a Python interpreter with numpy and gguf; block dtypes are compared with files only"
    );
    None
}

/// Returns the outputs of `gguf.quants.OPERATION` for inputs in several dtypes. One interpreter makes all of them.
fn reference(python: &OsString, operation: &str, inputs: &[(DType, Vec<u8>)]) -> Vec<Vec<u8>> {
    const PROGRAM: &str = "
import struct, sys, gguf, numpy as np
operation = sys.argv[1]
np.seterr(all='ignore')
for name, length in zip(sys.argv[2::2], sys.argv[3::2]):
    data = np.frombuffer(sys.stdin.buffer.read(int(length)), np.uint8 if operation == 'dequantize' else np.float32)
    out = getattr(gguf.quants, operation)(data, gguf.GGMLQuantizationType[name]).tobytes()
    sys.stdout.buffer.write(struct.pack('<Q', len(out)) + out)";
    let mut command = Command::new(python);
    command.args(["-c", PROGRAM, operation]).stdin(Stdio::piped()).stdout(Stdio::piped());
    for (dtype, input) in inputs {
        command.args([dtype.name(), &input.len().to_string()]);
    }
    let mut child = command.spawn().expect("run the interpreter");
    let mut stdin = child.stdin.take().expect("piped");
    let output = thread::scope(|scope| {
        scope.spawn(move || inputs.iter().for_each(|(_, input)| stdin.write_all(input).expect("write to Python")));
        child.wait_with_output().expect("read from the interpreter")
    });
    assert!(output.status.success());
    let mut rest = &output.stdout[..];
    let mut next = |_: &(DType, Vec<u8>)| {
        let (length, after) = rest.split_first_chunk().expect("a length");
        let (out, after) = after.split_at(u64::from_le_bytes(*length) as usize);
        rest = after;
        out.to_vec()
    };
    inputs.iter().map(&mut next).collect()
}

#[test]
fn random_data_as_the_package() {
    let Some(python) = python() else { return };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    println!("seed {seed}");
    let mut random = Random(seed);
    let inputs: Vec<_> = DType::BLOCKS.map(|dtype| (dtype, random.bytes(500 * dtype.size()))).into();
    for ((dtype, blocks), wanted) in inputs.iter().zip(reference(&python, "dequantize", &inputs)) {
        assert_same_weights(*dtype, &dequantize(*dtype, blocks), &floats(&wanted));
    }
    let weights = random.weights(5000);
    let inputs: Vec<_> = QUANTIZED.map(|dtype| (dtype, bytes(&weights))).into();
    for (dtype, wanted) in QUANTIZED.into_iter().zip(reference(&python, "quantize", &inputs)) {
        assert_same_blocks(dtype, &quantize(dtype, &weights), &wanted, &weights);
    }
}

/// Incomplete blocks and other dtypes are refused, and the output is left unchanged.
#[test]
fn misfits_are_refused() {
    for dtype in DType::BLOCKS {
        let (bytes, mut out) = (vec![1; dtype.size()], vec![7.0; dtype.weights()]);
        assert!(!blocks::dequantize(dtype, &bytes[1..], &mut out) && !blocks::dequantize(dtype, &bytes, &mut out[1..]));
        assert!(out.iter().all(|&weight| weight == 7.0));
    }
    assert!(!blocks::dequantize(DType::F32, &[0; 4], &mut [0.0]));
    let mut out = vec![];
    assert!(!blocks::quantize(DType::Q4_0, &[1.0; 31], &mut out) && out.is_empty());
}
