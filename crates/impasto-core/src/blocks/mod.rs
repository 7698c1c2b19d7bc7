//! Blocks of quantized weights in ggml's layouts: dequantization of all types, quantization of some.
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
//! | | IQ1_S, IQ1_M | (scale x scale of the group) x (integer of a grid + shift of the group) |
//! | ternary | TQ1_0, TQ2_0 | scale x -1, 0 or 1 |

pub mod apart;
mod grids;
mod iq;
mod iq4;
mod kquants;
mod simple;
mod ternary;

use half::f16;

use crate::dtype::DType;

/// Dequantizes whole blocks of `dtype` into `out`, which holds one entry per weight.
///
/// Returns `false` and writes nothing if `dtype` is not in [`DType::BLOCKS`], `bytes` is not a whole number of blocks,
/// or `out` does not have exactly their number of weights.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        DType::Q4_0 => each(bytes, out, simple::q4_0),
        DType::Q4_1 => each(bytes, out, simple::q4_1),
        DType::Q5_0 => each(bytes, out, simple::q5_0),
        DType::Q5_1 => each(bytes, out, simple::q5_1),
        DType::Q8_0 => each(bytes, out, simple::q8_0),
        DType::Q2K => each(bytes, out, kquants::q2_k),
        DType::Q3K => each(bytes, out, kquants::q3_k),
        DType::Q4K => each(bytes, out, kquants::q4_k),
        DType::Q5K => each(bytes, out, kquants::q5_k),
        DType::Q6K => each(bytes, out, kquants::q6_k),
        DType::Iq2Xxs => each(bytes, out, iq::iq2_xxs),
        DType::Iq2Xs => each(bytes, out, iq::iq2_xs),
        DType::Iq3Xxs => each(bytes, out, iq::iq3_xxs),
        DType::Iq1S => each(bytes, out, iq::iq1_s),
        DType::Iq4Nl => each(bytes, out, iq4::iq4_nl),
        DType::Iq3S => each(bytes, out, iq::iq3_s),
        DType::Iq2S => each(bytes, out, iq::iq2_s),
        DType::Iq4Xs => each(bytes, out, iq4::iq4_xs),
        DType::Iq1M => each(bytes, out, iq::iq1_m),
        DType::Tq1_0 => each(bytes, out, ternary::tq1_0),
        DType::Tq2_0 => each(bytes, out, ternary::tq2_0),
        DType::Mxfp4 => each(bytes, out, iq4::mxfp4),
        _ => false,
    }
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

/// Calls `block` for each block of `B` bytes and its `W` weights. Returns `false` and calls nothing if the numbers of
/// blocks differ or anything is left over.
fn each<const B: usize, const W: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; W]),
) -> bool {
    let ((blocks, bytes_over), (weights, weights_over)) = (bytes.as_chunks(), out.as_chunks_mut());
    let fits = bytes_over.is_empty() && weights_over.is_empty() && blocks.len() == weights.len();
    if fits {
        blocks.iter().zip(weights).for_each(|(bytes, weights)| block(bytes, weights));
    }
    fits
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

/// Returns the binary16 at bytes `at` and `at + 1`.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Returns the bytes of the nearest binary16, ties to even; of the default quiet NaN for every NaN.
fn to_f16(x: f32) -> [u8; 2] {
    if x.is_nan() { 0x7E00u16.to_le_bytes() } else { f16::from_f32(x).to_le_bytes() }
}
