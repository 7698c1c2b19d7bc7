//! Backward pass of causal grouped-query attention.

use rayon::prelude::*;

use super::elementwise::softcap_slope;
use crate::decoder::elementwise::softcap;
use crate::graph::Attention;
use crate::product::{Mat, Threads, add_product, product};

/// Queries per block. A task holds two blocks of scores (QUERIES x visible tokens), never tokens x tokens.
const QUERIES: usize = 128;

/// Dot product, summed in an order that vectorizes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// One query head. Its columns start at `at` in queries and gradient, and at `kv_at` in keys and values. The gradients
/// that it computes are tokens x dim each.
struct Head<'a> {
    how: &'a Attention,
    at: usize,
    kv_at: usize,
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    gradient: &'a [f32],
}

impl Head<'_> {
    fn backward(&self, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let Self { how, .. } = *self;
        let (dim, q_width, kv_width) = (how.dim, how.query * how.dim, how.kv * how.dim);
        for (block, dq) in dq.chunks_mut(QUERIES * dim).enumerate() {
            let (position, rows) = (block * QUERIES, dq.len() / dim);
            let from = how.first(position);
            let visible = position + rows - from;
            let (q_at, kv_at) = (position * q_width + self.at, from * kv_width + self.kv_at);
            let q = Mat::new(&self.q[q_at..], rows, dim, q_width);
            let gradient = Mat::new(&self.gradient[q_at..], rows, dim, q_width);
            let k = Mat::new(&self.keys[kv_at..], visible, dim, kv_width);
            let v = Mat::new(&self.values[kv_at..], visible, dim, kv_width);
            let matrix = |data| Mat::new(data, rows, visible, visible);

            let mut weights = vec![0.0; rows * visible];
            product(&mut weights, visible, how.scale, q, k.t(), Threads::One);
            let slopes: Option<Vec<f32>> = how.softcap.map(|cap| {
                softcap(&mut weights, cap);
                weights.iter().map(|&score| softcap_slope(score, cap)).collect()
            });
            how.weigh(&mut weights, visible, position, from);
            add_product(&mut dv[from * dim..], dim, 1.0, matrix(&weights).t(), gradient, Threads::One);

            // Backward of softmax: d score = w (d w - sum of w d w). It is 0 for tokens that are not seen, as w = 0.
            let mut scores = vec![0.0; rows * visible];
            product(&mut scores, visible, 1.0, gradient, v.t(), Threads::One);
            for (scores, weights) in scores.chunks_exact_mut(visible).zip(weights.chunks_exact(visible)) {
                let mean = dot(scores, weights);
                scores.iter_mut().zip(weights).for_each(|(score, weight)| *score = weight * (*score - mean));
            }
            if let Some(slopes) = slopes {
                scores.iter_mut().zip(slopes).for_each(|(score, slope)| *score *= slope);
            }
            product(dq, dim, how.scale, matrix(&scores), k, Threads::One);
            add_product(&mut dk[from * dim..], dim, how.scale, matrix(&scores).t(), q, Threads::One);
        }
    }
}

/// Turns gradients by head (heads x tokens x dim) into one matrix, tokens x (heads / group * dim), summing each `group`
/// of heads.
fn gather(heads: &[f32], tokens: usize, dim: usize, group: usize) -> Vec<f32> {
    let mut out = vec![0.0; heads.len() / group];
    let width = out.len() / tokens;
    out.par_chunks_mut(width).enumerate().for_each(|(token, row)| {
        for (head, part) in heads.chunks_exact(tokens * dim).enumerate() {
            let sum = &mut row[head / group * dim..][..dim];
            sum.iter_mut().zip(&part[token * dim..]).for_each(|(sum, x)| *sum += x);
        }
    });
    out
}

/// Gradients of queries, keys and values, given `gradient`, that of the attention output: tokens x (query heads * dim).
/// The context before the queries must be empty. Runs query heads in parallel on the current Rayon pool; sums over the
/// query heads of a key/value head have a fixed order.
pub(super) fn attention_backward(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    how: &Attention,
    gradient: &[f32],
) -> [Vec<f32>; 3] {
    let (tokens, group) = (q.len() / (how.query * how.dim), how.query / how.kv);
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; q.len()]);
    let size = tokens * how.dim;
    let parts = dq.par_chunks_mut(size).zip(dk.par_chunks_mut(size)).zip(dv.par_chunks_mut(size));
    parts.enumerate().for_each(|(head, ((dq, dk), dv))| {
        let (at, kv_at) = (head * how.dim, head / group * how.dim);
        Head { how, at, kv_at, q, keys, values, gradient }.backward(dq, dk, dv);
    });
    [gather(&dq, tokens, how.dim, 1), gather(&dk, tokens, how.dim, group), gather(&dv, tokens, how.dim, group)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::rng::SplitMix64;

    /// The definition, in binary64, one head and one query at a time.
    fn naive(q: &[f32], k: &[f32], v: &[f32], h: &Attention, gradient: &[f32]) -> [Vec<f64>; 3] {
        let tokens = q.len() / (h.query * h.dim);
        let mut out = [q, k, v].map(|x| vec![0.0; x.len()]);
        for (t, head) in (0..tokens).flat_map(|t| (0..h.query).map(move |head| (t, head))) {
            let own = |d: usize| (t * h.query + head) * h.dim + d;
            let other = |s: usize, d: usize| (s * h.kv + head * h.kv / h.query) * h.dim + d;
            let sum = |f: &dyn Fn(usize) -> f64| (0..h.dim).map(f).sum::<f64>();
            let seen: Vec<usize> = (0..=t).filter(|s| h.window.is_none_or(|w| t - s < w)).collect();
            let tanh = |s: usize| {
                let score = sum(&|d| f64::from(q[own(d)]) * f64::from(k[other(s, d)])) * f64::from(h.scale);
                h.softcap.map_or((score, 1.0), |c| {
                    let tanh = (score / f64::from(c)).tanh();
                    (tanh * f64::from(c), 1.0 - tanh * tanh)
                })
            };
            let total: f64 = seen.iter().map(|&s| tanh(s).0.exp()).sum();
            let weight = |s: usize| tanh(s).0.exp() / total;
            let by_weight = |s: usize| sum(&|d| f64::from(gradient[own(d)]) * f64::from(v[other(s, d)]));
            let mean: f64 = seen.iter().map(|&s| weight(s) * by_weight(s)).sum();
            for &s in &seen {
                let by_score = weight(s) * (by_weight(s) - mean) * tanh(s).1 * f64::from(h.scale);
                for d in 0..h.dim {
                    out[0][own(d)] += by_score * f64::from(k[other(s, d)]);
                    out[1][other(s, d)] += by_score * f64::from(q[own(d)]);
                    out[2][other(s, d)] += weight(s) * f64::from(gradient[own(d)]);
                }
            }
        }
        out
    }

    #[test]
    fn equals_the_definition() {
        let mut rng = SplitMix64::new(6);
        for (tokens, query, kv, dim) in [(1, 1, 1, 2), (70, 4, 2, 6), (65, 6, 2, 4), (64, 3, 3, 4), (140, 2, 1, 3)] {
            for window in [None, Some(1), Some(2), Some(63), Some(64), Some(65), Some(1000)] {
                for softcap in [None, Some(0.75)] {
                    let how = Attention { query, kv, dim, scale: 0.5, softcap, window };
                    let mut random =
                        |n: usize| -> Vec<f32> { (0..n).map(|_| rng.next_f64() as f32 * 4.0 - 2.0).collect() };
                    let (q, gradient) = (random(tokens * query * dim), random(tokens * query * dim));
                    let (k, v) = (random(tokens * kv * dim), random(tokens * kv * dim));
                    let got = attention_backward(&q, &k, &v, &how, &gradient);
                    for (got, expected) in got.iter().zip(naive(&q, &k, &v, &how, &gradient)) {
                        assert_eq!(got.len(), expected.len());
                        for (g, e) in got.iter().zip(expected) {
                            assert!((f64::from(*g) - e).abs() < 1e-5 * (1.0 + e.abs()), "{g} {e}");
                        }
                    }
                }
            }
        }
    }
}
