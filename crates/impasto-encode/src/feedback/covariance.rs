//! The factored covariance of a matrix's inputs.

use rayon::prelude::*;

use super::cholesky::cholesky;
use super::multiply::{Row, WIDTH, multiply_add};

/// The covariance of a matrix's inputs, in the form that rounding uses.
pub struct Feedback {
    pub(super) n: usize,
    /// `n * n`, row-major: entry (i, j) is `L_ji / L_ii` for j > i, else 0.
    pub(super) coefficients: Vec<f32>,
    /// `L_ii`.
    diagonal: Vec<f64>,
}

impl Feedback {
    /// Factors a covariance (`n * n`, row-major; the lower triangle is read) after adding `damping` times its mean
    /// diagonal to the diagonal. Returns `None` if the result is not positive definite, or if the size is not `n * n`.
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
        // The columns of several rows of the result are next to each other in the factor.
        coefficients.par_chunks_mut(WIDTH * n.max(1)).enumerate().for_each(|(block, rows)| {
            let first = block * WIDTH;
            for j in first + 1..n {
                let factors = h[j * n + first..(j + 1) * n].iter().zip(&diagonal[first..j]);
                let rows = rows.chunks_exact_mut(n);
                rows.zip(factors).for_each(|(row, (l, diagonal))| row[j] = (l / diagonal) as f32);
            }
        });
        Some(Feedback { n, coefficients, diagonal })
    }

    /// Creates the identity covariance, which means rounding to nearest.
    pub fn none(n: usize) -> Feedback {
        Feedback { n, coefficients: vec![], diagonal: vec![1.0; n] }
    }

    /// Returns the number of inputs.
    pub fn inputs(&self) -> usize {
        self.n
    }

    /// Returns the squared error of the outputs, `|e L|^2`, summed over the rows `e` of `errors` (row-major). At most
    /// [`WIDTH`] rows are used; others are ignored.
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

    /// Replaces up to [`WIDTH`] rows of errors `e` (row-major) by `e L`, in which squares are those of the outputs.
    pub fn whiten(&self, errors: &mut [f32]) {
        if self.coefficients.is_empty() {
            return;
        }
        let columns = side_by_side(errors, self.n);
        let mut sums = columns.clone();
        multiply_add(&mut sums, &self.coefficients, self.n, &columns, 0.0);
        for (lane, row) in errors.chunks_exact_mut(self.n.max(1)).take(WIDTH).enumerate() {
            let columns = sums.iter().zip(&self.diagonal);
            row.iter_mut().zip(columns).for_each(|(e, (sum, diagonal))| *e = (f64::from(sum[lane]) * diagonal) as f32);
        }
    }

    /// Returns the row `e` whose `e L` is given.
    pub fn unwhiten(&self, whitened: &[f64]) -> Vec<f64> {
        let mut errors: Vec<f64> = whitened.iter().zip(&self.diagonal).map(|(x, diagonal)| x / diagonal).collect();
        if self.coefficients.is_empty() {
            return errors;
        }
        for i in (0..errors.len()).rev() {
            let row = &self.coefficients[i * self.n + i + 1..(i + 1) * self.n];
            errors[i] -= row.iter().zip(&errors[i + 1..]).map(|(&l, e)| f64::from(l) * e).sum::<f64>();
        }
        errors
    }

    /// Returns the mean square of each input, with the damping: the diagonal of `L L^T`.
    pub fn mean_squares(&self) -> Vec<f64> {
        let mut squares: Vec<f64> = self.diagonal.iter().map(|l| l * l).collect();
        for (row, l) in self.coefficients.chunks_exact(self.n.max(1)).zip(&self.diagonal) {
            squares.iter_mut().zip(row).for_each(|(square, &c)| *square += (f64::from(c) * l).powi(2));
        }
        squares
    }

    /// Returns `L_ii`: the weight of an error in column `i`, given the best correction by the columns before it.
    pub fn diagonal(&self) -> &[f64] {
        &self.diagonal
    }
}

/// Transposes up to [`WIDTH`] rows of `n` numbers: one [`Row`] per column. Missing rows are zeros.
pub(super) fn side_by_side(rows: &[f32], n: usize) -> Vec<Row<f32>> {
    let mut columns: Vec<Row<f32>> = vec![[0.0; WIDTH]; n];
    for (lane, row) in rows.chunks_exact(n.max(1)).take(WIDTH).enumerate() {
        columns.iter_mut().zip(row).for_each(|(column, &w)| column[lane] = w);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Squares of whitened errors are those of the outputs, and any row is whitened from one that is found again.
    #[test]
    fn whitened_errors_have_the_squares_of_outputs() {
        let n = 37;
        let number = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 1023) as f32 / 512.0 - 1.0;
        let entry = |i: usize, j: usize| (0..n).map(|k| number(i * n + k) * number(j * n + k)).sum::<f32>();
        let covariance: Vec<f32> = (0..n * n).map(|x| entry(x / n, x % n)).collect();
        for feedback in [Feedback::new(&covariance, n, 0.01).expect("definite"), Feedback::none(n)] {
            let errors: Vec<f32> = (0..5 * n).map(|i| number(i + 9000)).collect();
            let mut whitened = errors.clone();
            feedback.whiten(&mut whitened);
            let square: f64 = whitened.iter().map(|&x| f64::from(x).powi(2)).sum();
            assert!((square / feedback.square(&errors) - 1.0).abs() < 1e-5);
            for (row, errors) in whitened.chunks_exact(n).zip(errors.chunks_exact(n)) {
                let found = feedback.unwhiten(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
                assert!(found.iter().zip(errors).all(|(a, &b)| (a - f64::from(b)).abs() < 1e-3), "{found:?}");
            }
        }
    }
}
