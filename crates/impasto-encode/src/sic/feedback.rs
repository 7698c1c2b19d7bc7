//! Rounding rows with error feedback.

use super::cholesky::cholesky;
use super::multiply::{Row, WIDTH, multiply_add};

/// Columns rounded one by one before their errors go to all columns before them in one product.
const BLOCK: usize = 64;

/// The covariance of a matrix' inputs in the form that rounding uses.
pub struct Feedback {
    n: usize,
    /// `n * n`, row-major: entry (i, j) is `L_ji / L_ii` for j > i, else 0.
    coefficients: Vec<f32>,
    /// `L_ii`.
    diagonal: Vec<f64>,
}

impl Feedback {
    /// Of a covariance, `n * n` and symmetric (the lower triangle is read), plus `damping` times its mean diagonal on
    /// the diagonal. `None` if that is not positive definite.
    pub fn new(covariance: &[f32], n: usize, damping: f64) -> Option<Feedback> {
        assert_eq!(covariance.len(), n * n);
        let mean = (0..n).map(|i| f64::from(covariance[i * n + i])).sum::<f64>() / n.max(1) as f64;
        let mut h: Vec<f64> = covariance.iter().map(|&x| f64::from(x)).collect();
        (0..n).for_each(|i| h[i * n + i] += damping * mean);
        if !cholesky(&mut h, n) {
            return None;
        }
        let diagonal: Vec<f64> = (0..n).map(|i| h[i * n + i]).collect();
        let mut coefficients = vec![0.0; n * n];
        for (i, row) in coefficients.chunks_exact_mut(n.max(1)).enumerate() {
            (i + 1..n).for_each(|j| row[j] = (h[j * n + i] / diagonal[i]) as f32);
        }
        Some(Feedback { n, coefficients, diagonal })
    }

    /// No covariance: rounding to nearest.
    pub fn none(n: usize) -> Feedback {
        Feedback { n, coefficients: vec![], diagonal: vec![1.0; n] }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.n
    }

    /// `L_ii`: how much an error of column `i` weighs once the columns before have made good what they can.
    pub fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }
}

/// How a target becomes an integer, and the integer a weight.
pub trait Rounding: Sync {
    /// Rounds the targets of column `column` in the rows from `row` on: integers to `z`, and their weights as a decoder
    /// gives them to `weights`.
    fn round(&self, column: usize, row: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>);
}

/// Rounds up to [`WIDTH`] rows with feedback.
///
/// `rows`: `count * n` weights, row-major; `first`: the number of the first of them; `out`: `count * n` integers,
/// row-major.
pub fn round_rows(feedback: &Feedback, rows: &[f32], first: usize, rounding: &impl Rounding, out: &mut [i32]) {
    let n = feedback.n;
    assert!(rows.len() == out.len() && rows.len() <= WIDTH * n);
    // Column by column, rows side by side. Rows that are not there are zeros.
    let mut targets: Vec<Row<f32>> = vec![[0.0; WIDTH]; n];
    for (lane, row) in rows.chunks_exact(n.max(1)).enumerate() {
        targets.iter_mut().zip(row).for_each(|(t, &w)| t[lane] = w);
    }
    let weights = targets.clone();
    let mut errors: Vec<Row<f32>> = vec![[0.0; WIDTH]; BLOCK];
    let mut end = n;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        for i in (start..end).rev() {
            if !feedback.coefficients.is_empty() {
                // The columns of this block that are rounded already.
                let row = &feedback.coefficients[i * n + i + 1..i * n + end];
                multiply_add(&mut targets[i..=i], row, n, &errors[i + 1 - start..end - start], 0.0);
            }
            let (mut z, mut v) = ([0; WIDTH], [0.0; WIDTH]);
            rounding.round(i, first, &targets[i], &mut z, &mut v);
            for (lane, row) in out.chunks_exact_mut(n).enumerate() {
                row[i] = z[lane];
            }
            errors[i - start] = std::array::from_fn(|lane| weights[i][lane] - v[lane]);
        }
        if !feedback.coefficients.is_empty() && start > 0 {
            let coefficients = &feedback.coefficients[start..];
            multiply_add(&mut targets[..start], coefficients, n, &errors[..end - start], 0.0);
        }
        end = start;
    }
}
