//! Blocks of 256 weights in groups of 16 or 32: Q2_K to Q6_K. The scale of a group is a small integer times the scale
//! of the block.
//!
//! A byte holds one `n`-bit field from each of `8 / n` consecutive runs of 32 weights (64 for the low fields of Q6_K),
//! with the first run in the lowest bits. The bytes of further runs follow.

use super::f16_at;

type Weights = [f32; 256];

/// Layout: scales and minimums of groups of 16 (4 + 4 bits), 2-bit fields, `d`, `dmin`.
pub(super) fn q2_k(block: &[u8; 84], out: &mut Weights) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (i, (out, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (d, m) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        let (from, shift) = two_bits(i);
        out.iter_mut().zip(&qs[from..]).for_each(|(w, q)| *w = d * f32::from(q >> shift & 3) - m);
    }
}

/// Layout: third bits, 2-bit fields, scales of groups of 16 (6 bits), `d`. Integers are -4 to 3.
pub(super) fn q3_k(block: &[u8; 110], out: &mut Weights) {
    let (top, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = f16_at(block, 108);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = scales[i % 8] >> (4 * (i / 8)) & 15 | (scales[8 + i % 4] >> (2 * (i / 4)) & 3) << 4;
        let d = d * (f32::from(scale) - 32.0);
        let (from, shift) = two_bits(i);
        let top = &top[i % 2 * 16..];
        for ((w, q), top) in out.iter_mut().zip(&qs[from..]).zip(top) {
            *w = d * (f32::from(q >> shift & 3 | (top >> (i / 2) & 1) << 2) - 4.0);
        }
    }
}

/// Layout: `d`, `dmin`, scales and minimums of groups of 32 (6 + 6 bits), 4-bit fields.
pub(super) fn q4_k(block: &[u8; 144], out: &mut Weights) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, qs) = (&block[4..16], &block[16..]);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, least) = six_bits(scales, i);
        let (d, m) = (d * f32::from(scale), dmin * f32::from(least));
        let (qs, shift) = (&qs[i / 2 * 32..], i % 2 * 4);
        out.iter_mut().zip(qs).for_each(|(w, q)| *w = d * f32::from(q >> shift & 15) - m);
    }
}

/// Layout: `d`, `dmin`, scales and minimums of groups of 32 (6 + 6 bits), fifth bits, 4-bit fields.
pub(super) fn q5_k(block: &[u8; 176], out: &mut Weights) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, top, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, least) = six_bits(scales, i);
        let (d, m) = (d * f32::from(scale), dmin * f32::from(least));
        let (qs, shift) = (&qs[i / 2 * 32..], i % 2 * 4);
        for ((w, q), top) in out.iter_mut().zip(qs).zip(top) {
            *w = d * f32::from(q >> shift & 15 | (top >> i & 1) << 4) - m;
        }
    }
}

/// Layout: 4-bit fields, top 2-bit fields, signed scales of groups of 16 (8 bits), `d`. Integers are -32 to 31.
pub(super) fn q6_k(block: &[u8; 210], out: &mut Weights) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16_at(block, 208);
    for (i, (out, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let d = d * f32::from(scale as i8);
        let (low, low_shift) = (&low[i / 8 * 64 + i % 4 * 16..], i % 8 / 4 * 4);
        let (from, high_shift) = two_bits(i);
        for ((w, low), high) in out.iter_mut().zip(low).zip(&high[from..]) {
            *w = d * (f32::from(low >> low_shift & 15 | (high >> high_shift & 3) << 4) - 32.0);
        }
    }
}

/// Returns the position of the 2-bit fields of the `i`-th 16 weights: the first byte, and the shift within each byte.
pub(super) fn two_bits(i: usize) -> (usize, usize) {
    (i / 8 * 32 + i % 2 * 16, i % 8 / 2 * 2)
}

/// Returns the `i`-th scale and minimum of Q4_K and Q5_K. Those with `i` from 0 to 3 are the low 6 bits of bytes 0 to 3
/// and 4 to 7. Those with `i` from 4 to 7 have their low 4 bits in bytes 8 to 11, and their top 2 bits in the top 2
/// bits of bytes 0 to 7.
pub(super) fn six_bits(bytes: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (bytes[i] & 63, bytes[4 + i] & 63)
    } else {
        let low = bytes[4 + i];
        (low & 15 | bytes[i - 4] >> 2 & 48, low >> 4 | bytes[i] >> 2 & 48)
    }
}
