//! Coarser lattices inside a finer one.
//!
//! From the top down, the integers of each layer are rounded from those of the next finer one, with a part of the error
//! feedback. With full feedback a layer is as good as one that is coded alone, but predicts the finer integers less
//! well, so they cost more. Without feedback the integers nest exactly.

use std::ops::Range;

use impasto_core::lattice;
use rayon::prelude::*;

use crate::feedback::{Feedback, Pruner, Rounding, WIDTH, round_columns, round_rows};
use crate::lattice::{Factors, PathRounder, with_room};

/// Fractions of a step that an offset counts (SPEC 6).
const PARTS: f64 = 256.0;

/// Returns the offset of a coarser lattice, in 256ths of a step: the mean distance, outward, from a coarse point other
/// than 0 to the finer integers that are rounded to it. Midpoints round toward 0, which makes it positive. An odd
/// factor has no midpoints and no offset.
pub fn offset(fine: &[i32], factor: u8) -> u8 {
    let m = i64::from(factor);
    if m % 2 == 1 {
        return 0;
    }
    let sums = |(sum, count): (i64, i64), &z: &i32| {
        let size = i64::from(z).abs();
        let coarse = nearest_down(size, m);
        if coarse > 0 { (sum + size - coarse * m, count + 1) } else { (sum, count) }
    };
    let add = |a: (i64, i64), b: (i64, i64)| (a.0 + b.0, a.1 + b.1);
    // Sums of integers do not depend on their order.
    let (sum, count) = fine.par_iter().fold(|| (0, 0), sums).reduce(|| (0, 0), add);
    let parts = sum as f64 / (count * m).max(1) as f64 * PARTS;
    (parts + 0.5).clamp(0.0, 127.0) as u8
}

/// Divides `size` by `m`, rounding to nearest and midpoints down.
fn nearest_down(size: i64, m: i64) -> i64 {
    (2 * size + m - 1) / (2 * m)
}

/// Returns the integers of the lattice `factor` times as coarse as that of `fine`, row-major like `fine`. Columns
/// compensate the share `kept` of each error of the columns after them. `zeros` chooses integers that are 0.
pub fn coarsen(
    fine: &[i32],
    factors: &Factors,
    factor: u8,
    offset: u8,
    feedback: &Feedback,
    kept: f32,
    zeros: Option<&dyn Pruner>,
) -> Vec<i32> {
    let n = factors.columns.len();
    let mut coarse = vec![0; fine.len()];
    if n == 0 {
        return coarse;
    }
    let rounding = Nearest {
        factors,
        factor: f32::from(factor),
        offset: lattice::offset_in_steps(offset),
        // Half a fine step, so that midpoints round toward 0 even if feedback moves them a little.
        bias: if factor.is_multiple_of(2) { 0.5 / f32::from(factor) } else { 0.0 },
    };
    let chunks = coarse.par_chunks_mut(n * WIDTH).zip(fine.par_chunks(n * WIDTH)).enumerate();
    chunks.for_each(|(chunk, (coarse, fine))| {
        let first = chunk * WIDTH;
        round_rows(feedback, &weights(fine, first, factors), first, kept, &rounding, zeros, coarse);
    });
    coarse
}

/// Returns the integers of paths through the trellis of a coarser lattice, which `paths` rounds to; `parts` are the rows of the
/// segments, in order. Otherwise like [`coarsen`].
pub fn coarsen_to_paths(
    fine: &[i32],
    factors: &Factors,
    feedback: &Feedback,
    kept: f32,
    paths: &PathRounder,
    parts: &[Range<usize>],
) -> Vec<i32> {
    let n = factors.columns.len();
    let mut coarse = vec![0; fine.len()];
    with_room(parts.to_vec(), n, &mut coarse).into_par_iter().for_each(|(rows, coarse)| {
        let weights = weights(&fine[rows.start * n..rows.end * n], rows.start, factors);
        round_columns(feedback, &weights, rows.start, kept, paths, coarse);
    });
    coarse
}

/// Returns the weights that the integers of rows from `first` on stand for.
fn weights(z: &[i32], first: usize, factors: &Factors) -> Vec<f32> {
    let rows = z.chunks_exact(factors.columns.len().max(1)).zip(&factors.rows[first..]);
    rows.flat_map(|(z, &row)| z.iter().zip(&factors.columns).map(move |(&z, &c)| lattice::weight(z, 0.0, c, row)))
        .collect()
}

/// Rounds to the coarser lattice.
struct Nearest<'a> {
    /// Of the finer lattice.
    factors: &'a Factors,
    factor: f32,
    offset: f32,
    bias: f32,
}

impl Rounding for Nearest<'_> {
    fn round(
        &self,
        column: usize,
        first: usize,
        targets: &[f32; WIDTH],
        z: &mut [i32; WIDTH],
        weights: &mut [f32; WIDTH],
    ) {
        let column = self.factors.columns[column] * self.factor;
        for (lane, &row) in self.factors.rows[first..].iter().take(WIDTH).enumerate() {
            let step = column * row;
            let x = targets[lane] / step;
            let size = (x.abs() - self.bias).max(0.0).round_ties_even();
            z[lane] = size.copysign(x) as i32;
            weights[lane] = lattice::point(z[lane], self.offset) * step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(columns: usize, rows: usize) -> Factors {
        Factors { rows: vec![0.5; rows], columns: vec![1.0; columns] }
    }

    /// Without feedback, every integer is in the interval of its coarser one, and midpoints round toward 0.
    #[test]
    fn nests_exactly_without_feedback() {
        let fine: Vec<i32> = (-40..40).collect();
        for factor in 2..=9u8 {
            let coarse = coarsen(&fine, &plain(80, 1), factor, 3, &Feedback::none(80), 0.0, None);
            for (&fine, &coarse) in fine.iter().zip(&coarse) {
                let wanted = nearest_down(i64::from(fine).abs(), factor.into()) * i64::from(fine.signum());
                assert_eq!(i64::from(coarse), wanted, "{fine} by {factor}");
                let residual = (fine - coarse * i32::from(factor)) * coarse.signum();
                assert!(coarse == 0 || (-i32::from(factor) < 2 * residual && 2 * residual <= factor.into()));
            }
        }
    }

    #[test]
    fn offsets_are_means() {
        assert_eq!(offset(&[3, 2, -3, -2, 0, 1], 2), 64, "half of them half a fine step up: a quarter");
        assert_eq!(offset(&[2, 4, -6], 2), 0);
        assert_eq!(offset(&[3, 7, -9], 3), 0);
        assert_eq!(offset(&[], 2), 0);
    }
}
