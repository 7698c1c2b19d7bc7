//! IQ4_NL: 32 weights with one scale; 4-bit fields index a table of 16 integers that is denser around 0.

use super::f16_at;

const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Layout: `d`, 4-bit fields: the low half of byte `i` belongs to weight `i`, the high half to weight `i + 16`.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let value = |field: u8| d * f32::from(VALUES[usize::from(field)]);
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in block[2..].iter().zip(low).zip(high) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}
