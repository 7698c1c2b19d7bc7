//! The covariance of a matrix' inputs, factored.

use super::cholesky::cholesky;
use super::multiply::{Row, WIDTH, multiply_add};

/// The covariance of a matrix' inputs in the form that rounding uses.
pub struct Feedback {
    pub(super) n: usize,
    /// `n * n`, row-major: entry (i, j) is `L_ji / L_ii` for j > i, else 0.
    pub(super) coefficients: Vec<f32>,
    /// `L_ii`.
    diagonal: Vec<f64>,
}

impl Feedback {
    /// Of a covariance, `n * n` and symmetric (the lower triangle is read), plus `damping` times its mean diagonal on
    /// the diagonal. `None` if that is not positive definite, or not of this size.
    pub fn new(covariance: &[f32], n: usize, damping: f64) -> Option<Feedback> {
        if covariance.len() != n.checked_mul(n)? {
            return None;
        }
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

    /// The squared error of the outputs, `|e L|^2`, summed over up to [`WIDTH`] rows `e` of errors, row-major
    /// (further rows do not count).
    pub fn square(&self, errors: &[f32]) -> f64 {
        let errors = side_by_side(errors, self.n);
        let mut sums = errors.clone();
        if !self.coefficients.is_empty() {
            multiply_add(&mut sums, &self.coefficients, self.n, &errors, 0.0);
        }
        let column =
            |(sum, diagonal): (&Row<f32>, &f64)| sum.iter().map(|&y| (f64::from(y) * diagonal).powi(2)).sum::<f64>();
        sums.iter().zip(&self.diagonal).map(column).sum()
    }

    /// `L_ii`: how much an error of column `i` weighs once the columns before have made good what they can.
    pub fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }
}

/// Up to [`WIDTH`] rows, `n` numbers each, column by column, rows side by side. Rows that are not there are zeros.
pub(super) fn side_by_side(rows: &[f32], n: usize) -> Vec<Row<f32>> {
    let mut columns: Vec<Row<f32>> = vec![[0.0; WIDTH]; n];
    for (lane, row) in rows.chunks_exact(n.max(1)).take(WIDTH).enumerate() {
        columns.iter_mut().zip(row).for_each(|(column, &w)| column[lane] = w);
    }
    columns
}
