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

    /// The squared error of the outputs, `|e L|^2`, summed over up to [`WIDTH`] rows `e` of errors, row-major.
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

/// How a target becomes an integer, and the integer a weight.
pub trait Rounding: Sync {
    /// Rounds the targets of column `column` in the rows from `row` on: integers to `z`, and their weights as a decoder
    /// gives them to `weights`.
    fn round(&self, column: usize, row: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>);
}

/// Up to [`WIDTH`] rows, `n` numbers each, column by column, rows side by side. Rows that are not there are zeros.
fn side_by_side(rows: &[f32], n: usize) -> Vec<Row<f32>> {
    let mut columns: Vec<Row<f32>> = vec![[0.0; WIDTH]; n];
    for (lane, row) in rows.chunks_exact(n.max(1)).enumerate() {
        columns.iter_mut().zip(row).for_each(|(column, &w)| column[lane] = w);
    }
    columns
}

/// Rounds up to [`WIDTH`] rows with feedback.
///
/// `rows`: `count * n` weights, row-major; `first`: the number of the first of them; `kept`: how much of each error the
/// columns before it make good, 1 for all; `out`: `count * n` integers, row-major.
pub fn round_rows(
    feedback: &Feedback,
    rows: &[f32],
    first: usize,
    kept: f32,
    rounding: &impl Rounding,
    out: &mut [i32],
) {
    let n = feedback.n;
    assert!(rows.len() == out.len() && rows.len() <= WIDTH * n);
    let mut targets = side_by_side(rows, n);
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
            errors[i - start] = std::array::from_fn(|lane| (weights[i][lane] - v[lane]) * kept);
        }
        if !feedback.coefficients.is_empty() && start > 0 {
            let coefficients = &feedback.coefficients[start..];
            multiply_add(&mut targets[..start], coefficients, n, &errors[..end - start], 0.0);
        }
        end = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To the nearest multiple of each column's step.
    struct Nearest(Vec<f32>);

    impl Rounding for Nearest {
        fn round(&self, column: usize, _: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>) {
            for lane in 0..WIDTH {
                z[lane] = (targets[lane] / self.0[column]).round_ties_even() as i32;
                weights[lane] = z[lane] as f32 * self.0[column];
            }
        }
    }

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// `x x^T` of inputs that hang together.
    fn covariance(n: usize) -> Vec<f32> {
        let mix = random(n * n, 3);
        let entry = |i: usize, j: usize| (0..n).map(|k| mix[i * n + k] * mix[j * n + k]).sum::<f32>();
        (0..n * n).map(|x| entry(x / n, x % n)).collect()
    }

    /// What feedback is for: every entry of `(W - V) L` stays within half of the common step, so the error is as planned
    /// whatever the covariance; rounding each weight by itself does far worse.
    #[test]
    fn every_column_errs_by_half_a_step_at_most() {
        for n in [1, 5, 63, 64, 65, 150] {
            let h = covariance(n);
            let damping = 0.01;
            let feedback = Feedback::new(&h, n, damping).expect("definite");
            let c = 0.05f64;
            let steps: Vec<f32> = feedback.diagonal().iter().map(|l| (c / l) as f32).collect();
            let rows = 13;
            let w = random(rows * n, 8);
            let mut z = vec![0; rows * n];
            round_rows(&feedback, &w, 0, 1.0, &Nearest(steps.clone()), &mut z);
            let mut l: Vec<f64> = h.iter().map(|&x| f64::from(x)).collect();
            let mean = (0..n).map(|i| l[i * n + i]).sum::<f64>() / n as f64;
            (0..n).for_each(|i| l[i * n + i] += damping * mean);
            assert!(cholesky(&mut l, n));
            let error: Vec<f32> = (0..rows * n).map(|k| w[k] - z[k] as f32 * steps[k % n]).collect();
            let mut square = 0.0;
            for error in error.chunks_exact(n) {
                for i in 0..n {
                    let y: f64 = (i..n).map(|j| f64::from(error[j]) * l[j * n + i]).sum();
                    assert!(y.abs() <= c / 2.0 * 1.001, "{n}: column {i} errs by {y}");
                    square += y * y;
                }
            }
            assert!((feedback.square(&error) / square - 1.0).abs() < 1e-3, "{n}: {square}");
        }
    }

    #[test]
    fn without_covariance_it_is_rounding() {
        let w = random(16 * 70, 5);
        let mut z = vec![0; w.len()];
        round_rows(&Feedback::none(70), &w, 0, 1.0, &Nearest(vec![0.01; 70]), &mut z);
        assert!(w.iter().zip(&z).all(|(w, &z)| z == (w / 0.01).round_ties_even() as i32));
    }

    #[test]
    fn a_covariance_that_is_not_definite_is_refused() {
        assert!(Feedback::new(&[0.0; 4], 2, 0.01).is_none());
        assert!(Feedback::new(&[f32::NAN], 1, 0.01).is_none());
        assert!(Feedback::new(&[1.0, 0.0, 3.0, 1.0], 2, 0.0).is_none());
    }
}
