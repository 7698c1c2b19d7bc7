//! The low-rank part of a tensor's weights. It is taken away before they are rounded, so that what is left has a smaller
//! scale and needs fewer bits at the same step.

use std::ops::Range;

use impasto_codec::LowRank;

use super::subspace::{Leading, leading};
use super::terms::{Pair, bits, part};
use crate::arithmetic::{exp2, log2};
use crate::matrix::MatrixView;
use crate::scales::{Scales, fit};

/// Rows of the sample that is looked at first.
const SAMPLE: usize = 512;
/// Values of a sample, and share of its square by which they must exceed those of noise.
const PROBED: usize = 8;
pub const LEAST_SHARE: f64 = 0.04;
/// Most terms: at first, and if all of these pay.
const MOST: [usize; 2] = [12, 60];
/// Fewest bits per weight that parts are chosen for: a model that is made of them needs far fewer, and its steps are finer
/// than its rate says.
const LEAST_RATE: f64 = 2.0;
/// Bits per weight that a part must save.
const LEAST_GAIN: f64 = 0.02;
/// Rows and columns whose pairs of scales stand for all.
const PAIRS: usize = 64;

/// Returns the low-rank part that saves bits in a matrix with these scales, if it is rounded at about `rate` bits per weight,
/// with the scales of what is left; `None` if none does.
///
/// Vectors are found in the matrix divided by the scales of its rows and columns, since these cost nothing.
pub fn of_weights(matrix: &MatrixView, scales: &Scales, rate: f64) -> Option<(LowRank, Scales)> {
    let ([rows, columns], rate) = ([matrix.rows, matrix.columns], rate.max(LEAST_RATE));
    if rows.min(columns) < 2 * PROBED {
        return None;
    }
    let factors = |logs: &[i32], sign: f64| -> Vec<f64> {
        logs.iter().map(|&log| exp2(sign * f64::from(log) / 65536.0)).collect()
    };
    let down = [factors(&scales.rows, -1.0), factors(&scales.columns, -1.0)];
    let read = |row: usize, out: &mut Vec<f32>| {
        let start = out.len();
        matrix.append_weights(row, out);
        let weights = out[start..].iter_mut().zip(&down[1]);
        weights.for_each(|(w, column)| *w = (f64::from(*w) * down[0][row] * column) as f32);
    };
    let sampled = rows.min(SAMPLE);
    let sample = leading([sampled, columns], PROBED, |range: Range<usize>, out: &mut Vec<f32>| {
        range.for_each(|i| read(i * rows / sampled, out));
    });
    if excess(&sample, [sampled, columns]) < LEAST_SHARE {
        return None;
    }
    let up = [factors(&scales.rows, 1.0), factors(&scales.columns, 1.0)];
    let mut best: Option<(LowRank, Scales)> = None;
    for most in MOST {
        let found = leading([rows, columns], most, |range: Range<usize>, out: &mut Vec<f32>| {
            range.for_each(|row| read(row, out));
        });
        let weights = (rows * columns) as f64;
        let Some((pairs, count, remainder)) = choose(found, &up, weights, rate) else { break };
        let Some(low_rank) = part(&pairs[..count], remainder) else { break };
        let left = fit(&MatrixView { less: Some(&low_rank), ..*matrix });
        let saved = rate_at(scales, scales, rate) - rate_at(&left, scales, rate);
        if saved - bits(pairs[..count].iter(), remainder) / weights > LEAST_GAIN {
            best = Some((low_rank, left));
        }
        if count < most {
            break;
        }
    }
    best
}

/// Returns the share of the square of a matrix that its leading values have more than those of noise, of which the largest
/// is `sqrt(rows) + sqrt(columns)` deviations.
pub fn excess(found: &Leading, [rows, columns]: [usize; 2]) -> f64 {
    let edge = ((rows as f64).sqrt() + (columns as f64).sqrt()).powi(2) / (rows * columns).max(1) as f64;
    let share = |value: f64| value * value / found.square.max(f64::MIN_POSITIVE);
    found.values.iter().map(|value| (share(value.value) - edge).max(0.0)).sum()
}

/// Returns the vectors as pairs of the matrix itself, how many of them save most bits, and the square that these leave, in the
/// unit of the squares of the pairs.
fn choose(found: Leading, up: &[Vec<f64>; 2], weights: f64, rate: f64) -> Option<(Vec<Pair>, usize, f64)> {
    let square = found.square;
    let times = |vector: Vec<f64>, factors: &[f64]| vector.iter().zip(factors).map(|(x, factor)| x * factor).collect();
    let pair = |value: super::subspace::Value| Pair {
        rows: times(value.left, &up[0]),
        columns: times(value.right, &up[1]),
        square: value.value * value.value,
    };
    let pairs: Vec<Pair> = found.values.into_iter().map(pair).collect();
    let noise = noise(rate);
    let mut left = square;
    let mut best = (0.0, 0, square);
    for count in 1..=pairs.len() {
        left = (left - pairs[count - 1].square).max(0.0);
        let saved = 0.5 * log2((1.0 + noise) / (left / square + noise)) * weights;
        // Nothing is left of a product; its factors are then as fine as the format has them.
        let least = left.max(f64::MIN_POSITIVE);
        let gain = saved - bits(pairs[..count].iter(), least);
        if gain > best.0 {
            best = (gain, count, least);
        }
    }
    (best.1 > 0).then_some((pairs, best.1, best.2))
}

/// Returns the square of rounding's effect on rates, relative to that of weights which take `rate` bits: a Gaussian of variance
/// `v` takes about `log2(1 + v / noise) / 2`.
fn noise(rate: f64) -> f64 {
    1.0 / (exp2(2.0 * rate) - 1.0).max(1e-3)
}

/// Returns the step, relative to the root mean square, at which Gaussian weights take about `rate` bits.
pub fn step_at(rate: f64) -> f64 {
    // The entropy of a Gaussian of variance 1 is 2.047 bits.
    exp2(2.047 - rate)
}

/// Returns the bits per weight of a matrix with some scales, at the step at which one with the scales `original` takes `rate`.
fn rate_at(scales: &Scales, original: &Scales, rate: f64) -> f64 {
    let noise = noise(rate) * exp2(2.0 * mean_log(original));
    let spread = |logs: &[i32]| -> Vec<f64> {
        let mut sorted = logs.to_vec();
        sorted.sort_unstable();
        let at = |i: usize| f64::from(sorted[(2 * i + 1) * sorted.len() / (2 * PAIRS)]) / 65536.0;
        if sorted.is_empty() { vec![] } else { (0..PAIRS).map(at).collect() }
    };
    let (rows, columns) = (spread(&scales.rows), spread(&scales.columns));
    let bits =
        |row: &f64| columns.iter().map(|column| 0.5 * log2(1.0 + exp2(2.0 * (row + column)) / noise)).sum::<f64>();
    rows.iter().map(bits).sum::<f64>() / (PAIRS * PAIRS) as f64
}

/// Returns the mean of the logarithms of all scales.
fn mean_log(scales: &Scales) -> f64 {
    let mean = |logs: &[i32]| logs.iter().map(|&log| f64::from(log)).sum::<f64>() / logs.len().max(1) as f64 / 65536.0;
    mean(&scales.rows) + mean(&scales.columns)
}

#[cfg(test)]
mod tests {
    use impasto_core::DType;
    use impasto_core::rng::SplitMix64;

    use super::*;

    /// Numbers between -0.5 and 0.5.
    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64::new(seed);
        (0..n).map(|_| random.next_f64() as f32 - 0.5).collect()
    }

    fn found(weights: &[f32], rows: usize, rate: f64) -> Option<(LowRank, Scales)> {
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let matrix = MatrixView::plain(&bytes, DType::F32, rows, weights.len() / rows);
        of_weights(&matrix, &fit(&matrix), rate)
    }

    /// Rows with a mean in common, as token embeddings have; products of two thin matrices; noise.
    #[test]
    fn structure_is_found_and_noise_is_left_alone() {
        let (rows, columns) = (300, 200);
        let noise = numbers(rows * columns, 1);
        assert!(found(&noise, rows, 4.0).is_none());
        let mean = numbers(columns, 2);
        let shifted: Vec<f32> = noise.iter().enumerate().map(|(i, w)| w + 2.0 * mean[i % columns]).collect();
        let (part, left) = found(&shifted, rows, 4.0).expect("a mean");
        assert_eq!(part.terms.len(), 1);
        assert!(left.mean_square < 1.1 / 12.0, "{}", left.mean_square);
        let (down, up) = (numbers(rows * 8, 3), numbers(columns * 8, 4));
        let product = |i: usize| (0..8).map(|k| down[i / columns * 8 + k] * up[i % columns * 8 + k]).sum::<f32>();
        let product: Vec<f32> = (0..rows * columns).map(product).collect();
        let square = product.iter().map(|w| f64::from(w * w)).sum::<f64>() / (rows * columns) as f64;
        let (part, left) = found(&product, rows, 4.0).expect("a product");
        assert_eq!(part.terms.len(), 8);
        assert!(left.mean_square < 0.01 * square, "{} of {square}", left.mean_square);
    }
}
