//! Activations, as kernels take them: in panels of a few tokens.

use super::ColumnOrder;
use super::cell::{BLOCK, BLOCK_GROUPS, GROUP, QUAD};

/// Tokens of a panel, at most.
pub(super) const PANEL: usize = 6;

/// What becomes of the activations of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Times their columns' steps, rounded to 8 bits with a scale for each block of 128 columns.
    #[default]
    Int8,
    /// Times their columns' steps, in binary32.
    F32,
}

/// Quantized activations of `tokens` tokens: q = round(x / s), ties to even, s = max|x| / 127 over a block.
///
/// A block whose scale is no number makes results that are none: it has an activation that is infinite or not a number.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub tokens: usize,
    /// For each quad of columns, those of each token.
    pub quads: &'a [[i8; QUAD]],
    /// For each group of columns, the sum over it for each token.
    pub sums: &'a [i32],
    /// For each block of columns, the scale of each token.
    pub scales: &'a [f32],
}

/// As [`Panel`], to be written.
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

/// Activations times steps, in the order of columns; zeros in the padding. `x`: one token; `out`: all places.
#[inline(always)]
pub(super) fn permute(columns: &ColumnOrder, x: &[f32], out: &mut [f32]) {
    let (values, padding) = out.split_at_mut(columns.inputs());
    for ((value, &column), step) in values.iter_mut().zip(columns.order()).zip(columns.steps()) {
        *value = x[column as usize] * step;
    }
    padding.fill(0.0);
}

impl PanelMut<'_> {
    /// Quantizes one token, `values` in the order of columns.
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

/// The scale of a block and what to multiply by to quantize.
///
/// Where that would be infinite, beyond about 10^-37, the block counts as zeros.
#[inline(always)]
fn scale(values: &[f32]) -> (f32, f32) {
    const LARGEST: f32 = 127.0;
    // As integers, magnitudes have the order of the floats, with NaN above all.
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

/// Rounds a float of magnitude below 2^22 to the nearest integer, ties to even, and keeps 8 bits of that.
#[inline(always)]
fn round(x: f32) -> i8 {
    // 1.5 * 2^23: the sum has an ulp of 1, and its lowest bits are the integer.
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
