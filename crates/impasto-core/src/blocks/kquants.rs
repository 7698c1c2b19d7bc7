//! Blocks of 256 weights in groups of 16 or 32: Q2_K to Q6_K. The scale of a group is a small integer times the scale
//! of the block.
//!
//! A byte holds one `n`-bit field from each of `8 / n` consecutive runs of 32 weights (64 for the low fields of Q6_K),
//! with the first run in the lowest bits. The bytes of further runs follow.

use super::apart::Parts;
use super::u16_at;

/// Layout: scales and minimums of groups of 16 (4 + 4 bits), 2-bit fields, `d`, `dmin`.
pub(super) fn q2_k(parts: &mut Parts, block: &[u8; 84]) {
    for (i, (out, &scale)) in parts.integers.as_chunks_mut::<16>().0.iter_mut().zip(&block[..16]).enumerate() {
        (parts.scales[i], parts.minimums[i]) = ((scale & 15) as i8, scale >> 4);
        let (from, shift) = two_bits(i);
        out.iter_mut().zip(&block[16 + from..]).for_each(|(integer, q)| *integer = q >> shift & 3);
    }
    (parts.scale, parts.minimum) = (u16_at(block, 80), u16_at(block, 82));
}

/// Layout: third bits, 2-bit fields, scales of groups of 16 (6 bits), `d`. Scales are -32 to 31.
pub(super) fn q3_k(parts: &mut Parts, block: &[u8; 110]) {
    let (top, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    for (i, out) in parts.integers.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = scales[i % 8] >> (4 * (i / 8)) & 15 | (scales[8 + i % 4] >> (2 * (i / 4)) & 3) << 4;
        parts.scales[i] = scale as i8 - 32;
        let (from, shift) = two_bits(i);
        for ((integer, q), top) in out.iter_mut().zip(&qs[from..]).zip(&top[i % 2 * 16..]) {
            *integer = q >> shift & 3 | (top >> (i / 2) & 1) << 2;
        }
    }
    parts.scale = u16_at(block, 108);
}

/// Layout: `d`, `dmin`, scales and minimums of groups of 32 (6 + 6 bits), 4-bit fields.
pub(super) fn q4_k(parts: &mut Parts, block: &[u8; 144]) {
    four_or_five_bits(parts, block, &[0; 32], &block[16..]);
}

/// Layout: `d`, `dmin`, scales and minimums of groups of 32 (6 + 6 bits), fifth bits, 4-bit fields.
pub(super) fn q5_k(parts: &mut Parts, block: &[u8; 176]) {
    four_or_five_bits(parts, block, &block[16..48], &block[48..]);
}

#[inline(always)]
fn four_or_five_bits(parts: &mut Parts, block: &[u8], top: &[u8], qs: &[u8]) {
    for (i, out) in parts.integers.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, least) = six_bits(&block[4..16], i);
        (parts.scales[i], parts.minimums[i]) = (scale as i8, least);
        let (qs, shift) = (&qs[i / 2 * 32..], i % 2 * 4);
        for ((integer, q), top) in out.iter_mut().zip(qs).zip(top) {
            *integer = q >> shift & 15 | (top >> i & 1) << 4;
        }
    }
    (parts.scale, parts.minimum) = (u16_at(block, 0), u16_at(block, 2));
}

/// Layout: 4-bit fields, top 2-bit fields, signed scales of groups of 16 (8 bits), `d`.
pub(super) fn q6_k(parts: &mut Parts, block: &[u8; 210]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for (i, (out, &scale)) in parts.integers.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        parts.scales[i] = scale as i8;
        let (low, low_shift) = (&low[i / 8 * 64 + i % 4 * 16..], i % 8 / 4 * 4);
        let (from, high_shift) = two_bits(i);
        for ((integer, low), high) in out.iter_mut().zip(low).zip(&high[from..]) {
            *integer = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
        }
    }
    parts.scale = u16_at(block, 208);
}

/// Returns the position of the 2-bit fields of the `i`-th 16 weights: the first byte, and the shift within each byte.
fn two_bits(i: usize) -> (usize, usize) {
    (i / 8 * 32 + i % 2 * 16, i % 8 / 2 * 2)
}

/// Returns the `i`-th scale and minimum of Q4_K and Q5_K. Those with `i` from 0 to 3 are the low 6 bits of bytes 0 to 3
/// and 4 to 7. Those with `i` from 4 to 7 have their low 4 bits in bytes 8 to 11, and their top 2 bits in the top 2
/// bits of bytes 0 to 7.
fn six_bits(bytes: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (bytes[i] & 63, bytes[4 + i] & 63)
    } else {
        let low = bytes[4 + i];
        (low & 15 | bytes[i - 4] >> 2 & 48, low >> 4 | bytes[i] >> 2 & 48)
    }
}
