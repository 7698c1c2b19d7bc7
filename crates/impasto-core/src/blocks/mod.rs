//! Blocks of quantized weights, in the layouts of ggml: to binary32, and some of them back.
//!
//! The reference is the Python package `gguf` (`gguf.quants`): each weight here is made of the same binary32 operations, in
//! the same order, none fused, so the results are the same bits. Only the payload of a NaN may differ.
//!
//! | family | types | a weight |
//! |---|---|---|
//! | simple | Q4_0, Q5_0, Q8_0 | scale x integer |
//! | | Q4_1, Q5_1 | scale x integer + least value |
//! | kquants | Q3_K, Q6_K | (scale x scale of 16) x integer |
//! | | Q2_K, Q4_K, Q5_K | (scale x scale of 16 or 32) x integer - (least value x its scale) |
//! | iq4nl | IQ4_NL | scale x one of 16 fixed integers |

mod iq4nl;
mod kquants;
mod simple;

use half::f16;

use crate::dtype::DType;

/// Writes the weights of whole blocks of `dtype`; `false`, with nothing written, if it is not one of [`DType::BLOCKS`],
/// `bytes` is not whole blocks, or `out` does not hold exactly their weights.
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
        DType::Iq4Nl => each(bytes, out, iq4nl::iq4_nl),
        _ => false,
    }
}

/// Appends `weights` as blocks of `dtype`; `false`, with nothing appended, where the reference cannot quantize to it (all but
/// Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0) or `weights` are not whole blocks.
///
/// Any weights are taken. A block with an infinity or a NaN gets a scale that is one, so its weights are lost; a scale that is
/// a NaN is written as 0x7E00. Where a float does not fit an integer, numpy leaves the result to the processor: here it is
/// what x86-64 gives.
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

/// Runs `block` on blocks of `B` bytes and `W` weights, if there are as many of both and nothing is left over.
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

/// Appends what `block` makes of every `W` weights, if nothing is left over.
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

/// The binary16 at bytes `at` and `at + 1`.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// The bytes of the nearest binary16, ties to even; of the plain quiet NaN for every NaN.
fn to_f16(x: f32) -> [u8; 2] {
    if x.is_nan() { 0x7E00u16.to_le_bytes() } else { f16::from_f32(x).to_le_bytes() }
}
