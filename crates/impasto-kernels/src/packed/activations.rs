//! Activations in the form that kernels take: panels of a few tokens.

use super::ColumnOrder;
use super::cell::{BLOCK, BLOCK_GROUPS, GROUP, QUAD};

/// The largest number of tokens in a panel.
pub(super) const PANEL: usize = 6;

/// Precision of the activations in a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Rounded to 8 bits. With packed integers, after multiplication by the steps of their columns, with one scale per
    /// 128 columns; with [blocks](crate::blocks), with one scale per 32 columns.
    #[default]
    Int8,
    /// In binary32; with packed integers, multiplied by the steps of their columns.
    F32,
}

/// Quantized activations of `tokens` tokens: q = round(x / s), ties to even, with s = max|x| / 127 over a block.
///
/// If a block contains an infinity or a NaN, its scale is NaN, and so are the results.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub tokens: usize,
    /// For each quad of columns, the activations of each token.
    pub quads: &'a [[i8; QUAD]],
    /// For each group of columns, the sum of each token's activations.
    pub sums: &'a [i32],
    /// For each block of columns, the scale of each token.
    pub scales: &'a [f32],
}

/// A [`Panel`] to be written.
pub(super) struct PanelMut<'a> {
    pub tokens: usize,
    pub quads: &'a mut [[i8; QUAD]],
    pub sums: &'a mut [i32],
    pub scales: &'a mut [f32],
}

/// Activations of `tokens` tokens in binary32: for each column, those of each token.
#[derive(Clone, Copy)]
pub(super) struct FloatPanel<'a> {
    pub tokens: usize,
    pub values: &'a [f32],
}

/// Writes activations times steps in the sorted order of columns, and zeros in the padding. `x` is one token; `out` has
/// an entry for each position, including padding.
#[inline(always)]
pub(super) fn permute(columns: &ColumnOrder, x: &[f32], out: &mut [f32]) {
    let (values, padding) = out.split_at_mut(columns.inputs());
    for ((value, &column), step) in values.iter_mut().zip(columns.order()).zip(columns.steps()) {
        *value = x[column as usize] * step;
    }
    padding.fill(0.0);
}

impl PanelMut<'_> {
    /// Quantizes one token; `values` are in the sorted order of columns.
    #[inline(always)]
    pub(super) fn quantize(&mut self, token: usize, values: &[f32]) {
        let tokens = self.tokens;
        for (block, values) in values.chunks(BLOCK).enumerate() {
            let (scale, inverse) = scale(values);
            self.scales[block * tokens + token] = scale;
            for (group, values) in values.as_chunks::<GROUP>().0.iter().enumerate() {
                let group = block * BLOCK_GROUPS + group;
                let q = values.map(|x| round(x * inverse));
                self.sums[group * tokens + token] = q.iter().map(|&q| i32::from(q)).sum();
                let quads = &mut self.quads[group * GROUP / QUAD * tokens..][..GROUP / QUAD * tokens];
                for (to, from) in quads.iter_mut().skip(token).step_by(tokens).zip(q.as_chunks::<QUAD>().0) {
                    *to = *from;
                }
            }
        }
    }
}

/// Returns the scale of a block and its inverse, by which activations are multiplied.
///
/// If the inverse would be infinite (all magnitudes below about 10^-37), the block is treated as zeros.
#[inline(always)]
pub(crate) fn scale(values: &[f32]) -> (f32, f32) {
    const LARGEST: f32 = 127.0;
    // Compared as integers, magnitudes have the order of the floats, with NaN above all.
    let most = values.iter().fold(0, |most, x| most.max(x.to_bits() & (u32::MAX >> 1)));
    let most = f32::from_bits(most);
    let inverse = LARGEST / most;
    if !most.is_finite() {
        (f32::NAN, 0.0)
    } else if inverse.is_finite() {
        (most / LARGEST, inverse)
    } else {
        (0.0, 0.0)
    }
}

/// Rounds a float of magnitude below 2^22 to the nearest integer, ties to even, and returns the low 8 bits.
#[inline(always)]
pub(crate) fn round(x: f32) -> i8 {
    // 1.5 * 2^23: the sum has an ulp of 1, so its lowest bits are the integer.
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(values: &[f32]) -> (Vec<[i8; QUAD]>, Vec<i32>, Vec<f32>) {
        let n = values.len();
        let (mut quads, mut sums, mut scales) =
            (vec![[0; QUAD]; n / QUAD], vec![0; n / GROUP], vec![0.0; n.div_ceil(BLOCK)]);
        PanelMut { tokens: 1, quads: &mut quads, sums: &mut sums, scales: &mut scales }.quantize(0, values);
        (quads, sums, scales)
    }

    #[test]
    fn rounding() {
        for i in -127 * 64..=127 * 64 {
            let x = i as f32 / 64.0;
            assert_eq!(i32::from(round(x)), x.round_ties_even() as i32);
        }
    }

    #[test]
    fn blocks_have_their_own_scales() {
        let mut values = vec![0.0f32; 3 * BLOCK + GROUP];
        values[5] = -254.0;
        values[6] = 3.0;
        values[BLOCK..2 * BLOCK].fill(f32::MIN_POSITIVE / 2.0);
        values[2 * BLOCK + 9] = f32::NEG_INFINITY;
        values[3 * BLOCK] = f32::MAX;
        let (quads, sums, scales) = quantized(&values);
        assert_eq!(quads[1], [0, -127, 2, 0]);
        assert_eq!((sums[0], scales[0]), (-125, 2.0));
        assert!(quads[BLOCK / QUAD..3 * BLOCK / QUAD].iter().all(|&q| q == [0; QUAD]));
        assert_eq!(scales[1], 0.0);
        assert!(scales[2].is_nan());
        assert_eq!((quads[3 * BLOCK / QUAD][0], scales[3]), (127, f32::MAX / 127.0));
        values[2 * BLOCK] = f32::NAN;
        assert!(quantized(&values).2[2].is_nan());
    }
}
