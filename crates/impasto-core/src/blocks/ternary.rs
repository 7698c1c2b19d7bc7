//! Blocks of 256 weights that are a scale times -1, 0 or 1: TQ1_0 and TQ2_0.

use super::f16_at;

/// Powers of 3: what moves digits to the top of a byte.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Layout: 48 bytes of five digits, 4 bytes of four digits, `d`. A byte is a fraction in base 3, in units of 1/256. Of
/// the first 32 bytes, all first digits come first, then all second digits and so on; likewise of the next 16 bytes,
/// and of the last 4.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = f16_at(block, 52);
    let mut out = out.iter_mut();
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for power in &POWERS[..digits] {
            for (&byte, w) in bytes.iter().zip(out.by_ref()) {
                let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
                *w = d * (f32::from(digit) - 1.0);
            }
        }
    }
}

/// Layout: 2-bit fields, `d`. A byte holds one field from each of four consecutive runs of 32 weights, with the first
/// run in the lowest bits. The field 3 stands for 2.
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(block, 64);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (bytes, shift) = (&block[i / 4 * 32..], i % 4 * 2);
        out.iter_mut().zip(bytes).for_each(|(w, byte)| *w = d * (f32::from(byte >> shift & 3) - 1.0));
    }
}
