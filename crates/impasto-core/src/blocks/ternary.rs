//! Blocks of 256 weights that are a scale times -1, 0 or 1: TQ1_0 and TQ2_0.

use super::apart::Parts;
use super::u16_at;

/// Powers of 3: what moves digits to the top of a byte.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Layout: 48 bytes of five digits, 4 bytes of four digits, `d`. A byte is a fraction in base 3, in units of 1/256. Of
/// the first 32 bytes, all first digits come first, then all second digits and so on; likewise of the next 16 bytes,
/// and of the last 4.
pub(super) fn tq1_0(parts: &mut Parts, block: &[u8; 54]) {
    let (first, rest) = parts.integers.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    digits::<32>(&block[..32], first);
    digits::<16>(&block[32..48], second);
    digits::<4>(&block[48..52], third);
    parts.scale = u16_at(block, 52);
}

/// Writes as many digits of each of `N` bytes as `out` has room for, with a bias of 128.
#[inline(always)]
fn digits<const N: usize>(bytes: &[u8], out: &mut [u8]) {
    for (out, power) in out.as_chunks_mut::<N>().0.iter_mut().zip(POWERS) {
        for (digit, byte) in out.iter_mut().zip(bytes) {
            *digit = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8 + 127;
        }
    }
}

/// Layout: 2-bit fields, `d`. A byte holds one field from each of four consecutive runs of 32 weights, with the first
/// run in the lowest bits. The field 3 stands for 2.
pub(super) fn tq2_0(parts: &mut Parts, block: &[u8; 66]) {
    for (i, out) in parts.integers.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (bytes, shift) = (&block[i / 4 * 32..], i % 4 * 2);
        out.iter_mut().zip(bytes).for_each(|(integer, byte)| *integer = byte >> shift & 3);
    }
    parts.scale = u16_at(block, 64);
}
