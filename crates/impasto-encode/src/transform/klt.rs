//! Transforms learned from a tile (SPEC 17.10): the eigenvectors of the covariance of its columns or rows, in parts of one
//! size (Karhunen-Loève transform).

use impasto_codec::transform::basis::{Kind, LEAST_LOG, MOST_LOG, basis};
use impasto_codec::transform::learned::Learned;

use crate::arithmetic::log2;

/// Most parts whose covariance is computed.
const PARTS: usize = 1 << 14;
/// Bits of an entry.
const ENTRY_BITS: f64 = 13.0;
/// Variance, in squared steps, below which a coefficient costs almost nothing.
const NOTHING: f64 = 0.15;
/// Most rounds of Jacobi's method; it converges in fewer.
const ROUNDS: usize = 30;

/// Returns the transform of columns (side 0) or rows (side 1) of `values` (row-major, in steps) that seems to save most bits
/// over the DCT, after its own; `None` if none seems to save any.
pub fn learn(values: &[f32], width: usize, side: usize) -> Option<Learned> {
    let best = (LEAST_LOG..=MOST_LOG).map(|log| of_size(values, width, side, log)).max_by(|a, b| a.0.total_cmp(&b.0));
    let (saved, log, vectors) = best?;
    if saved > 0.0 { Learned::new(log, &vectors).ok() } else { None }
}

/// Returns about the bits that the transform of a size saves, the logarithm of the size, and the vectors.
fn of_size(values: &[f32], width: usize, side: usize, log: u32) -> (f64, u32, Vec<f32>) {
    let n = 1usize << log;
    let height = values.len() / width.max(1);
    let (along, across, step, other) =
        if side == 0 { (height / n, width, width, 1) } else { (width / n, height, 1, width) };
    let parts = along * across;
    let mut covariance = vec![0.0f64; n * n];
    let (stride, mut part) = (parts.div_ceil(PARTS).max(1), vec![0.0f32; n]);
    for i in (0..parts).step_by(stride) {
        let first = i / across * n * step + i % across * other;
        part.iter_mut().enumerate().for_each(|(k, x)| *x = values[first + k * step]);
        for (row, &a) in covariance.chunks_exact_mut(n).zip(&part) {
            row.iter_mut().zip(&part).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
        }
    }
    let count = parts.div_ceil(stride).max(1) as f64;
    covariance.iter_mut().for_each(|sum| *sum /= count);
    let (variances, vectors) = eigenvectors(&covariance, n);
    let bits = |variance: f64| 0.5 * log2(variance.max(NOTHING));
    let dct = &basis(Kind::Dct, log).transposed;
    let of_dct = |k: usize| -> f64 {
        let vector = |i: usize| f64::from(dct[i * n + k]);
        (0..n * n).map(|i| vector(i / n) * vector(i % n) * covariance[i]).sum()
    };
    let saved: f64 = (0..n).map(|k| bits(of_dct(k)) - bits(variances[k])).sum();
    (saved * parts as f64 - ENTRY_BITS * (n * n) as f64, log, vectors)
}

/// Returns the eigenvalues of a symmetric matrix of side `n`, the largest first, and their eigenvectors, one after the other,
/// by Jacobi's method: rotations of two sides, each of which makes an entry 0.
fn eigenvectors(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f32>) {
    let (mut a, mut vectors) = (matrix.to_vec(), vec![0.0; n * n]);
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let all: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..ROUNDS {
        let off: f64 = (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum();
        if off <= 1e-18 * all {
            break;
        }
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            if a[p * n + q] == 0.0 {
                continue;
            }
            let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
            let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
            let c = 1.0 / (t * t + 1.0).sqrt();
            let s = t * c;
            for k in 0..n {
                let (x, y) = (a[k * n + p], a[k * n + q]);
                (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
            }
            for k in 0..n {
                let (x, y) = (a[p * n + k], a[q * n + k]);
                (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                let (x, y) = (vectors[p * n + k], vectors[q * n + k]);
                (vectors[p * n + k], vectors[q * n + k]) = (c * x - s * y, s * x + c * y);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    let sorted = order.iter().flat_map(|&i| &vectors[i * n..(i + 1) * n]).map(|&x| x as f32).collect();
    (order.iter().map(|&i| a[i * n + i]).collect(), sorted)
}

#[cfg(test)]
mod tests {
    use super::super::job::tests::noise;
    use super::*;

    #[test]
    fn eigenvectors_diagonalize() {
        for n in [4, 32] {
            let half: Vec<f64> = (0..n * n).map(|i| f64::from(noise(i))).collect();
            let product = |i: usize| (0..n).map(|k| half[i / n * n + k] * half[i % n * n + k]).sum::<f64>();
            let matrix: Vec<f64> = (0..n * n).map(product).collect();
            let (values, vectors) = eigenvectors(&matrix, n);
            assert!(values.is_sorted_by(|a, b| a >= b));
            for (value, vector) in values.iter().zip(vectors.chunks_exact(n)) {
                let image = |i: usize| (0..n).map(|k| matrix[i * n + k] * f64::from(vector[k])).sum::<f64>();
                assert!((0..n).all(|i| (image(i) - value * f64::from(vector[i])).abs() < 1e-4 * values[0]));
                assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
        let (_, vectors) = eigenvectors(&[0.0; 16], 4);
        assert!(vectors.iter().all(|x| x.is_finite()));
    }

    /// Columns that repeat a few patterns are learned; noise is not worth a transform.
    #[test]
    fn patterns_are_learned() {
        let pattern =
            |r: usize, c: usize| noise(r % 8 + 1000) * noise(c) + noise(r % 8 + 2000) * noise(c + 500 + r / 8);
        let values: Vec<f32> = (0..64 * 96).map(|i| 20.0 * pattern(i / 96, i % 96) + 0.2 * noise(i + 9000)).collect();
        let learned = learn(&values, 96, 0).expect("worth it");
        assert!(learned.log() >= 3, "{}", learned.log());
        let transposed: Vec<f32> = (0..64 * 96).map(|i| values[i % 64 * 96 + i / 64]).collect();
        assert_eq!(learn(&transposed, 64, 1), Some(learned));
        let noise: Vec<f32> = (0..64 * 96).map(|i| 4.0 * noise(i)).collect();
        assert!(learn(&noise, 96, 0).is_none() && learn(&noise, 96, 1).is_none());
    }
}
