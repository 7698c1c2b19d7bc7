//! Which tokens may be drawn: temperature, top-k, top-p and min-p, in this order.

use super::SamplingParams;
use super::ranked::{Candidate, Ranked};

/// The tokens that the filters keep: the first `count` of a ranking.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    ranked: Ranked,
    count: usize,
    /// The sum of their weights, when it is known.
    sum: Option<f64>,
}

impl Kept {
    /// Filters logits, of which `best` is the greatest. No token is kept if dividing by the temperature overflows.
    pub(super) fn new(logits: &[f32], best: f32, p: &SamplingParams) -> Self {
        let is_finite = (best / p.temperature).is_finite();
        let mut ranked = Ranked::new(if is_finite { logits } else { &[] }, p.temperature);
        let count = top_k(&mut ranked, p.top_k);
        // The sum for top-p includes tokens that min-p removes. Both keep the first tokens, so the order does not matter.
        let left = min_p(&mut ranked, count, p.min_p);
        let count = top_p(&mut ranked, count, left, p.top_p);
        Self { ranked, count, sum: None }
    }

    /// Draws a token by probability. `uniform` is from 0 to 1, without 1. `None` if no token is kept.
    pub(super) fn draw(&mut self, uniform: f64) -> Option<u32> {
        let mut left = uniform * self.sum();
        let mut drawn = None;
        self.ranked.take_while(self.count, |candidate, weight| {
            drawn = Some(candidate.id);
            left -= weight;
            left >= 0.0
        });
        drawn
    }

    fn sum(&mut self) -> f64 {
        *self.sum.get_or_insert_with(|| self.ranked.sum(self.count))
    }

    /// Returns how many tokens are kept: 0, 1, or 2 for more.
    pub(super) fn settle(&mut self) -> usize {
        (0..self.count.min(2)).take_while(|place| self.ranked.get(*place).is_some()).count()
    }

    /// Returns the probability of a token.
    pub(super) fn probability(&mut self, token: u32) -> f64 {
        self.ranked.weight(token, self.count) / self.sum()
    }

    /// Returns the tokens and their probabilities, most likely first.
    pub(super) fn probabilities(&mut self) -> Vec<(u32, f64)> {
        let (sum, mut all) = (self.sum(), Vec::new());
        self.ranked.take_while(self.count, |candidate, weight| {
            all.push((candidate.id, weight / sum));
            true
        });
        all
    }

    /// The tokens and their logits, most likely first.
    #[cfg(test)]
    pub(super) fn candidates(&mut self) -> Vec<Candidate> {
        let mut all = Vec::new();
        self.ranked.take_while(self.count, |candidate, _| {
            all.push(candidate);
            true
        });
        all
    }
}

/// Number of tokens at least as likely as the k-th.
fn top_k(ranked: &mut Ranked, k: usize) -> usize {
    let all = ranked.len();
    let Some((Candidate { logit: least, .. }, _)) = k.checked_sub(1).and_then(|last| ranked.get(last)) else {
        return all;
    };
    let mut count = k;
    while ranked.get(count).is_some_and(|(c, _)| c.logit >= least) {
        count += 1;
    }
    count
}

/// Number of the first `count` tokens that are at least `p` times as likely as the first.
fn min_p(ranked: &mut Ranked, count: usize, p: f32) -> usize {
    if p == 0.0 {
        return count;
    }
    ranked.take_while(count, |_, weight| weight >= f64::from(p))
}

/// Length of the shortest prefix of the first `left` tokens whose probabilities among the first `count` sum to `p`.
fn top_p(ranked: &mut Ranked, count: usize, left: usize, p: f32) -> usize {
    if p >= 1.0 {
        return left;
    }
    let enough = f64::from(p) * ranked.sum(count);
    let mut sum = 0.0;
    ranked.take_while(left, |_, weight| {
        let go_on = sum < enough;
        sum += weight;
        go_on
    })
}
