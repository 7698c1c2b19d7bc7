//! Which part of a draft is kept, and what follows it.

use std::ops::Deref;

use impasto_core::rng::SplitMix64;

use super::Draft;
use crate::sampling::Distribution;
use crate::{CausalLm, Result, Session, Step};

/// Keeps the part of a draft that the model may have drawn, and draws one more token. Returns how many tokens were kept,
/// and all new tokens. Before, the session has `before` tokens and then the draft, whose verification gave `logits`.
///
/// A guess x, drawn from q, is kept with probability min(1, p(x) / q(x)), where p is the distribution of the model. The
/// token in place of the first that is not kept is drawn from max(0, p - q), normalized. The result has the distribution p
/// (arXiv 2211.17192, appendix A.1). A guess that was not drawn counts as drawn from a distribution that always gives it.
///
/// # Errors
/// Logits that are not finite.
pub(super) fn accept<M: Deref<Target: CausalLm>>(
    session: &mut Session<M>,
    before: usize,
    draft: &mut Draft,
    logits: &[f32],
    rng: &mut SplitMix64,
) -> Result<(usize, Vec<Step>)> {
    let vocab = session.model().vocab_size();
    let mut steps = Vec::new();
    for (index, row) in logits.chunks_exact(vocab.max(1)).enumerate() {
        let mut own = session.sampler().distribution(row, &session.tokens()[..before + index])?;
        let Some(&guess) = draft.tokens.get(index) else {
            let token = own.draw(|| rng.next_f64());
            steps.push(session.step_of(token, row));
            session.push_drawn(token);
            return Ok((index, steps));
        };
        let mut certain = Distribution::certain(guess);
        let from = draft.from.get_mut(index).unwrap_or(&mut certain);
        if is_kept(guess, from, &mut own, rng) {
            steps.push(session.step_of(guess, row));
            continue;
        }
        let token = draw(&rest(from, &mut own), rng);
        steps.push(session.step_of(token, row));
        session.truncate(before + index);
        session.push_drawn(token);
        return Ok((index, steps));
    }
    Ok((steps.len(), steps))
}

/// Decides whether a guess from a distribution is kept.
fn is_kept(guess: u32, from: &mut Distribution, own: &mut Distribution, rng: &mut SplitMix64) -> bool {
    let (p, q) = (own.probability(guess), from.probability(guess));
    // The draw is below 1, so p = q is always kept. Where nothing is left to chance, nothing is drawn.
    p > 0.0 && (p >= q || rng.next_f64() * q < p)
}

/// Returns the distribution from which the token is drawn in place of a guess that was not kept, up to a factor.
fn rest(from: &mut Distribution, own: &mut Distribution) -> Vec<(u32, f64)> {
    let mut rest = own.all();
    let left: Vec<f64> = rest.iter().map(|&(id, p)| (p - from.probability(id)).max(0.0)).collect();
    // If nothing is left but by rounding, both distributions are the same.
    if left.iter().sum::<f64>() > 0.0 {
        rest.iter_mut().zip(left).for_each(|(entry, left)| entry.1 = left);
    }
    rest
}

/// Draws a token by weights; nothing is drawn if there is only one. Without any, token 0.
fn draw(weights: &[(u32, f64)], rng: &mut SplitMix64) -> u32 {
    let possible = || weights.iter().filter(|(_, weight)| *weight > 0.0);
    let last = possible().next_back().map_or(0, |(id, _)| *id);
    if possible().nth(1).is_none() {
        return last;
    }
    let mut left = rng.next_f64() * possible().map(|(_, weight)| weight).sum::<f64>();
    for (id, weight) in possible() {
        left -= weight;
        if left < 0.0 {
            return *id;
        }
    }
    last
}
