//! Causal grouped-query attention.

use impasto_core::Isa;
use rayon::prelude::*;

use super::elementwise::softcap;
use super::exp::exponentials;
use crate::graph::Attention;
use crate::product::{Mat, Threads, product};

/// Queries per task. A task holds one block of scores (QUERIES x visible tokens), never tokens x tokens.
const QUERIES: usize = 128;

impl Attention {
    /// Turns capped scores into attention weights, in place: softmax over the tokens that the query sees, 0 elsewhere.
    /// Rows are the queries from `position` on, columns the tokens from `from` on.
    pub(crate) fn weigh(&self, scores: &mut [f32], visible: usize, position: usize, from: usize) {
        for (position, row) in (position..).zip(scores.chunks_exact_mut(visible)) {
            let (up_to_self, future) = row.split_at_mut(position + 1 - from);
            let (gone, seen) = up_to_self.split_at_mut(self.first(position) - from);
            softmax(seen);
            gone.fill(0.0);
            future.fill(0.0);
        }
    }
}

/// Softmax of one row in place.
fn softmax(row: &mut [f32]) {
    let scale = (1.0 / exponentials(Isa::best(), row)) as f32;
    row.iter_mut().for_each(|x| *x *= scale);
}

/// Attention of new queries over keys and values (Vaswani et al., arXiv 1706.03762; grouped heads: Ainslie et al.,
/// arXiv 2305.13245; sliding windows: Beltagy et al., arXiv 2004.05150).
///
/// `q` is tokens x (query heads * dim); `keys` and `values` are (past + tokens) x (kv heads * dim). Query t sees the
/// first past + t + 1 rows of these, or the last `window` of those rows. Returns tokens x (query heads * dim). Runs
/// blocks of queries in parallel on the current Rayon pool.
pub(crate) fn attention(q: &[f32], keys: &[f32], values: &[f32], past: usize, how: &Attention) -> Vec<f32> {
    let (q_width, kv_width) = (how.query * how.dim, how.kv * how.dim);
    let group = how.query / how.kv;
    let mut out = vec![0.0; q.len()];
    let blocks = out.par_chunks_mut(QUERIES * q_width).zip(q.par_chunks(QUERIES * q_width));
    blocks.enumerate().for_each(|(block, (out, q))| {
        let rows = q.len() / q_width;
        let position = past + block * QUERIES;
        // Skip the tokens that no query of the block sees.
        let from = how.first(position);
        let visible = position + rows - from;
        let mut scores = vec![0.0; rows * visible];
        for head in 0..how.query {
            let (at, kv_at) = (head * how.dim, from * kv_width + head / group * how.dim);
            let q = Mat::new(&q[at..], rows, how.dim, q_width);
            let k = Mat::new(&keys[kv_at..], visible, how.dim, kv_width);
            let v = Mat::new(&values[kv_at..], visible, how.dim, kv_width);
            product(&mut scores, visible, how.scale, q, k.t(), Threads::One);
            if let Some(cap) = how.softcap {
                softcap(&mut scores, cap);
            }
            how.weigh(&mut scores, visible, position, from);
            let weights = Mat::new(&scores, rows, visible, visible);
            product(&mut out[at..], q_width, 1.0, weights, v, Threads::One);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::rng::SplitMix64;

    /// The definition, in binary64, one head and one query at a time.
    fn naive(q: &[f32], k: &[f32], v: &[f32], past: usize, h: &Attention) -> Vec<f64> {
        let tokens = q.len() / (h.query * h.dim);
        let mut out = Vec::new();
        for t in 0..tokens {
            for head in 0..h.query {
                let kv = head * h.kv / h.query;
                let key = |m: &[f32], s: usize, d: usize| f64::from(m[(s * h.kv + kv) * h.dim + d]);
                let score = |s: usize| {
                    let dot = |d| f64::from(q[(t * h.query + head) * h.dim + d]) * key(k, s, d);
                    let score = (0..h.dim).map(dot).sum::<f64>() * f64::from(h.scale);
                    h.softcap.map_or(score, |c| (score / f64::from(c)).tanh() * f64::from(c)).exp()
                };
                let sees = |s: &usize| h.window.is_none_or(|w| past + t - s < w);
                let seen: Vec<usize> = (0..=past + t).filter(sees).collect();
                let weights: Vec<f64> = seen.iter().map(|&s| score(s)).collect();
                let sum: f64 = weights.iter().sum();
                let mix = |d| weights.iter().zip(&seen).map(|(w, &s)| w / sum * key(v, s, d)).sum::<f64>();
                out.extend((0..h.dim).map(mix));
            }
        }
        out
    }

    #[test]
    fn equals_the_definition() {
        let mut rng = SplitMix64::new(5);
        for (tokens, past, query, kv, dim) in [(1, 0, 1, 1, 2), (70, 3, 4, 2, 6), (1, 80, 6, 2, 8), (33, 0, 3, 3, 4)] {
            for window in [None, Some(1), Some(2), Some(31), Some(32), Some(33), Some(1000)] {
                for softcap in [None, Some(0.75)] {
                    let how = Attention { query, kv, dim, scale: 0.5, softcap, window };
                    let mut random =
                        |n: usize| -> Vec<f32> { (0..n).map(|_| rng.next_f64() as f32 * 4.0 - 2.0).collect() };
                    let q = random(tokens * query * dim);
                    let (k, v) = (random((past + tokens) * kv * dim), random((past + tokens) * kv * dim));
                    let got = attention(&q, &k, &v, past, &how);
                    for (g, e) in got.iter().zip(naive(&q, &k, &v, past, &how)) {
                        assert!((f64::from(*g) - e).abs() < 1e-5, "{g} {e}");
                    }
                }
            }
        }
    }
}
