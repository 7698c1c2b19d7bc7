//! Causal grouped-query attention.

use rayon::prelude::*;

use crate::config::LlamaConfig;
use crate::product::{Mat, Threads, product};

/// Queries taken at a time. A task holds one block of scores (so many rows x visible tokens), never tokens x tokens.
const QUERIES: usize = 32;

/// Heads and their width.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) query: usize,
    pub(super) kv: usize,
    pub(super) dim: usize,
}

impl Heads {
    pub(super) fn of(config: &LlamaConfig) -> Self {
        Self { query: config.num_heads, kv: config.num_kv_heads, dim: config.head_dim }
    }
}

/// Softmax of one row in place.
fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    let scale = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= scale);
}

/// Attention of new queries over all keys and values (Vaswani et al., arXiv 1706.03762; grouped heads: Ainslie et al.,
/// arXiv 2305.13245).
///
/// `q` is tokens x (query heads * dim); `keys` and `values` are (past + tokens) x (kv heads * dim); query t sees the
/// first past + t + 1 of them. Returns tokens x (query heads * dim). Blocks of queries are shared out over the current
/// Rayon pool.
pub(super) fn attention(q: &[f32], keys: &[f32], values: &[f32], past: usize, heads: Heads) -> Vec<f32> {
    let (q_width, kv_width) = (heads.query * heads.dim, heads.kv * heads.dim);
    let group = heads.query / heads.kv;
    let scale = 1.0 / (heads.dim as f32).sqrt();
    let mut out = vec![0.0; q.len()];
    let blocks = out.par_chunks_mut(QUERIES * q_width).zip(q.par_chunks(QUERIES * q_width));
    blocks.enumerate().for_each(|(block, (out, q))| {
        let rows = q.len() / q_width;
        let seen = past + block * QUERIES;
        let visible = seen + rows;
        let mut scores = vec![0.0; rows * visible];
        for head in 0..heads.query {
            let (at, kv_at) = (head * heads.dim, head / group * heads.dim);
            let q = Mat::new(&q[at..], rows, heads.dim, q_width);
            let k = Mat::new(&keys[kv_at..], visible, heads.dim, kv_width);
            let v = Mat::new(&values[kv_at..], visible, heads.dim, kv_width);
            product(&mut scores, visible, scale, q, k.t(), Threads::One);
            for (row, scores) in scores.chunks_exact_mut(visible).enumerate() {
                let (past_and_self, future) = scores.split_at_mut(seen + row + 1);
                softmax(past_and_self);
                future.fill(0.0);
            }
            let weights = Mat::new(&scores, rows, visible, visible);
            product(&mut out[at..], q_width, 1.0, weights, v, Threads::One);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    /// The definition, in binary64, one head and one query at a time.
    fn naive(q: &[f32], k: &[f32], v: &[f32], past: usize, h: Heads) -> Vec<f64> {
        let tokens = q.len() / (h.query * h.dim);
        let mut out = Vec::new();
        for t in 0..tokens {
            for head in 0..h.query {
                let kv = head * h.kv / h.query;
                let key = |m: &[f32], s: usize, d: usize| f64::from(m[(s * h.kv + kv) * h.dim + d]);
                let score = |s: usize| {
                    let dot = |d| f64::from(q[(t * h.query + head) * h.dim + d]) * key(k, s, d);
                    ((0..h.dim).map(dot).sum::<f64>() / (h.dim as f64).sqrt()).exp()
                };
                let weights: Vec<f64> = (0..=past + t).map(score).collect();
                let sum: f64 = weights.iter().sum();
                let mix = |d| weights.iter().enumerate().map(|(s, w)| w / sum * key(v, s, d)).sum::<f64>();
                out.extend((0..h.dim).map(mix));
            }
        }
        out
    }

    #[test]
    fn equals_the_definition() {
        let mut rng = SplitMix64::new(5);
        for (tokens, past, query, kv, dim) in [(1, 0, 1, 1, 2), (70, 3, 4, 2, 6), (1, 80, 6, 2, 8), (33, 0, 3, 3, 4)] {
            let heads = Heads { query, kv, dim };
            let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.next_f64() as f32 * 4.0 - 2.0).collect() };
            let q = random(tokens * query * dim);
            let (k, v) = (random((past + tokens) * kv * dim), random((past + tokens) * kv * dim));
            let got = attention(&q, &k, &v, past, heads);
            for (g, e) in got.iter().zip(naive(&q, &k, &v, past, heads)) {
                assert!((f64::from(*g) - e).abs() < 1e-5, "{g} {e}");
            }
        }
    }
}
