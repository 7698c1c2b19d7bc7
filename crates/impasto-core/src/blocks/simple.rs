//! Blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! A block is the scale `d` (binary16); in the `_1` types the minimum `m` (binary16); in the 5-bit types the top bits
//! (bit `i` of a u32 belongs to weight `i`); then the integers. In the 4-bit and 5-bit types, the low half of byte `i`
//! belongs to weight `i` and the high half to weight `i + 16`; in Q8_0 each integer is a byte.

use super::{f16_at, to_f16};

type Weights = [f32; 32];

pub(super) fn q4_0(block: &[u8; 18], out: &mut Weights) {
    let d = f16_at(block, 0);
    fields(&block[2..], 0, out, |q| d * (f32::from(q) - 8.0));
}

pub(super) fn q4_1(block: &[u8; 20], out: &mut Weights) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    fields(&block[4..], 0, out, |q| d * f32::from(q) + m);
}

pub(super) fn q5_0(block: &[u8; 22], out: &mut Weights) {
    let d = f16_at(block, 0);
    fields(&block[6..], top_bits(&block[2..6]), out, |q| d * (f32::from(q) - 16.0));
}

pub(super) fn q5_1(block: &[u8; 24], out: &mut Weights) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    fields(&block[8..], top_bits(&block[4..8]), out, |q| d * f32::from(q) + m);
}

pub(super) fn q8_0(block: &[u8; 34], out: &mut Weights) {
    let d = f16_at(block, 0);
    out.iter_mut().zip(&block[2..]).for_each(|(w, &q)| *w = f32::from(q as i8) * d);
}

/// Dequantizes 4-bit fields (16 bytes) with fifth bits from `top`.
fn fields(bytes: &[u8], top: u32, out: &mut Weights, weight: impl Fn(u8) -> f32) {
    let fifth = |i: usize| (top >> i & 1) as u8 * 16;
    let (low, high) = out.split_at_mut(16);
    for (i, ((&byte, low), high)) in bytes.iter().zip(low).zip(high).enumerate() {
        *low = weight(byte & 15 | fifth(i));
        *high = weight(byte >> 4 | fifth(i + 16));
    }
}

pub(super) fn top_bits(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |bits, &b| bits << 8 | u32::from(b))
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
