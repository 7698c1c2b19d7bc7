//! Blocks of quantized weights in ggml's layouts: dequantization of all types, quantization of some, and what they are made of
//! ([`apart`], [`pack`]).
//!
//! The reference is the Python package `gguf` (`gguf.quants`). The code here performs the same binary32 operations in
//! the same order, without fusing, so the results are bit-identical, except for the payload of a NaN.
//!
//! | family | types | weight |
//! |---|---|---|
//! | simple | Q4_0, Q5_0, Q8_0 | scale x integer |
//! | | Q4_1, Q5_1 | scale x integer + minimum |
//! | kquants | Q3_K, Q6_K | (scale x scale of the group) x integer |
//! | | Q2_K, Q4_K, Q5_K | (scale x scale of the group) x integer - (scale of minimums x minimum of the group) |
//! | iq4 | IQ4_NL, MXFP4 | scale x one of 16 fixed integers |
//! | | IQ4_XS | (scale x scale of the group) x one of 16 fixed integers |
//! | iq | IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S | (scale x scale of the group) x integer of a grid, with a sign |
//! | | IQ1_S, IQ1_M | (scale x scale of the group) x (integer of a grid + shift of 8 weights) |
//! | ternary | TQ1_0, TQ2_0 | scale x -1, 0 or 1 |

pub mod apart;
pub mod fields;
mod grids;
mod iq;
mod iq4;
mod kquants;
pub mod pack;
mod simple;
mod ternary;

use half::f16;

use crate::dtype::DType;
use apart::{Form, Parts};

/// Dequantizes whole blocks of `dtype` into `out`, which holds one entry per weight.
///
/// Returns `false` and writes nothing if `dtype` is not in [`DType::BLOCKS`], `bytes` is not a whole number of blocks,
/// or `out` does not have exactly their number of weights.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    let Some(form) = Form::of(dtype) else { return false };
    let count = bytes.len() / dtype.size();
    if bytes.len() != count * dtype.size() || out.len() != count * form.block {
        return false;
    }
    let mut parts = Parts::default();
    for (block, out) in bytes.chunks_exact(dtype.size()).zip(out.chunks_exact_mut(form.block)) {
        parts.read(dtype, block);
        form.weights(&parts, out);
    }
    true
}

/// Quantizes `weights` and appends the blocks of `dtype` to `out`.
///
/// Returns `false` and appends nothing if the reference cannot quantize to `dtype` (it supports Q4_0, Q4_1, Q5_0, Q5_1
/// and Q8_0), or `weights` is not a whole number of blocks.
///
/// All weights are accepted. A block with an infinity or a NaN gets an infinite or NaN scale, so its weights are lost;
/// a NaN scale is written as 0x7E00. The result of numpy for a float that does not fit an integer depends on the
/// processor; this function gives the result of x86-64.
pub fn quantize(dtype: DType, weights: &[f32], out: &mut Vec<u8>) -> bool {
    match dtype {
        DType::Q4_0 => each_back(weights, out, simple::to_q4_0),
        DType::Q4_1 => each_back(weights, out, simple::to_q4_1),
        DType::Q5_0 => each_back(weights, out, simple::to_q5_0),
        DType::Q5_1 => each_back(weights, out, simple::to_q5_1),
        DType::Q8_0 => each_back(weights, out, simple::to_q8_0),
        _ => false,
    }
}

/// Appends the result of `block` for every `W` weights. Returns `false` and appends nothing if weights are left over.
fn each_back<const B: usize, const W: usize>(
    weights: &[f32],
    out: &mut Vec<u8>,
    block: impl Fn(&[f32; W]) -> [u8; B],
) -> bool {
    let (weights, over) = weights.as_chunks();
    if over.is_empty() {
        out.reserve(weights.len() * B);
        weights.iter().for_each(|weights| out.extend(block(weights)));
    }
    over.is_empty()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// Returns the bytes of the nearest binary16, ties to even; of the default quiet NaN for every NaN.
fn to_f16(x: f32) -> [u8; 2] {
    if x.is_nan() { 0x7E00u16.to_le_bytes() } else { f16::from_f32(x).to_le_bytes() }
}
