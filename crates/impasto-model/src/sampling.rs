//! Sampling: from logits to the next token.
//!
//! The filters run in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p; then one of the
//! remaining tokens is drawn. The same logits and seed give the same tokens: the random stream uses only integers, and
//! candidates are drawn in the order of their logits, ties by id.

use std::borrow::Cow;

use crate::{ModelError, Result};
use impasto_core::rng::SplitMix64;

/// How the next token is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token and disables the filters below.
    pub temperature: f32,
    /// Keep the k most likely tokens, and those as likely as the k-th; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens until their probabilities sum to this (Holtzman et al., arXiv 1904.09751); 1 keeps
    /// all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the most likely (arXiv 2407.01082); 0 keeps all.
    pub min_p: f32,
    /// Logits of tokens already in the context are divided by this if positive, multiplied if negative (Keskar et al.,
    /// arXiv 1909.05858); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Seed of the random stream.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingParams {
    /// Checks that every option is in its range.
    ///
    /// # Errors
    /// [`ModelError::BadOption`] naming the first that is not.
    pub fn validate(&self) -> Result<()> {
        let rule = |good: bool, name: &'static str, value: f32, rule: &'static str| {
            if good { Ok(()) } else { Err(ModelError::BadOption { name, value: value.to_string(), rule }) }
        };
        let t = self.temperature;
        rule(t.is_finite() && t >= 0.0, "temperature", t, "must be 0 or more")?;
        rule(self.top_p > 0.0 && self.top_p <= 1.0, "top-p", self.top_p, "must be above 0 and at most 1")?;
        rule((0.0..=1.0).contains(&self.min_p), "min-p", self.min_p, "must be from 0 to 1")?;
        let r = self.repetition_penalty;
        rule(r.is_finite() && r > 0.0, "repetition-penalty", r, "must be above 0")
    }
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Draws tokens; has its own random stream.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    rng: SplitMix64,
}

impl Sampler {
    /// Creates a sampler at the start of its random stream.
    ///
    /// # Errors
    /// Those of [`SamplingParams::validate`].
    pub fn new(params: SamplingParams) -> Result<Self> {
        params.validate()?;
        Ok(Self { params, rng: SplitMix64::new(params.seed) })
    }

    /// The sampling options.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Draws the next token after `context`, given its logits over the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] when a logit is NaN or +infinity, or all are -infinity.
    pub fn sample(&mut self, logits: &[f32], context: &[u32]) -> Result<u32> {
        let (best, mut left) = self.candidates(logits, context)?;
        if left.is_empty() {
            return Ok(best);
        }
        left.truncate(self.draw(&left) + 1);
        Ok(left.last().map_or(best, |c| c.id))
    }

    /// Returns the distribution that [`Self::sample`] draws from, after penalty, temperature and filters: tokens and
    /// their probabilities, most likely first. Greedy sampling gives one token with probability 1. The random stream
    /// does not advance.
    ///
    /// # Errors
    /// Those of [`Self::sample`].
    pub fn probabilities(&self, logits: &[f32], context: &[u32]) -> Result<Vec<(u32, f64)>> {
        let (best, left) = self.candidates(logits, context)?;
        if left.is_empty() {
            return Ok(vec![(best, 1.0)]);
        }
        let weights = weights(&left);
        let sum: f64 = weights.iter().sum();
        Ok(left.iter().zip(weights).map(|(candidate, weight)| (candidate.id, weight / sum)).collect())
    }

    /// The most likely token, and the tokens to draw from: none if the choice is greedy.
    fn candidates(&self, logits: &[f32], context: &[u32]) -> Result<(u32, Vec<Candidate>)> {
        if logits.iter().any(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(ModelError::NonFinite(": NaN or infinity".into()));
        }
        let p = &self.params;
        let mut logits = Cow::Borrowed(logits);
        if p.repetition_penalty != 1.0 {
            penalize(logits.to_mut(), context, p.repetition_penalty);
        }
        let best = argmax(&logits).ok_or_else(|| ModelError::NonFinite(": no token is possible".into()))?;
        // With a temperature so small that the division overflows, no finite logit is left and the choice is greedy.
        let left = if p.temperature == 0.0 { Vec::new() } else { filter(&logits, p) };
        Ok((best, left))
    }

    /// Draws the index of one candidate, by probability.
    fn draw(&mut self, candidates: &[Candidate]) -> usize {
        let weights = weights(candidates);
        let mut left = self.rng.next_f64() * weights.iter().sum::<f64>();
        for (index, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return index;
            }
        }
        candidates.len().saturating_sub(1)
    }
}

/// Returns the most likely token, the smallest id on ties; `None` if every logit is -infinity.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut top = f32::NEG_INFINITY;
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > top {
            (best, top) = (Some(id), logit);
        }
    }
    best
}

/// Returns ln of the sum of exp of `logits`: a logit minus this is the token's log probability, in nats.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// Returns the `count` most likely tokens and their logits, most likely first, ties by id.
pub fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

/// Applies the repetition penalty, once to each token of `context`, however often it occurs.
fn penalize(logits: &mut [f32], context: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = vec![false; logits.len()];
    for &id in context {
        if let (Some(logit), Some(seen)) = (logits.get_mut(id as usize), seen.get_mut(id as usize))
            && !std::mem::replace(seen, true)
        {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Returns the tokens that temperature, top-k, top-p and min-p keep, most likely first, ties by id.
fn filter(logits: &[f32], p: &SamplingParams) -> Vec<Candidate> {
    let scaled = (0u32..).zip(logits).map(|(id, x)| Candidate { id, logit: x / p.temperature });
    let mut left: Vec<Candidate> = scaled.filter(|c| c.logit.is_finite()).collect();
    let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    if p.top_k > 0 && p.top_k < left.len() {
        let (_, kth, _) = left.select_nth_unstable_by(p.top_k - 1, order);
        let least = kth.logit;
        left.retain(|c| c.logit >= least);
    }
    left.sort_unstable_by(order);
    left.truncate(top_p(&left, p.top_p));
    left.truncate(min_p(&left, p.min_p));
    left
}

/// Probabilities up to a common factor: exp(logit - largest logit).
fn weights(sorted: &[Candidate]) -> Vec<f64> {
    let Some(first) = sorted.first() else { return Vec::new() };
    sorted.iter().map(|c| (f64::from(c.logit) - f64::from(first.logit)).exp()).collect()
}

/// Length of the shortest prefix of `sorted` whose probabilities sum to `p`; never 0 unless empty.
fn top_p(sorted: &[Candidate], p: f32) -> usize {
    if p >= 1.0 {
        return sorted.len();
    }
    let weights = weights(sorted);
    let enough = f64::from(p) * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let before = weights.iter().take_while(|&w| {
        let go_on = sum < enough;
        sum += w;
        go_on
    });
    before.count()
}

/// Length of the prefix of `sorted` that is at least `p` times as likely as its first token.
fn min_p(sorted: &[Candidate], p: f32) -> usize {
    weights(sorted).partition_point(|&w| w >= f64::from(p))
}

#[cfg(test)]
mod tests;
