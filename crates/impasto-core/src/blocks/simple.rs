//! 32 weights under one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! A block is the scale `d` (binary16), in the `_1` types the least value `m` (binary16), in the 5-bit types the top bits (bit
//! `i` of a u32 for weight `i`), then the integers: in 4-bit fields, weight `i` in the low half of byte `i` and weight
//! `i + 16` in its high half; in Q8_0 a byte each.

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

/// Weights of 4-bit fields (16 bytes) with a fifth bit from `top`.
fn fields(bytes: &[u8], top: u32, out: &mut Weights, weight: impl Fn(u8) -> f32) {
    let fifth = |i: usize| (top >> i & 1) as u8 * 16;
    let (low, high) = out.split_at_mut(16);
    for (i, ((&byte, low), high)) in bytes.iter().zip(low).zip(high).enumerate() {
        *low = weight(byte & 15 | fifth(i));
        *high = weight(byte >> 4 | fifth(i + 16));
    }
}

fn top_bits(bytes: &[u8]) -> u32 {
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

/// A scale and integers from 0 to `2 * half - 1` around `half`. The weight of largest magnitude becomes 0, so its sign is the
/// opposite of the scale's.
fn symmetric(weights: &Weights, half: u8) -> (f32, [u8; 32]) {
    let half_f = f32::from(half);
    let d = extreme(weights) / -half_f;
    let inverse = inverse(d);
    // At most 2 * half, one too many.
    let q = |w: f32| integer(w * inverse + (half_f + 0.5)).clamp(0, 2 * i32::from(half) - 1);
    (d, weights.map(|w| q(w) as u8))
}

/// A scale, the least weight and integers from 0 to `most`.
fn affine(weights: &Weights, most: u8) -> (f32, f32, [u8; 32]) {
    let (least, largest) = range(weights);
    let d = (largest - least) / f32::from(most);
    let inverse = inverse(d);
    let q = |w: f32| integer((w - least) * inverse + 0.5).clamp(0, most.into());
    (d, least, weights.map(|w| q(w) as u8))
}

/// The first of the weights of largest magnitude; the first NaN where there is one.
fn extreme(weights: &Weights) -> f32 {
    let larger = |a: f32, b: f32| if a.is_nan() || a.abs() >= b.abs() { a } else { b };
    weights[1..].iter().fold(weights[0], |a, &b| larger(a, b))
}

/// The least and the largest weight; two NaN where there is one.
fn range(weights: &Weights) -> (f32, f32) {
    let first = (weights[0], weights[0]);
    weights.iter().fold(first, |(least, largest), &w| match w.is_nan() || least.is_nan() {
        true => (f32::NAN, f32::NAN),
        false => (if w < least { w } else { least }, if w > largest { w } else { largest }),
    })
}

/// `1 / d`, or 0 for 0. (It is infinite for most subnormal `d`.)
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Truncates to an integer; 0 where `x` is not finite: the low byte of what x86-64 gives.
fn integer(x: f32) -> i32 {
    if x.is_finite() { x as i32 } else { 0 }
}

fn four_bits(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| q[i] & 15 | q[i + 16] << 4)
}

fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    q.iter().rev().fold(0u32, |bits, &q| bits << 1 | u32::from(q >> 4)).to_le_bytes()
}

/// The parts of a block, one after another.
fn pack<const B: usize>(parts: [&[u8]; 3]) -> [u8; B] {
    let mut block = [0; B];
    block.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, &from)| *to = from);
    block
}
