//! Transforms learned from a tile (SPEC 17.10): the eigenvectors of the covariance of its columns or rows, in parts of one
//! size (Karhunen-Loève transform).

use impasto_codec::transform::basis::{Kind, LEAST_LOG, MOST_LOG, basis};
use impasto_codec::transform::learned::Learned;

use crate::arithmetic::log2;
use crate::eigen::eigenvectors;

/// Most parts whose covariance is computed.
const PARTS: usize = 1 << 14;
/// Bits of an entry.
const ENTRY_BITS: f64 = 13.0;
/// Variance, in squared steps, below which a coefficient costs almost nothing.
const NOTHING: f64 = 0.15;

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

#[cfg(test)]
mod tests {
    use super::super::job::tests::noise;
    use super::*;

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
