//! Blocks of 256 weights that index a grid: IQ1, IQ2 and IQ3. An entry of the grid is 8 weights (IQ1, IQ2) or 4 (IQ3).
//!
//! Signs of IQ2 and IQ3 are apart from the grid, for 8 weights at once, the first in the lowest bit. In the types _XXS
//! and _XS seven bits are stored, and the eighth makes the number of ones even.
//!
//! The scale of a group is `2 k + 1`, where `k` is stored. Integers have a bias of 128. Eight of them are made at once,
//! in the bytes of a u64, the first in the lowest.

use super::apart::Parts;
use super::{grids, u16_at, u32_at};

/// What 2-bit fields of the grids of IQ2, and 3-bit fields of IQ3, stand for.
const TWO_BITS: [u8; 4] = [0x08, 0x19, 0x2B, 0];
const THREE_BITS: [u8; 8] = [0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C, 0x34, 0x3E];
const ODD: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
/// Integers of IQ1 are eight times the fields minus 1, and 1 less or more, which is the shift: an eighth.
const EIGHTHS: [u8; 4] = [120, 128, 136, 0];

static IQ1: [u64; 2048] = expand(&grids::IQ1, 2, &EIGHTHS);
static IQ2_XXS: [u64; 256] = expand(&grids::IQ2_XXS, 2, &TWO_BITS);
static IQ2_XS: [u64; 512] = expand(&grids::IQ2_XS, 2, &TWO_BITS);
static IQ2_S: [u64; 1024] = expand(&grids::IQ2_S, 2, &TWO_BITS);
static IQ3_XXS: [u64; 256] = expand(&grids::IQ3_XXS, 3, &THREE_BITS);
static IQ3_S: [u64; 512] = expand(&grids::IQ3_S, 3, &ODD);

/// For each 8 signs, bytes of ones where they are negative.
static NEGATIVE: [u64; 256] = {
    let mut masks = [0; 256];
    let mut signs = 0;
    while signs < 256 {
        let mut i = 0;
        while i < 8 {
            if signs >> i & 1 == 1 {
                masks[signs] |= 0xFF << (8 * i);
            }
            i += 1;
        }
        signs += 1;
    }
    masks
};

/// A one in each byte.
const ONES: u64 = u64::MAX / 255;

/// Returns the entries of a grid with a byte for each field of so many bits, which is a value of the table.
const fn expand<const N: usize>(grid: &[u16; N], bits: usize, values: &[u8]) -> [u64; N] {
    let mut entries = [0; N];
    let mut index = 0;
    while index < N {
        let mut i = 0;
        // Eight fields of 2 bits, or four of 3.
        while i < if bits == 2 { 8 } else { 4 } {
            let field = grid[index] >> (bits * i) & ((1 << bits) - 1);
            entries[index] |= (values[field as usize] as u64) << (8 * i);
            i += 1;
        }
        index += 1;
    }
    entries
}

/// Layout: `d`, indices (8 bits), their top 3 bits with a scale (3 bits) and the sign of the shift for every 32 weights.
pub(super) fn iq1_s(parts: &mut Parts, block: &[u8; 50]) {
    parts.scale = u16_at(block, 0);
    for (i, out) in eights(&mut parts.integers).iter_mut().enumerate() {
        let top = u16_at(block, 34 + 2 * i);
        parts.scales[i] = odd(top >> 12 & 7);
        for (j, out) in out.iter_mut().enumerate() {
            *out = shifted(block[2 + 4 * i + j], top >> (3 * j) & 7, top & 0x8000 != 0);
        }
    }
}

/// Layout: indices (8 bits), their top 3 bits with the sign of the shift, scales of 16 weights (3 bits). The top 4 bits
/// of each 16 bits of scales make up `d`.
pub(super) fn iq1_m(parts: &mut Parts, block: &[u8; 56]) {
    let scales = [48, 50, 52, 54].map(|at| u16_at(block, at));
    parts.scale = (0..4).fold(0, |d, i| d | scales[i] >> 12 << (4 * i));
    parts.scales = std::array::from_fn(|i| odd(scales[i / 4] >> (i % 4 * 3) & 7));
    for (i, out) in eights(&mut parts.integers).iter_mut().enumerate() {
        let top = u16_at(block, 32 + 2 * i);
        for (j, out) in out.iter_mut().enumerate() {
            let top = top >> (4 * j);
            *out = shifted(block[4 * i + j], top & 7, top & 8 != 0);
        }
    }
}

/// Layout: `d`; for every 32 weights four indices (8 bits), four times 7 signs, a scale (4 bits).
pub(super) fn iq2_xxs(parts: &mut Parts, block: &[u8; 66]) {
    parts.scale = u16_at(block, 0);
    for (i, out) in eights(&mut parts.integers).iter_mut().enumerate() {
        let at = 2 + 8 * i;
        let more = u32_at(block, at + 4);
        parts.scales[i] = odd((more >> 28) as u16);
        for (j, out) in out.iter_mut().enumerate() {
            *out = signed(IQ2_XXS[usize::from(block[at + j])], even(more >> (7 * j)));
        }
    }
}

/// Layout: `d`; indices (9 bits) with 7 signs; scales of 16 weights (4 bits).
pub(super) fn iq2_xs(parts: &mut Parts, block: &[u8; 74]) {
    parts.scale = u16_at(block, 0);
    parts.scales = half_bytes(&block[66..]);
    for (j, out) in eights(&mut parts.integers).as_flattened_mut().iter_mut().enumerate() {
        let field = u16_at(block, 2 + 2 * j);
        *out = signed(IQ2_XS[usize::from(field & 511)], even(u32::from(field >> 9)));
    }
}

/// Layout: `d`; indices (8 bits); signs; top 2 bits of the indices; scales of 16 weights (4 bits).
pub(super) fn iq2_s(parts: &mut Parts, block: &[u8; 82]) {
    let (indices, signs, top) = (&block[2..34], &block[34..66], &block[66..74]);
    parts.scale = u16_at(block, 0);
    parts.scales = half_bytes(&block[74..]);
    for (j, out) in eights(&mut parts.integers).as_flattened_mut().iter_mut().enumerate() {
        let index = usize::from(indices[j]) | usize::from(top[j / 4] >> (j % 4 * 2) & 3) << 8;
        *out = signed(IQ2_S[index], signs[j]);
    }
}

/// Layout: `d`; indices (8 bits); for every 32 weights four times 7 signs and a scale (4 bits).
pub(super) fn iq3_xxs(parts: &mut Parts, block: &[u8; 98]) {
    parts.scale = u16_at(block, 0);
    for (i, out) in eights(&mut parts.integers).iter_mut().enumerate() {
        let (indices, more) = (&block[2 + 8 * i..], u32_at(block, 66 + 4 * i));
        parts.scales[i] = odd((more >> 28) as u16);
        for (j, out) in out.iter_mut().enumerate() {
            let entry = |k: usize| IQ3_XXS[usize::from(indices[2 * j + k])];
            *out = signed(entry(0) | entry(1) << 32, even(more >> (7 * j)));
        }
    }
}

/// Layout: `d`; indices (8 bits); their top bits; signs; scales of 32 weights (4 bits).
pub(super) fn iq3_s(parts: &mut Parts, block: &[u8; 110]) {
    let (indices, top, signs) = (&block[2..66], &block[66..74], &block[74..106]);
    parts.scale = u16_at(block, 0);
    parts.scales = half_bytes(&block[106..]);
    for (j, out) in eights(&mut parts.integers).as_flattened_mut().iter_mut().enumerate() {
        let entry = |k: usize| IQ3_S[usize::from(indices[k]) | usize::from(top[k / 8] >> (k % 8) & 1) << 8];
        *out = signed(entry(2 * j) | entry(2 * j + 1) << 32, signs[j]);
    }
}

/// Returns the integers in eights, for every 32 weights.
#[inline(always)]
fn eights(integers: &mut [u8; 256]) -> &mut [[[u8; 8]; 4]] {
    integers.as_chunks_mut().0.as_chunks_mut().0
}

/// Returns the integers of IQ1, shifted down or up.
#[inline(always)]
fn shifted(index: u8, top: u16, down: bool) -> [u8; 8] {
    let entry = IQ1[usize::from(index) | usize::from(top) << 8];
    (if down { entry - ONES } else { entry + ONES }).to_le_bytes()
}

/// Returns the integers of eight magnitudes.
#[inline(always)]
fn signed(magnitudes: u64, signs: u8) -> [u8; 8] {
    let negative = NEGATIVE[usize::from(signs)];
    // Nothing is carried between bytes, since magnitudes are below 128.
    (128 * ONES + (magnitudes & !negative) - (magnitudes & negative)).to_le_bytes()
}

/// Returns 8 signs from the low 7 bits, with an even number of ones.
#[inline(always)]
fn even(bits: u32) -> u8 {
    let bits = bits as u8 & 0x7F;
    bits | (bits.count_ones() as u8 & 1) << 7
}

/// Returns the scale that is stored as `k`, which is below 16.
#[inline(always)]
fn odd(k: u16) -> i8 {
    (2 * k + 1) as i8
}

/// Returns scales of 4 bits, low halves first; zeros for those that are not there.
#[inline(always)]
fn half_bytes(bytes: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| bytes.get(i / 2).map_or(0, |byte| odd(u16::from(byte >> (i % 2 * 4) & 15))))
}
