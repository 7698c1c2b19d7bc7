//! Sampling: from logits to the next token.
//!
//! First the logits are changed: repetition penalty, presence and frequency penalty, bias, mask of allowed tokens. Then the
//! filters run, in the order of transformers: temperature, top-k, top-p, min-p. Then one of the remaining tokens is drawn.
//! The same logits and seed give the same tokens: the random stream uses only integers, and candidates are drawn in the
//! order of their logits, ties by id. Tokens are sorted only as far as a filter or the draw needs, so the time is that of a
//! few passes over the vocabulary.

mod adjust;
mod distribution;
mod filter;
mod params;
mod ranked;

use std::borrow::Cow;

use crate::{ModelError, Result};
pub use distribution::Distribution;
use filter::Kept;
use impasto_core::rng::SplitMix64;
pub use params::SamplingParams;
use ranked::{for_each_above, largest};

/// Draws tokens; has its own random stream.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    rng: SplitMix64,
    logit_bias: Vec<(u32, f32)>,
    prompt_length: Option<usize>,
}

impl Sampler {
    /// Creates a sampler at the start of its random stream.
    ///
    /// # Errors
    /// Those of [`SamplingParams::validate`].
    pub fn new(params: SamplingParams) -> Result<Self> {
        params.validate()?;
        Ok(Self { params, rng: SplitMix64::new(params.seed), logit_bias: Vec::new(), prompt_length: None })
    }

    /// The sampling options.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Adds to the logits of tokens, after all penalties: pairs of token id and bias, from -100, which bans the token, to
    /// 100. Biases of the same token add up. A token outside the vocabulary is an error when sampling.
    ///
    /// # Errors
    /// [`ModelError::BadOption`] for a bias out of range; the biases are then unchanged.
    pub fn set_logit_bias(&mut self, biases: Vec<(u32, f32)>) -> Result<()> {
        if let Some((_, bias)) = biases.iter().find(|(_, bias)| !(adjust::BAN..=-adjust::BAN).contains(bias)) {
            let rule = "must be from -100 to 100";
            return Err(ModelError::BadOption { name: "logit-bias", value: bias.to_string(), rule });
        }
        self.logit_bias = biases;
        Ok(())
    }

    /// Says how many tokens of the context are the prompt; presence and frequency penalty count only those after it. Without
    /// this call, it is the whole context of the first token that is drawn.
    pub fn set_prompt_length(&mut self, tokens: usize) {
        self.prompt_length = Some(tokens);
    }

    /// Draws the next token after `context`, given its logits over the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`] when a logit is NaN or +infinity, or all are -infinity; [`ModelError::NoneAllowed`] when
    /// biases ban all tokens; [`ModelError::BadOption`] for a bias of a token outside the vocabulary.
    pub fn sample(&mut self, logits: &[f32], context: &[u32]) -> Result<u32> {
        self.sample_within(logits, context, None)
    }

    /// [`Self::sample`] among the tokens that a mask allows. Token `i` is bit `i % 32` of word `i / 32`, from the least
    /// significant; tokens beyond the mask are not allowed, bits beyond the vocabulary mean nothing.
    ///
    /// # Errors
    /// Those of [`Self::sample`]; [`ModelError::NoneAllowed`] if no allowed token is possible. The random stream does not
    /// advance then.
    pub fn sample_within(&mut self, logits: &[f32], context: &[u32], allowed: Option<&[u32]>) -> Result<u32> {
        self.prompt_length.get_or_insert(context.len());
        let logits = self.adjusted(logits, context, allowed)?;
        let (best, greatest) = self.best(&logits, allowed)?;
        if self.params.temperature == 0.0 {
            return Ok(best);
        }
        let mut kept = Kept::new(&logits, greatest, &self.params);
        // With a temperature so small that the division overflows, the choice is greedy.
        Ok(kept.draw(self.rng.next_f64()).unwrap_or(best))
    }

    /// Returns the distribution that [`Self::sample`] draws from, after penalties, bias, temperature and filters: tokens and
    /// their probabilities, most likely first. Greedy sampling gives one token with probability 1. The random stream
    /// does not advance.
    ///
    /// # Errors
    /// Those of [`Self::sample`].
    pub fn probabilities(&self, logits: &[f32], context: &[u32]) -> Result<Vec<(u32, f64)>> {
        self.probabilities_within(logits, context, None)
    }

    /// Returns the distribution that [`Self::sample`] draws from, as [`Self::probabilities`], without sorting all tokens.
    ///
    /// # Errors
    /// Those of [`Self::sample`].
    pub fn distribution(&self, logits: &[f32], context: &[u32]) -> Result<Distribution> {
        self.distribution_within(logits, context, None)
    }

    /// [`Self::probabilities`] among the tokens that a mask allows.
    ///
    /// # Errors
    /// Those of [`Self::sample_within`].
    pub fn probabilities_within(
        &self,
        logits: &[f32],
        context: &[u32],
        allowed: Option<&[u32]>,
    ) -> Result<Vec<(u32, f64)>> {
        Ok(self.distribution_within(logits, context, allowed)?.all())
    }

    fn distribution_within(&self, logits: &[f32], context: &[u32], allowed: Option<&[u32]>) -> Result<Distribution> {
        let logits = self.adjusted(logits, context, allowed)?;
        let (best, greatest) = self.best(&logits, allowed)?;
        if self.params.temperature == 0.0 {
            return Ok(Distribution::certain(best));
        }
        Ok(Distribution::of_kept(Kept::new(&logits, greatest, &self.params), best))
    }

    /// The logits after penalties, bias and mask.
    fn adjusted<'a>(&self, logits: &'a [f32], context: &[u32], allowed: Option<&[u32]>) -> Result<Cow<'a, [f32]>> {
        if !logits.iter().fold(true, |good, &x| good & (x < f32::INFINITY)) {
            return Err(ModelError::NonFinite(": NaN or infinity".into()));
        }
        let p = &self.params;
        let generated = context.get(self.prompt_length.unwrap_or(context.len())..).unwrap_or_default();
        let is_penalized = p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0;
        let mut logits = Cow::Borrowed(logits);
        if is_penalized || !self.logit_bias.is_empty() || allowed.is_some() {
            let logits = logits.to_mut();
            adjust::repetition(logits, context, p.repetition_penalty);
            adjust::occurrence(logits, generated, p);
            adjust::bias(logits, &self.logit_bias)?;
            allowed.into_iter().for_each(|allowed| adjust::mask(logits, allowed));
        }
        Ok(logits)
    }

    /// The most likely token and its logit.
    fn best(&self, logits: &[f32], allowed: Option<&[u32]>) -> Result<(u32, f32)> {
        greatest(logits).ok_or_else(|| match allowed.is_some() || !self.logit_bias.is_empty() {
            true => ModelError::NoneAllowed,
            false => ModelError::NonFinite(": no token is possible".into()),
        })
    }
}

/// Returns the most likely token, the smallest id on ties; `None` if every logit is -infinity.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    greatest(logits).map(|(id, _)| id)
}

/// The most likely token and its logit.
fn greatest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best = None;
    for_each_above(logits, f32::NEG_INFINITY, |id, logit| {
        best = Some((id, logit));
        logit
    });
    best
}

/// Returns ln of the sum of exp of `logits`: a logit minus this is the token's log probability, in nats.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// Returns the `count` most likely tokens and their logits, none of which is NaN, most likely first, ties by id.
pub fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut first: Vec<_> = largest(logits, count, f32::NEG_INFINITY).into_iter().map(|c| (c.id, c.logit)).collect();
    // Impossible tokens come last.
    let impossible = (0u32..).zip(logits).filter(|(_, logit)| **logit == f32::NEG_INFINITY);
    let missing = count.saturating_sub(first.len());
    first.extend(impossible.take(missing).map(|(id, &logit)| (id, logit)));
    first
}

#[cfg(test)]
mod tests;
