//! The contribution of outliers to sums, common to all kernels.

use super::activations::{FloatPanel, Panel};
use super::cell::{BLOCK, GROUP, QUAD, STRIP};
use super::row_group::{Outlier, Strip};

/// Integer sums over outliers for each block of columns and each token of a panel, one per row of a strip.
#[derive(Debug, Default)]
pub(super) struct Fixes {
    /// Sums of integers times activations.
    pub sums: Vec<[i32; STRIP]>,
    /// Sums of signs times activations, for matrices with an offset.
    pub signs: Vec<[i32; STRIP]>,
}

impl Fixes {
    /// Makes room for `len` entries: blocks times tokens.
    pub(super) fn grow(&mut self, len: usize) {
        for sums in [&mut self.sums, &mut self.signs] {
            sums.resize(len.max(sums.len()), [0; STRIP]);
        }
    }

    /// Computes the sums over the outliers of a strip: over all of them, or only over the far ones.
    #[inline(always)]
    pub(super) fn sum<const TOKENS: usize, const SIGNS: bool>(&mut self, strip: Strip, panel: Panel, only_far: bool) {
        let len = strip.widths.len().div_ceil(BLOCK / GROUP) * TOKENS;
        let sums = &mut self.sums[..len];
        sums.fill([0; STRIP]);
        let quads = &panel.quads.as_chunks::<TOKENS>().0[..strip.widths.len() * (GROUP / QUAD)];
        let of_blocks = sums.as_chunks_mut::<TOKENS>().0;
        let add = |Outlier { column, row, delta }: Outlier| {
            // There are many outliers; bounds checks would cost as much as the sum.
            // SAFETY: the column of an outlier is in one of the groups of its strip (`Strip::is_sound`), and the slices
            // above hold quads for all groups and sums for all blocks.
            let (sums, quads) =
                unsafe { (of_blocks.get_unchecked_mut(column / BLOCK), quads.get_unchecked(column / QUAD)) };
            for (sums, q) in sums.iter_mut().zip(quads) {
                sums[row % STRIP] += delta * i32::from(q[column % QUAD]);
            }
        };
        if only_far {
            strip.for_each_outlier::<true>(add)
        } else {
            strip.for_each_outlier::<false>(add)
        }
        if SIGNS {
            let signs = &mut self.signs[..len];
            signs.fill([0; STRIP]);
            for Outlier { column, row, delta } in strip.outliers() {
                let sign = sign_beyond(strip.widths[column / GROUP], delta);
                for (to, q) in signs[column / BLOCK * TOKENS..][..TOKENS].iter_mut().zip(&quads[column / QUAD]) {
                    to[row] += sign * i32::from(q[column % QUAD]);
                }
            }
        }
    }
}

/// Returns the sums of outliers times activations in binary32, in the order of outliers.
#[inline(always)]
pub(super) fn sum_floats<const TOKENS: usize>(strip: Strip, panel: FloatPanel, offset: f32) -> [[f32; STRIP]; TOKENS] {
    let mut sums = [[0.0; STRIP]; TOKENS];
    for Outlier { column, row, delta } in strip.outliers() {
        let sign = sign_beyond(strip.widths[column / GROUP], delta) as f32;
        let weight = sign.mul_add(offset, delta as f32);
        for (sums, &x) in sums.iter_mut().zip(&panel.values[column * TOKENS..][..TOKENS]) {
            sums[row] = weight.mul_add(x, sums[row]);
        }
    }
    sums
}

/// Returns the sign of an outlier minus the sign of the cell's integer. In cells of 2 bits or more, the cell's integer
/// already has the sign.
#[inline(always)]
fn sign_beyond(width: u8, delta: i32) -> i32 {
    match width {
        0 => delta.signum(),
        1 => delta.signum().max(0),
        _ => 0,
    }
}
