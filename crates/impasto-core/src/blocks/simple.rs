//! Blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! A block is the scale `d` (binary16); in the `_1` types the minimum `m` (binary16); in the 5-bit types the top bits
//! (bit `i` of a u32 belongs to weight `i`); then the integers. In the 4-bit and 5-bit types, the low half of byte `i`
//! belongs to weight `i` and the high half to weight `i + 16`; in Q8_0 each integer is a byte.

use super::apart::{Parts, halves};
use super::{to_f16, u16_at, u32_at};

type Weights = [f32; 32];

/// Also IQ4_NL.
pub(super) fn q4_0(parts: &mut Parts, block: &[u8; 18]) {
    parts.scale = u16_at(block, 0);
    fields(parts, &block[2..], 0);
}

pub(super) fn q4_1(parts: &mut Parts, block: &[u8; 20]) {
    (parts.scale, parts.minimum) = (u16_at(block, 0), u16_at(block, 2));
    fields(parts, &block[4..], 0);
}

pub(super) fn q5_0(parts: &mut Parts, block: &[u8; 22]) {
    parts.scale = u16_at(block, 0);
    fields(parts, &block[6..], u32_at(block, 2));
}

pub(super) fn q5_1(parts: &mut Parts, block: &[u8; 24]) {
    (parts.scale, parts.minimum) = (u16_at(block, 0), u16_at(block, 2));
    fields(parts, &block[8..], u32_at(block, 4));
}

/// Integers plus 128.
pub(super) fn q8_0(parts: &mut Parts, block: &[u8; 34]) {
    parts.scale = u16_at(block, 0);
    parts.integers.iter_mut().zip(&block[2..]).for_each(|(integer, byte)| *integer = byte ^ 128);
}

/// Reads 4-bit fields (16 bytes) with fifth bits from `top`.
#[inline(always)]
fn fields(parts: &mut Parts, bytes: &[u8], top: u32) {
    let out = &mut parts.integers[..32];
    halves(bytes, out);
    out.iter_mut().enumerate().for_each(|(i, integer)| *integer |= (top >> i & 1) as u8 * 16);
}

pub(super) fn to_q4_0(weights: &Weights) -> [u8; 18] {
    let (d, q) = symmetric(weights, 8);
    pack([&to_f16(d), &[], &four_bits(&q)])
}

pub(super) fn to_q4_1(weights: &Weights) -> [u8; 20] {
    let (d, m, q) = affine(weights, 15);
    pack([&[to_f16(d), to_f16(m)].concat(), &[], &four_bits(&q)])
}

pub(super) fn to_q5_0(weights: &Weights) -> [u8; 22] {
    let (d, q) = symmetric(weights, 16);
    pack([&to_f16(d), &fifth_bits(&q), &four_bits(&q)])
}

pub(super) fn to_q5_1(weights: &Weights) -> [u8; 24] {
    let (d, m, q) = affine(weights, 31);
    pack([&[to_f16(d), to_f16(m)].concat(), &fifth_bits(&q), &four_bits(&q)])
}

pub(super) fn to_q8_0(weights: &Weights) -> [u8; 34] {
    let d = extreme(weights).abs() / 127.0;
    let inverse = inverse(d);
    pack([&to_f16(d), &[], &weights.map(|w| integer((w * inverse).round()) as u8)])
}

/// Returns a scale and integers from 0 to `2 * half - 1`, centred on `half`. The weight of largest magnitude becomes 0,
/// so its sign is opposite to that of the scale.
fn symmetric(weights: &Weights, half: u8) -> (f32, [u8; 32]) {
    let half_f = f32::from(half);
    let d = extreme(weights) / -half_f;
    let inverse = inverse(d);
    // The truncated sum can be 2 * half, one above the largest integer.
    let q = |w: f32| integer(w * inverse + (half_f + 0.5)).clamp(0, 2 * i32::from(half) - 1);
    (d, weights.map(|w| q(w) as u8))
}

/// Returns a scale, the minimum and integers from 0 to `most`.
fn affine(weights: &Weights, most: u8) -> (f32, f32, [u8; 32]) {
    let (least, largest) = range(weights);
    let d = (largest - least) / f32::from(most);
    let inverse = inverse(d);
    let q = |w: f32| integer((w - least) * inverse + 0.5).clamp(0, most.into());
    (d, least, weights.map(|w| q(w) as u8))
}

/// Returns the first weight of largest magnitude; the first NaN if there is one.
fn extreme(weights: &Weights) -> f32 {
    let larger = |a: f32, b: f32| if a.is_nan() || a.abs() >= b.abs() { a } else { b };
    weights[1..].iter().fold(weights[0], |a, &b| larger(a, b))
}

/// Returns the smallest and the largest weight; two NaNs if any weight is NaN.
fn range(weights: &Weights) -> (f32, f32) {
    let first = (weights[0], weights[0]);
    weights.iter().fold(first, |(least, largest), &w| match w.is_nan() || least.is_nan() {
        true => (f32::NAN, f32::NAN),
        false => (if w < least { w } else { least }, if w > largest { w } else { largest }),
    })
}

/// Returns `1 / d`, or 0 for 0. (The result is infinite for most subnormal `d`.)
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Truncates toward zero; returns 0 if `x` is not finite, which is the low byte of the result on x86-64.
fn integer(x: f32) -> i32 {
    if x.is_finite() { x as i32 } else { 0 }
}

fn four_bits(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| q[i] & 15 | q[i + 16] << 4)
}

fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    q.iter().rev().fold(0u32, |bits, &q| bits << 1 | u32::from(q >> 4)).to_le_bytes()
}

/// Concatenates the parts of a block.
fn pack<const B: usize>(parts: [&[u8]; 3]) -> [u8; B] {
    let mut block = [0; B];
    block.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, &from)| *to = from);
    block
}
