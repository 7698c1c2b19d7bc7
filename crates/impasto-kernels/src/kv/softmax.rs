//! Softmax of scores that come page by page.

use super::exp::{exp, tanh};
use super::lanes::{Lanes, WIDTH};
use super::pages::PAGE;

/// The scores of some rows with the tokens of a page, and what is known of each row so far.
///
/// Of a row it is known the largest score m, and the sum of exp(score - m). A page with a larger one changes m, and what
/// was summed up is multiplied by a factor (Milakov and Gimelshein, arXiv 1805.02867).
pub(super) struct Softmax<'a> {
    /// Rows x PAGE: scores, and afterwards weights exp(score - m), times the scales of values; 0 where nothing is seen.
    pub(super) scores: &'a mut [f32],
    /// For each row the tokens that it sees, first and one past the last, within the page.
    pub(super) seen: &'a [(usize, usize)],
    /// Scales of keys, bfloat16; empty where there are none.
    pub(super) key_scales: &'a [u8],
    /// Scales of values, likewise.
    pub(super) value_scales: &'a [u8],
    /// Cap on the scores.
    pub(super) cap: Option<f32>,
    /// m of each row; minus infinity before anything was seen.
    pub(super) max: &'a mut [f32],
    /// Sums of each row, in sixteen parts.
    pub(super) sums: &'a mut [f32],
    /// Of each row the factor for what was summed up.
    pub(super) factors: &'a mut [f32],
}

/// Vectors of a row.
const PARTS: usize = PAGE / WIDTH;

/// # Safety
/// The processor has the features. There are as many rows of scores, maxima, factors and sums as there are entries in
/// `seen`, and scales of a whole page or none.
#[inline(always)]
pub(super) unsafe fn softmax<L: Lanes>(s: &mut Softmax) {
    // SAFETY: a row has PAGE scores and WIDTH sums, a page PAGE scales, and all are within their slices.
    unsafe {
        let mut key_scales = [L::splat(1.0); PARTS];
        let mut value_scales = [L::splat(1.0); PARTS];
        for i in 0..PARTS {
            if !s.key_scales.is_empty() {
                key_scales[i] = L::load_bf16(s.key_scales.as_ptr().add(2 * WIDTH * i));
            }
            if !s.value_scales.is_empty() {
                value_scales[i] = L::load_bf16(s.value_scales.as_ptr().add(2 * WIDTH * i));
            }
        }
        for (row, &(from, to)) in s.seen.iter().enumerate() {
            let scores = s.scores.as_mut_ptr().add(row * PAGE);
            let factor = s.factors.as_mut_ptr().add(row);
            if from >= to {
                *factor = 1.0;
                for i in 0..PARTS {
                    L::store(scores.add(i * WIDTH), L::splat(0.0));
                }
                continue;
            }
            let mut v = [L::splat(0.0); PARTS];
            for i in 0..PARTS {
                v[i] = L::mul(L::load(scores.add(i * WIDTH)), key_scales[i]);
                if let Some(cap) = s.cap {
                    v[i] = L::mul(L::splat(cap), tanh::<L>(L::mul(v[i], L::splat(1.0 / cap))));
                }
                if from > 0 || to < PAGE {
                    let within = |token: usize| token.saturating_sub(i * WIDTH).min(WIDTH);
                    v[i] = L::keep(v[i], within(from), within(to));
                }
            }
            let here = L::largest(L::max(L::max(v[0], v[1]), L::max(v[2], v[3])));
            let max = s.max.as_mut_ptr().add(row);
            let sums = s.sums.as_mut_ptr().add(row * WIDTH);
            let mut sum = L::load(sums);
            if here > *max {
                let mut factors = [0.0; WIDTH];
                L::store(factors.as_mut_ptr(), exp::<L>(L::splat(*max - here)));
                *max = here;
                *factor = factors[0];
                sum = L::mul(sum, L::splat(*factor));
            } else {
                *factor = 1.0;
            }
            let max = L::splat(*max);
            for i in 0..PARTS {
                let weight = exp::<L>(L::sub(v[i], max));
                sum = L::add(sum, weight);
                L::store(scores.add(i * WIDTH), L::mul(weight, value_scales[i]));
            }
            L::store(sums, sum);
        }
    }
}
