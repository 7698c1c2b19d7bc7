//! The low-rank part of what rounding left.

use std::ops::Range;

use impasto_codec::LowRank;
use impasto_core::lattice::scale;
use rayon::prelude::*;

use super::subspace::leading;
use super::terms::{Pair, part};
use crate::feedback::{Feedback, WIDTH};
use crate::lattice::{Grid, Integers};
use crate::matrix::MatrixView;

/// Returns the part of at most `rank` terms that is nearest to the error of `integers`, which are those of all rows, in the
/// metric of error feedback; `None` if there is no error.
///
/// With `H = L L^T` and the error `E`, the sum of squares of `(E - U V) L` is least for the leading singular vectors `U Q` of
/// `E L`, with `V = Q L^-1`. Rows are divided by their steps, since these say how much rows matter.
pub fn of_error(
    matrix: &MatrixView,
    integers: &Integers,
    grid: &Grid,
    feedback: &Feedback,
    rank: u8,
) -> Option<LowRank> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let row_scale = |row: usize| grid.rows.get(row).map_or(1.0, |&index| scale(index.into()));
    let decoded = integers.weights(matrix.dtype, grid);
    let mut errors = vec![0.0f32; rows * columns];
    errors.par_chunks_mut((WIDTH * columns).max(1)).enumerate().for_each(|(chunk, errors)| {
        let mut weights = Vec::new();
        for (i, error) in errors.chunks_exact_mut(columns.max(1)).enumerate() {
            let row = chunk * WIDTH + i;
            matrix.weights(row, &mut weights);
            let pairs = weights.iter().zip(&decoded[row * columns..]);
            error.iter_mut().zip(pairs).for_each(|(error, (w, v))| *error = (w - v) / row_scale(row));
        }
        feedback.whiten(errors);
    });
    let found = leading([rows, columns], rank.into(), |range: Range<usize>, out: &mut Vec<f32>| {
        out.extend_from_slice(&errors[range.start * columns..range.end * columns]);
    });
    let explained: f64 = found.values.iter().map(|value| value.value * value.value).sum();
    let left = (found.square - explained).max(1e-3 * found.square);
    let pair = |value: super::subspace::Value| Pair {
        rows: value.left.iter().enumerate().map(|(row, x)| x * f64::from(row_scale(row))).collect(),
        columns: feedback.unwhiten(&value.right),
        square: value.value * value.value,
    };
    part(&found.values.into_iter().map(pair).collect::<Vec<_>>(), left)
}
