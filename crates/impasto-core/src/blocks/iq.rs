//! Blocks of 256 weights in groups that index a grid: IQ1, IQ2 and IQ3. A group is 8 weights (IQ1, IQ2) or 4 (IQ3).
//!
//! Signs of IQ2 and IQ3 are apart from the grid, for 8 weights at once, the first in the lowest bit. In the types _XXS
//! and _XS seven bits are stored, and the eighth makes the number of ones even.

use super::{f16_at, grids};

type Weights = [f32; 256];

/// What 2-bit fields of the grids of IQ2, and 3-bit fields of IQ3_XXS, stand for.
pub(super) const TWO_BITS: [u8; 4] = [0x08, 0x19, 0x2B, 0];
pub(super) const THREE_BITS: [u8; 8] = [0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C, 0x34, 0x3E];
/// What is added to or subtracted from all weights of a group of IQ1.
const SHIFT: f32 = 0.125;

/// Layout: `d`, indices (8 bits), their top 3 bits with a scale and the sign of the shift for every 32 weights.
pub(super) fn iq1_s(block: &[u8; 50], out: &mut Weights) {
    let (d, indices) = (f16_at(block, 0), &block[2..34]);
    for (j, (out, &index)) in out.as_chunks_mut().0.iter_mut().zip(indices).enumerate() {
        let top = u16_at(block, 34 + j / 4 * 2);
        let index = u16::from(index) | (top >> (3 * (j % 4)) & 7) << 8;
        shifted(d * f32::from(2 * (top >> 12 & 7) + 1), index, top & 0x8000 != 0, out);
    }
}

/// Layout: indices (8 bits), their top 3 bits with the sign of the shift, scales of 16 weights (3 bits). The top 4 bits
/// of each 16 bits of scales make up `d`.
pub(super) fn iq1_m(block: &[u8; 56], out: &mut Weights) {
    let (indices, top) = (&block[..32], &block[32..48]);
    let scales = [48, 50, 52, 54].map(|at| u16_at(block, at));
    let d = (0..4).fold(0, |d, i| d | scales[i] >> 12 << (4 * i));
    let d = half::f16::from_bits(d).to_f32();
    for (j, (out, &index)) in out.as_chunks_mut().0.iter_mut().zip(indices).enumerate() {
        let top = top[j / 2] >> (j % 2 * 4);
        let scale = scales[j / 8] >> (j / 2 % 4 * 3) & 7;
        let index = u16::from(index) | u16::from(top & 7) << 8;
        shifted(d * f32::from(2 * scale + 1), index, top & 8 != 0, out);
    }
}

/// Layout: `d`; for every 32 weights four indices (8 bits), four times 7 signs, a scale (4 bits).
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut Weights) {
    let d = f16_at(block, 0);
    for (j, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let at = 2 + j / 4 * 8;
        let more = u32_at(block, at + 4);
        let index = usize::from(block[at + j % 4]);
        two_bits(d * (0.5 + (more >> 28) as f32) * 0.25, grids::IQ2_XXS[index], even(more >> (7 * (j % 4))), out);
    }
}

/// Layout: `d`; indices (9 bits) with 7 signs; scales of 16 weights (4 bits).
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut Weights) {
    let (d, scales) = (f16_at(block, 0), &block[66..]);
    for (j, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let (field, scale) = (u16_at(block, 2 + 2 * j), half_byte(scales, j / 2));
        two_bits(d * (0.5 + scale) * 0.25, grids::IQ2_XS[usize::from(field & 511)], even(u32::from(field >> 9)), out);
    }
}

/// Layout: `d`; indices (8 bits); signs; top 2 bits of the indices; scales of 16 weights (4 bits).
pub(super) fn iq2_s(block: &[u8; 82], out: &mut Weights) {
    let d = f16_at(block, 0);
    let (indices, signs, top, scales) = (&block[2..34], &block[34..66], &block[66..74], &block[74..]);
    for (j, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let index = usize::from(indices[j]) | usize::from(top[j / 4] >> (j % 4 * 2) & 3) << 8;
        two_bits(d * (0.5 + half_byte(scales, j / 2)) * 0.25, grids::IQ2_S[index], signs[j], out);
    }
}

/// Layout: `d`; indices (8 bits); for every 32 weights four times 7 signs and a scale (4 bits).
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut Weights) {
    let (d, indices) = (f16_at(block, 0), &block[2..66]);
    for (j, (out, indices)) in out.as_chunks_mut::<8>().0.iter_mut().zip(indices.as_chunks().0).enumerate() {
        let more = u32_at(block, 66 + j / 4 * 4);
        let d = d * (0.5 + (more >> 28) as f32) * 0.5;
        let entry = |index: u8| grids::IQ3_XXS[usize::from(index)];
        three_bits(d, indices.map(entry), |field| THREE_BITS[field], even(more >> (7 * (j % 4))), out);
    }
}

/// Layout: `d`; indices (8 bits); their top bits; signs; scales of 32 weights (4 bits).
pub(super) fn iq3_s(block: &[u8; 110], out: &mut Weights) {
    let d = f16_at(block, 0);
    let (indices, top, signs, scales) = (&block[2..66], &block[66..74], &block[74..106], &block[106..]);
    for (j, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let d = d * (1.0 + 2.0 * half_byte(scales, j / 4));
        let entry = |k: usize| grids::IQ3_S[usize::from(indices[k]) | usize::from(top[k / 8] >> (k % 8) & 1) << 8];
        three_bits(d, [entry(2 * j), entry(2 * j + 1)], |field| 2 * field as u8 + 1, signs[j], out);
    }
}

/// Writes a group of IQ1, shifted down or up.
fn shifted(d: f32, index: u16, down: bool, out: &mut [f32; 8]) {
    let (entry, shift) = (grids::IQ1[usize::from(index)], if down { -SHIFT } else { SHIFT });
    (0..).zip(out).for_each(|(i, w)| *w = d * (f32::from(entry >> (2 * i) & 3) - 1.0 + shift));
}

/// Writes a group of IQ2.
fn two_bits(d: f32, entry: u16, signs: u8, out: &mut [f32; 8]) {
    let value = |i: usize| f32::from(TWO_BITS[usize::from(entry >> (2 * i) & 3)]);
    out.iter_mut().enumerate().for_each(|(i, w)| *w = signed(d * value(i), signs >> i));
}

/// Writes two groups of IQ3.
fn three_bits(d: f32, entries: [u16; 2], value: impl Fn(usize) -> u8, signs: u8, out: &mut [f32; 8]) {
    let value = |i: usize| f32::from(value(usize::from(entries[i / 4] >> (3 * (i % 4)) & 7)));
    out.iter_mut().enumerate().for_each(|(i, w)| *w = signed(d * value(i), signs >> i));
}

/// Returns `w`, negated if the lowest bit of `sign` is 1.
fn signed(w: f32, sign: u8) -> f32 {
    if sign & 1 == 0 { w } else { -w }
}

/// Returns 8 signs from the low 7 bits, with an even number of ones.
fn even(bits: u32) -> u8 {
    let bits = bits as u8 & 0x7F;
    bits | (bits.count_ones() as u8 & 1) << 7
}

/// Returns the `i`-th 4 bits, low halves first.
fn half_byte(bytes: &[u8], i: usize) -> f32 {
    f32::from(bytes[i / 2] >> (i % 2 * 4) & 15)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}
