//! Types whose 4-bit fields index a table of 16 integers: IQ4_NL (read as Q4_0), IQ4_XS and MXFP4.

use super::apart::{Parts, halves};
use super::u16_at;

/// Integers of IQ4_NL and IQ4_XS, denser around 0.
pub(super) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of an E2M1 float (OCP Microscaling Formats 1.0, section 5.3.3).
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Layout: `d`, top 2 bits of the scales of groups of 32, their low 4 bits, 4-bit fields. Scales are -32 to 31.
pub(super) fn iq4_xs(parts: &mut Parts, block: &[u8; 136]) {
    let (top, low, fields) = (u16_at(block, 2), &block[4..8], block[8..].as_chunks::<16>().0);
    for (i, (out, fields)) in parts.integers.as_chunks_mut::<32>().0.iter_mut().zip(fields).enumerate() {
        let scale = low[i / 2] >> (i % 2 * 4) & 15 | ((top >> (2 * i)) as u8 & 3) << 4;
        parts.scales[i] = scale as i8 - 32;
        halves(fields, out);
    }
    parts.scale = u16_at(block, 0);
}

/// Layout: the exponent `e` of the scale `2^(e - 127)`, 4-bit fields. The scale here is half of it, since the values of
/// the table are doubled.
pub(super) fn mxfp4(parts: &mut Parts, block: &[u8; 17]) {
    parts.scale = block[0].into();
    halves(&block[1..], &mut parts.integers[..32]);
}
