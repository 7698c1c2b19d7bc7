//! Search for the damping of a covariance, on tokens that the covariance is not computed from.
//!
//! Let `H = L L^T` be the damped covariance. Rounding with error feedback through `H`, at steps `c / L_ii`, leaves
//! errors `e` for which the entries of `e L` are independent with variance `c^2 / 12`. On other tokens, with covariance
//! `G`, this error costs `tr(L^-1 G L^-T) c^2 / 12`. Up to a constant, the rate is the mean of `log2(L_ii / c)`. At
//! equal rate, the logarithm of the cost is therefore
//!
//! `log tr(L^-1 G L^-T) / n + mean log L_ii^2`
//!
//! up to a constant. The weights do not occur in it, so each damping that is tried takes one factorization.

use impasto_model::ModelError;
use rayon::prelude::*;

use super::sums::zeros;
use crate::feedback::cholesky;

/// Number of dampings to choose from, as shares of the mean diagonal: four per decade from 10^[`LEAST`] up.
pub const STEPS: usize = 15;
/// Logarithm to base 10 of the smallest damping.
const LEAST: f64 = -4.0;
/// Step of the search to start from by default: damping 0.01. The cost may be nearly flat below it, with a second
/// minimum.
pub const USUAL: usize = 8;
/// Each step to a lower damping must lower the cost by this much, in nats. Where the cost is flat, the higher damping
/// is safer: with little damping, the errors are unbounded in directions that no calibration token covers, and one
/// token in that direction has a wrong output.
const WORTH: f64 = 0.004;
/// Most held-out tokens that are used; if there are more, these are evenly spread.
pub const TOKENS: usize = 512;

/// Returns the damping of a step of the search.
pub fn damping(step: usize) -> f64 {
    10f64.powf(LEAST + step as f64 / 4.0)
}

/// Returns which of so many held-out tokens are used, in order.
pub fn taken(tokens: usize) -> impl Iterator<Item = usize> + Clone {
    let taken = tokens.min(TOKENS);
    (0..taken).map(move |at| at * tokens / taken)
}

/// The damping at which rounding costs least on held-out tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Its step of the search.
    pub step: usize,
    /// Cost of rounding on the held-out tokens over the cost that the damped covariance predicts; 1 if the prediction
    /// holds.
    pub held_back: f64,
}

/// Searches for the damping of the covariance `sum / tokens` (n x n, lower triangle) on the held-out inputs `held`
/// (rows of n), starting at step `start` or [`USUAL`], whichever is higher.
///
/// # Errors
/// If memory for the factor cannot be allocated.
pub fn search(sum: &[f32], tokens: usize, held: &[f32], n: usize, start: usize) -> Result<Found, ModelError> {
    let rows = held.len().checked_div(n).unwrap_or(0);
    let taken = rows.min(TOKENS);
    let size = n.checked_add(taken).and_then(|rows| rows.checked_mul(n));
    let mut matrix: Vec<f64> = zeros(size, "the factor of a covariance")?;
    let scale = 1.0 / tokens.max(1) as f64;
    let mean = (0..n).map(|i| f64::from(sum[i * n + i])).sum::<f64>() * scale / n.max(1) as f64;
    // Inputs that are always 0 are excluded, whatever the damping.
    let live: Vec<usize> = (0..n).filter(|&i| sum[i * n + i] > 0.0).collect();
    let mut ratio = [f64::NAN; STEPS];
    let mut cost = |step: usize| {
        let (square, below) = matrix.split_at_mut(n * n);
        square.par_chunks_mut(n.max(1)).zip(sum.par_chunks(n.max(1))).enumerate().for_each(|(i, (h, s))| {
            h[..=i].iter_mut().zip(s).for_each(|(h, &s)| *h = f64::from(s) * scale);
            h[i] += damping(step) * mean;
        });
        below.par_chunks_mut(n.max(1)).enumerate().for_each(|(at, row)| {
            let token = at * rows / taken;
            row.iter_mut().zip(&held[token * n..]).for_each(|(row, &x)| *row = f64::from(x));
        });
        if !cholesky(&mut matrix, n) {
            return f64::INFINITY;
        }
        let (factor, below) = matrix.split_at(n * n);
        let squares = |y: &[f64]| live.iter().map(|&i| y[i] * y[i]).sum::<f64>();
        ratio[step] = below.chunks_exact(n.max(1)).map(squares).sum::<f64>() / (live.len() * taken) as f64;
        let log: f64 = live.iter().map(|&i| factor[i * n + i].ln()).sum();
        ratio[step].ln() + 2.0 * log / live.len() as f64
    };
    let step = descend(start.clamp(USUAL, STEPS - 1), STEPS, &mut cost);
    Ok(Found { step, held_back: ratio[step] })
}

/// Returns the minimum of a function on `0..count` that falls and then rises, searching from `start`. Below `start` the
/// search ends where a step gains no more than [`WORTH`].
fn descend(start: usize, count: usize, cost: &mut dyn FnMut(usize) -> f64) -> usize {
    let (mut best, mut least) = (start, cost(start));
    let up: Vec<usize> = (start + 1..count).collect();
    let down: Vec<usize> = (0..start).rev().collect();
    for (way, worth) in [(down, WORTH), (up, 0.0)] {
        for step in way {
            let found = cost(step);
            if found.is_nan() || found + worth >= least {
                break;
            }
            (best, least) = (step, found);
        }
        if best != start {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A random matrix with entries from -1/2 to 1/2.
    fn random(rows: usize, columns: usize) -> Vec<f64> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / 2f64.powi(31) - 0.5
        };
        (0..rows * columns).map(|_| next()).collect()
    }

    /// The sum of `x x^T` over rows of n.
    fn gram(rows: &[f64], n: usize) -> Vec<f64> {
        let entry = |i: usize, j: usize| rows.chunks_exact(n).map(|x| x[i] * x[j]).sum::<f64>();
        (0..n * n).map(|at| entry(at / n, at % n)).collect()
    }

    fn narrow(x: &[f64]) -> Vec<f32> {
        x.iter().map(|&x| x as f32).collect()
    }

    fn trace(h: &[f64], n: usize) -> f64 {
        (0..n).map(|i| h[i * n + i]).sum()
    }

    /// The cost is lowest where the damped covariance equals that of the held-out tokens: at damping d, if the
    /// covariance is short of d times its mean diagonal.
    #[test]
    fn finds_what_the_covariance_lacks() {
        let n = 24;
        // Rank n/2.
        let sum = gram(&random(n / 2, n), n);
        for step in [4, 7, 8, 9, 11] {
            let lacks = damping(step) * trace(&sum, n) / n as f64;
            let mut factor = sum.clone();
            (0..n).for_each(|i| factor[i * n + i] += lacks);
            assert!(cholesky(&mut factor, n));
            // The columns of the factor, scaled, are tokens with that covariance.
            let held: Vec<f64> = (0..n * n)
                .map(|at| if at % n < at / n { 0.0 } else { factor[at % n * n + at / n] * (n as f64).sqrt() })
                .collect();
            let sum: Vec<f64> = sum.iter().map(|s| s * 1000.0).collect();
            for start in [0, USUAL, STEPS - 1] {
                let found = search(&narrow(&sum), 1000, &narrow(&held), n, start).expect("room");
                assert_eq!(found.step, step, "from {start}");
                assert!((found.held_back - 1.0).abs() < 1e-3, "as forecast: {}", found.held_back);
            }
        }
    }

    /// With few tokens of independent inputs, the covariance is mostly noise, and more damping is better. With many
    /// tokens, little is needed.
    #[test]
    fn noise_is_damped() {
        let n = 32;
        let rows = random(20_000, n);
        let (held, rest) = rows.split_at(2000 * n);
        let step = |tokens: usize| {
            let sum = gram(&rest[..tokens * n], n);
            search(&narrow(&sum), tokens, &narrow(held), n, USUAL).expect("room").step
        };
        assert_eq!(step(40), STEPS - 1);
        let skewed =
            |x: &[f64]| -> Vec<f64> { x.iter().enumerate().map(|(at, x)| x * 0.85f64.powi((at % n) as i32)).collect() };
        let (held, sum) = (skewed(held), gram(&skewed(rest), n));
        let found = search(&narrow(&sum), 18_000, &narrow(&held), n, USUAL).expect("room");
        assert!(found.step < 6 && (found.held_back - 1.0).abs() < 0.1, "{found:?}");
    }

    #[test]
    fn inputs_that_are_always_zero_do_not_count() {
        let n = 8;
        let mut rows = random(50, n);
        rows.iter_mut().skip(3).step_by(n).for_each(|x| *x = 0.0);
        let found = search(&narrow(&gram(&rows, n)), 50, &narrow(&rows), n, USUAL).expect("room");
        let without: Vec<f64> = rows.iter().enumerate().filter(|(at, _)| at % n != 3).map(|(_, &x)| x).collect();
        let smaller = search(&narrow(&gram(&without, n - 1)), 50, &narrow(&without), n - 1, USUAL).expect("room");
        assert!(found.step.abs_diff(smaller.step) <= 1, "{found:?} {smaller:?}");
        // The search also ends with sums of zeros or NaN.
        assert_eq!(search(&[0.0; 4], 1, &[1.0, 2.0], 2, 9).expect("room").step, 9);
        assert_eq!(search(&[f32::NAN; 4], 1, &[1.0, 2.0], 2, 9).expect("room").step, 9);
    }

    #[test]
    fn descent() {
        for least in 0..9 {
            for start in 0..9 {
                let mut tried = Vec::new();
                let found = descend(start, 9, &mut |step: usize| {
                    assert!(!tried.contains(&step), "twice");
                    tried.push(step);
                    (step as f64 - least as f64).powi(2)
                });
                assert_eq!(found, least);
            }
        }
        assert_eq!(descend(4, 9, &mut |_| f64::NAN), 4);
        // Where the cost is flat, the higher damping wins.
        assert_eq!(descend(4, 9, &mut |step| step as f64 * WORTH / 2.0), 4);
        assert_eq!(descend(4, 9, &mut |step| step as f64 * -WORTH / 2.0), 8);
    }
}
