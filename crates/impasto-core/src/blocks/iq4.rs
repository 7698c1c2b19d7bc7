//! Types whose 4-bit fields index a table of 16 integers: IQ4_NL, IQ4_XS and MXFP4.
//!
//! The low half of byte `i` belongs to weight `i` of its group of 32, the high half to weight `i + 16`.

use super::f16_at;

/// Integers of IQ4_NL and IQ4_XS, denser around 0.
pub(super) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the values of an E2M1 float (OCP Microscaling Formats 1.0, section 5.3.3).
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Layout: `d`, 4-bit fields.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    look_up(&VALUES, f16_at(block, 0), &block[2..], out);
}

/// Layout: `d`, top 2 bits of the scales of groups of 32, their low 4 bits, 4-bit fields. Scales are -32 to 31.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let (d, top) = (f16_at(block, 0), u16::from_le_bytes([block[2], block[3]]));
    let (low, fields) = (&block[4..8], &block[8..]);
    for (i, (out, fields)) in out.as_chunks_mut().0.iter_mut().zip(fields.chunks_exact(16)).enumerate() {
        let scale = low[i / 2] >> (i % 2 * 4) & 15 | ((top >> (2 * i)) as u8 & 3) << 4;
        look_up(&VALUES, d * (f32::from(scale) - 32.0), fields, out);
    }
}

/// Layout: the exponent `e` of the scale `2^(e - 127)`, 4-bit fields.
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    // Half of the scale, since the values are doubled; a subnormal for the two smallest exponents.
    let e = u32::from(block[0]);
    let half = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
    look_up(&E2M1, half, &block[1..], out);
}

/// Writes 32 weights: `d` times the integers of the 4-bit fields in 16 bytes.
fn look_up(values: &[i8; 16], d: f32, fields: &[u8], out: &mut [f32; 32]) {
    let value = |field: u8| d * f32::from(values[usize::from(field)]);
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in fields.iter().zip(low).zip(high) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}
