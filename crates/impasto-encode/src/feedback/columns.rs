//! Rounds whole columns of rows, within which integers depend on each other.

use super::covariance::Feedback;
use super::multiply::{Row, WIDTH};
use super::run::RoundingRun;

/// Turns the targets of a column, of any number of rows, into integers, and these into weights.
pub trait ColumnRounding: Sync {
    /// Rounds the targets of column `column` in `rows` rows from `first` on, [`WIDTH`] in each entry. Writes the integers to `z`,
    /// and to `weights` what a decoder makes of them.
    fn round(
        &self,
        column: usize,
        first: usize,
        rows: usize,
        targets: &[Row<f32>],
        z: &mut [Row<i32>],
        weights: &mut [Row<f32>],
    );
}

/// Rounds rows, one column after the other. `weights` are whole rows, row-major, the first of which has the index `first`; `out` receives an
/// integer for each. `kept` is the share of each error that the columns before it compensate.
///
/// # Panics
/// If there is an incomplete row, or `out` has another length than `weights`.
pub fn round_columns(
    feedback: &Feedback,
    weights: &[f32],
    first: usize,
    kept: f32,
    rounding: &impl ColumnRounding,
    out: &mut [i32],
) {
    assert_eq!(weights.len(), out.len());
    let n = feedback.n;
    let rows = weights.len() / n.max(1);
    let run = |(i, weights): (usize, &[f32])| RoundingRun::new(feedback, weights, first + i * WIDTH, kept);
    let runs: Option<Vec<RoundingRun>> = weights.chunks(WIDTH * n.max(1)).enumerate().map(run).collect();
    let mut runs = runs.expect("whole rows");
    let mut targets = vec![[0.0; WIDTH]; runs.len()];
    let (mut z, mut values) = (vec![[0; WIDTH]; runs.len()], targets.clone());
    for column in (0..n).rev() {
        targets.iter_mut().zip(&mut runs).for_each(|(target, run)| *target = run.target());
        rounding.round(column, first, rows, &targets, &mut z, &mut values);
        runs.iter_mut().zip(&z).zip(&values).for_each(|((run, z), values)| run.settle(*z, *values));
    }
    for (run, out) in runs.iter().zip(out.chunks_mut(WIDTH * n.max(1))) {
        run.write(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::{Rounding, round_rows};

    struct Nearest;

    impl Rounding for Nearest {
        fn round(&self, _: usize, _: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>) {
            for lane in 0..WIDTH {
                z[lane] = (targets[lane] * 8.0).round_ties_even() as i32;
                weights[lane] = z[lane] as f32 / 8.0;
            }
        }
    }

    impl ColumnRounding for Nearest {
        fn round(
            &self,
            column: usize,
            first: usize,
            rows: usize,
            targets: &[Row<f32>],
            z: &mut [Row<i32>],
            weights: &mut [Row<f32>],
        ) {
            assert_eq!(targets.len(), rows.div_ceil(WIDTH));
            for ((targets, z), weights) in targets.iter().zip(z).zip(weights) {
                Rounding::round(self, column, first, targets, z, weights);
            }
        }
    }

    /// Columns are what their rows are, if integers do not depend on each other.
    #[test]
    fn columns_are_rows_side_by_side() {
        for (n, rows, kept) in [(1, 1, 1.0), (70, 33, 1.0), (130, 16, 0.25), (64, 17, 0.5)] {
            let covariance = |i: usize| if i / n == i % n { 1.0 } else { 0.9 / (1 + (i / n).abs_diff(i % n)) as f32 };
            let covariance: Vec<f32> = (0..n * n).map(covariance).collect();
            let feedback = Feedback::new(&covariance, n, 0.01).expect("definite");
            let weights: Vec<f32> = (0..rows * n).map(|i| ((i * i * 7) % 101) as f32 / 50.0 - 1.0).collect();
            let (mut alone, mut together) = (vec![0; rows * n], vec![0; rows * n]);
            for (first, (weights, alone)) in weights.chunks(16 * n).zip(alone.chunks_mut(16 * n)).enumerate() {
                round_rows(&feedback, weights, first * 16, kept, &Nearest, None, alone);
            }
            round_columns(&feedback, &weights, 0, kept, &Nearest, &mut together);
            assert_eq!(alone, together);
        }
    }
}
