//! Softmax of scores that arrive page by page.

use super::exp::{exp, tanh};
use super::lanes::{Lanes, WIDTH};
use super::pages::PAGE;

/// The scores of some rows with the tokens of a page, and the running state of each row.
///
/// The state of a row is its largest score m so far, and the sum of exp(score - m). When a page has a larger score, m
/// changes, and the sums so far are multiplied by a factor (online softmax: Milakov and Gimelshein, arXiv 1805.02867).
pub(super) struct Softmax<'a> {
    /// Rows x PAGE. On input scores; on output the weights exp(score - m), times the scales of values. Tokens that are
    /// not seen get weight 0.
    pub(super) scores: &'a mut [f32],
    /// For each row, the range of tokens within the page that it sees: first, and one past the last.
    pub(super) seen: &'a [(usize, usize)],
    /// Scales of keys, as bfloat16; empty if there are none.
    pub(super) key_scales: &'a [u8],
    /// Scales of values, as bfloat16; empty if there are none.
    pub(super) value_scales: &'a [u8],
    /// Soft cap on the scores.
    pub(super) cap: Option<f32>,
    /// m of each row; minus infinity before any token was seen.
    pub(super) max: &'a mut [f32],
    /// Partial sums of each row, sixteen per row.
    pub(super) sums: &'a mut [f32],
    /// For each row, the factor for its sums so far.
    pub(super) factors: &'a mut [f32],
}

/// Vectors per row.
const PARTS: usize = PAGE / WIDTH;

/// Turns scores into weights. Scores, maxima, factors and sums have as many rows as `seen`; there are scales for a
/// whole page or none.
#[inline(always)]
pub(super) fn softmax<L: Lanes>(lanes: L, s: &mut Softmax) {
    let key_scales = scales(lanes, s.key_scales);
    let value_scales = scales(lanes, s.value_scales);
    let rows = s.scores.as_chunks_mut::<PAGE>().0.iter_mut().zip(s.seen);
    let known = s.max.iter_mut().zip(s.factors.iter_mut()).zip(s.sums.as_chunks_mut::<WIDTH>().0);
    for ((scores, &(from, to)), ((max, factor), sums)) in rows.zip(known) {
        let scores = scores.as_chunks_mut::<WIDTH>().0;
        if from >= to {
            *factor = 1.0;
            for part in scores {
                lanes.store(part, lanes.splat(0.0));
            }
            continue;
        }
        let mut v = [lanes.splat(0.0); PARTS];
        for (i, (v, part)) in v.iter_mut().zip(scores.iter()).enumerate() {
            *v = lanes.mul(lanes.load(part), key_scales[i]);
            if let Some(cap) = s.cap {
                *v = lanes.mul(lanes.splat(cap), tanh(lanes, lanes.mul(*v, lanes.splat(1.0 / cap))));
            }
            if from > 0 || to < PAGE {
                let within = |token: usize| token.saturating_sub(i * WIDTH).min(WIDTH);
                *v = lanes.keep(*v, within(from), within(to));
            }
        }
        let here = lanes.largest(lanes.max(lanes.max(v[0], v[1]), lanes.max(v[2], v[3])));
        let mut sum = lanes.load(sums);
        if here > *max {
            let mut factors = [0.0; WIDTH];
            lanes.store(&mut factors, exp(lanes, lanes.splat(*max - here)));
            *max = here;
            *factor = factors[0];
            sum = lanes.mul(sum, lanes.splat(*factor));
        } else {
            *factor = 1.0;
        }
        let max = lanes.splat(*max);
        for (i, (v, part)) in v.into_iter().zip(scores.iter_mut()).enumerate() {
            let weight = exp(lanes, lanes.sub(v, max));
            sum = lanes.add(sum, weight);
            lanes.store(part, lanes.mul(weight, value_scales[i]));
        }
        lanes.store(sums, sum);
    }
}

/// Returns the scales of a page; 1 if there are none.
#[inline(always)]
fn scales<L: Lanes>(lanes: L, scales: &[u8]) -> [L::V; PARTS] {
    let mut out = [lanes.splat(1.0); PARTS];
    for (out, part) in out.iter_mut().zip(scales.as_chunks().0) {
        *out = lanes.load_bf16(part);
    }
    out
}
