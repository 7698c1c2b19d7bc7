//! The scalar lattice: conversion between integers and weights (SPEC 10, 12.4). All crates reconstruct weights with
//! this module.

use crate::at_each_isa;
use crate::dtype::DType;
use crate::isa::Isa;

/// `2^(k / 64)`, rounded to binary32 (SPEC 10.2).
#[rustfmt::skip]
const POWERS: [u32; 64] = [
    0x3F80_0000, 0x3F81_64D2, 0x3F82_CD87, 0x3F84_3A29, 0x3F85_AAC3, 0x3F87_1F62, 0x3F88_980F, 0x3F8A_14D5,
    0x3F8B_95C2, 0x3F8D_1ADF, 0x3F8E_A43A, 0x3F90_31DC, 0x3F91_C3D3, 0x3F93_5A2B, 0x3F94_F4F0, 0x3F96_942D,
    0x3F98_37F0, 0x3F99_E046, 0x3F9B_8D3A, 0x3F9D_3EDA, 0x3F9E_F532, 0x3FA0_B051, 0x3FA2_7043, 0x3FA4_3516,
    0x3FA5_FED7, 0x3FA7_CD94, 0x3FA9_A15B, 0x3FAB_7A3A, 0x3FAD_583F, 0x3FAF_3B79, 0x3FB1_23F6, 0x3FB3_11C4,
    0x3FB5_04F3, 0x3FB6_FD92, 0x3FB8_FBAF, 0x3FBA_FF5B, 0x3FBD_08A4, 0x3FBF_179A, 0x3FC1_2C4D, 0x3FC3_46CD,
    0x3FC5_672A, 0x3FC7_8D75, 0x3FC9_B9BE, 0x3FCB_EC15, 0x3FCE_248C, 0x3FD0_6334, 0x3FD2_A81E, 0x3FD4_F35B,
    0x3FD7_44FD, 0x3FD9_9D16, 0x3FDB_FBB8, 0x3FDE_60F5, 0x3FE0_CCDF, 0x3FE3_3F89, 0x3FE5_B907, 0x3FE8_396A,
    0x3FEA_C0C7, 0x3FED_4F30, 0x3FEF_E4BA, 0x3FF2_8177, 0x3FF5_257D, 0x3FF7_D0DF, 0x3FFA_83B3, 0x3FFD_3E0C,
];

/// Returns `power(i)` of SPEC 10.2, 2 to the power of `i` 64ths, for `i` from -4160 to 4159; exact.
pub fn power(i: i32) -> f32 {
    let octave = f32::from_bits(((127 + (i >> 6)) as u32) << 23);
    f32::from_bits(POWERS[(i & 63) as usize]) * octave
}

/// Returns `scale(i)` of SPEC 10.2 for `i` from -1024 to 1023; exact.
pub fn scale(i: i32) -> f32 {
    power(4 * i)
}

/// Returns the scale of a row at a layer (SPEC 10.3, 12.4), exact.
///
/// - `step`: the row step, -1024 to 1023
/// - `multiplier`: of the row in this layer, -64 to 63, or 0
pub fn row_scale(step: i32, multiplier: i32) -> f32 {
    power(4 * step + multiplier)
}

/// Converts the offset of a layer from 256ths of a step to steps (SPEC 12.4).
#[inline(always)]
pub fn offset_in_steps(offset: u8) -> f32 {
    f32::from(offset) / 256.0
}

/// Returns the reconstruction point of `z`, in steps: `offset` further from 0 than `z`, or 0 if `z` is 0 (SPEC 10.3,
/// 12.4).
#[inline(always)]
pub fn point(z: i32, offset: f32) -> f32 {
    // An offset of 0 needs no branch: adding ±0 changes no float but -0, and `z as f32` is never -0.
    z as f32 + if z == 0 { 0.0 } else { f32::from_bits(offset.to_bits() | z as u32 & 1 << 31) }
}

/// Returns the weight of an integer, before rounding to the dtype of its tensor. Performs the operations of SPEC 10.3
/// in the same order.
///
/// - `offset`: in steps, at least 0
/// - `column`: `scale` of the column's step
/// - `row`: `step * scale` of the row's step
#[inline(always)]
pub fn weight(z: i32, offset: f32, column: f32, row: f32) -> f32 {
    (point(z, offset) * column) * row
}

/// Rounds a weight to nearest even in F16 or BF16; returns it unchanged for every other dtype. `w` must not be a NaN
/// (SPEC 10.3 excludes NaNs).
#[inline(always)]
pub fn round(dtype: DType, w: f32) -> f32 {
    match dtype {
        DType::Bf16 => f32::from_bits(u32::from(to_bf16(w)) << 16),
        DType::F16 => half::f16::from_f32(w).to_f32(),
        _ => w,
    }
}

/// Writes the weights of one row of a tile, rounded to `dtype` (F32, F16 or BF16), as little-endian bytes.
///
/// - `z`: the integers of the row
/// - `offset`: the offset of the layer, in 256ths of a step
/// - `columns`: `scale` of each column's step
/// - `row`: `step * scale` of the row's step
/// - `out`: `z.len()` elements
#[inline(always)]
pub fn reconstruct_row(dtype: DType, z: &[i32], offset: u8, columns: &[f32], row: f32, out: &mut [u8]) {
    let offset = offset_in_steps(offset);
    write_row(dtype, z.iter().zip(columns).map(|(&z, &column)| weight(z, offset, column, row)), out);
}

/// Rounds weights to `dtype` (F32, F16 or BF16) and writes them as little-endian bytes.
pub fn write_weights(dtype: DType, weights: impl Iterator<Item = f32>, out: &mut [u8]) {
    write_row(dtype, weights, out);
}

#[inline(always)]
fn write_row(dtype: DType, weights: impl Iterator<Item = f32>, out: &mut [u8]) {
    match dtype {
        DType::Bf16 => {
            out.as_chunks_mut().0.iter_mut().zip(weights).for_each(|(o, w)| *o = to_bf16(w).to_le_bytes());
        }
        DType::F16 => {
            let halves = out.as_chunks_mut().0.iter_mut().zip(weights);
            halves.for_each(|(o, w)| *o = half::f16::from_f32(w).to_le_bytes());
        }
        _ => out.as_chunks_mut().0.iter_mut().zip(weights).for_each(|(o, w)| *o = w.to_le_bytes()),
    }
}

/// Adds the weights of a base to sums; one that is not finite takes the place of the sum (SPEC 21.7).
#[inline(always)]
pub fn add_base(sums: &mut [f32], of_base: &[f32]) {
    for (sum, &weight) in sums.iter_mut().zip(of_base) {
        *sum = if weight.is_finite() { *sum + weight } else { weight };
    }
}

at_each_isa! {
    /// [`add_base`] with the instructions of `isa`. Returns whether all weights are finite.
    fn add_base_at(sums: &mut [f32], of_base: &[f32]) -> bool {
        add_base(sums, of_base);
        of_base.iter().fold(true, |all, weight| all & weight.is_finite())
    }
}

/// Rounds the sums of numbers and the weights of a base to `dtype`, and writes them. Where these are not finite, its elements
/// stay as they are (SPEC 21.7).
///
/// - `of_base`, `elements`: the weights of the base and its elements, little-endian
pub fn write_over_base(isa: Isa, dtype: DType, sums: &mut [f32], of_base: &[f32], elements: &[u8], out: &mut [u8]) {
    let size = dtype.size();
    if add_base_at(isa, sums, of_base) {
        return write_row_at(isa, dtype, sums, out);
    }
    write_row_at(isa, dtype, sums, out);
    // A conversion to F16 and back would change some NaNs.
    for (i, _) in of_base.iter().enumerate().filter(|(_, weight)| !weight.is_finite()) {
        out[i * size..][..size].copy_from_slice(&elements[i * size..][..size]);
    }
}

at_each_isa! {
    /// [`reconstruct_row`] with the instructions of `isa`.
    pub fn reconstruct_row_at(dtype: DType, z: &[i32], offset: u8, columns: &[f32], row: f32, out: &mut [u8]) {
        reconstruct_row(dtype, z, offset, columns, row, out)
    }
}

at_each_isa! {
    /// Adds the weights of one row of a tile, not rounded, to numbers that are added to them (SPEC 19.2).
    pub fn add_row_at(z: &[i32], offset: u8, columns: &[f32], row: f32, sums: &mut [f32]) {
        let offset = offset_in_steps(offset);
        let weights = z.iter().zip(columns).map(|(&z, &column)| weight(z, offset, column, row));
        sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
    }
}

at_each_isa! {
    /// Rounds weights to `dtype` and writes them as little-endian bytes.
    pub fn write_row_at(dtype: DType, weights: &[f32], out: &mut [u8]) {
        write_row(dtype, weights.iter().copied(), out);
    }
}

/// Rounds to nearest even; `w` must not be a NaN.
#[inline(always)]
fn to_bf16(w: f32) -> u16 {
    let bits = w.to_bits();
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

/// Returns `weight * inverse`, rounded to the nearest integer, ties to even, and saturated to i32. `inverse` is about
/// `1 / (column * row)`.
///
/// A product that is within rounding error of a tie may go to the other neighbour; the weight is then off by half a
/// step in either case.
pub fn quantize(weight: f32, inverse: f32) -> i32 {
    (weight * inverse).round_ties_even() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    #[test]
    fn scales_are_powers_of_two() {
        for i in -4160..4160 {
            let exact = (f64::from(i) / 64.0).exp2();
            assert!((f64::from(power(i)) / exact - 1.0).abs() < 6e-8, "{i}");
        }
        for (k, &bits) in POWERS.iter().enumerate() {
            assert_eq!(((k as f64 / 64.0).exp2() as f32).to_bits(), bits);
        }
        assert_eq!((scale(-1024), scale(16), row_scale(3, -12)), (power(-4096), 2.0, 1.0));
    }

    #[test]
    fn offsets_lead_away_from_zero() {
        let weights = |offset| {
            let mut out = [0; 20];
            reconstruct_row(DType::F32, &[0, 1, -1, 3, 1 << 30], offset, &[1.0, 2.0, 2.0, 1.0, 1.0], 0.5, &mut out);
            out.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect::<Vec<_>>()
        };
        assert_eq!(weights(0), [0.0, 1.0, -1.0, 1.5, 536_870_912.0]);
        assert_eq!(weights(64), [0.0, 1.25, -1.25, 1.625, 536_870_912.0]);
        assert!(weights(127)[0].is_sign_positive());
    }

    proptest! {
        #[test]
        fn rounds_like_half(bits: u32) {
            let w = f32::from_bits(bits);
            prop_assume!(!w.is_nan());
            prop_assert_eq!(to_bf16(w), bf16::from_f32(w).to_bits());
        }
    }
}
