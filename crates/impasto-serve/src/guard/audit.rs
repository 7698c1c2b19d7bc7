//! Comparison of a text with a finer layer.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use impasto_model::sampling::{argmax, log_sum_exp};
use impasto_model::{CausalLm, ModelError, Result, Want};
use impasto_runtime::{Model, Runtime};

use crate::models::Loaded;

/// The most samples that wait for a model.
const MOST: usize = 8;
/// The most tokens of a text that are compared: the last ones.
const TOKENS: usize = 256;
/// Positions whose logits are in memory at a time.
const ROWS: usize = 16;

/// A text to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Number of tokens of the prompt among them.
    pub prompt: usize,
}

impl Sample {
    /// Takes the end of a text.
    pub fn new(tokens: &[u32], prompt: usize) -> Sample {
        let first = tokens.len().saturating_sub(TOKENS);
        Sample { tokens: tokens[first..].to_vec(), prompt: prompt.saturating_sub(first) }
    }
}

/// Samples that wait, and which texts become samples.
#[derive(Debug, Default)]
pub struct Samples {
    waiting: VecDeque<Sample>,
    /// The share of texts.
    share: f64,
    /// The shares of the texts since the last sample together.
    due: f64,
    /// Whether one is being compared.
    in_hand: bool,
}

impl Samples {
    /// Takes a share of the texts.
    pub fn new(share: f64) -> Samples {
        Samples { share, ..Samples::default() }
    }

    /// Takes a text, if it is its turn and it was continued. Of too many, those that came first are dropped.
    pub fn offer(&mut self, tokens: &[u32], prompt: usize) {
        if self.share <= 0.0 || tokens.len() <= prompt.max(1) {
            return;
        }
        self.due += self.share;
        if self.due < 1.0 {
            return;
        }
        self.due -= 1.0;
        self.waiting.push_back(Sample::new(tokens, prompt));
        if self.waiting.len() > MOST {
            self.waiting.pop_front();
        }
    }

    /// Returns the next sample. It is in hand until [`Self::finish`].
    pub fn take(&mut self) -> Option<Sample> {
        let sample = self.waiting.pop_front();
        self.in_hand = sample.is_some();
        sample
    }

    /// Notes that the sample in hand was dealt with.
    pub fn finish(&mut self) {
        self.in_hand = false;
    }

    /// Whether none waits or is in hand.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.in_hand
    }

    /// Takes a sample that could not be compared.
    pub fn put_back(&mut self, sample: Sample) {
        self.waiting.push_front(sample);
    }
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// KL divergence from the reference in nats per token, over the tokens that were written.
    pub kld: f64,
    /// The share of these for which both have the same most likely token.
    pub agreement: f64,
    /// The relative error of each block.
    pub errors: Vec<f64>,
}

/// Compares a sample of a model with a reference; `None` if there is other work.
///
/// # Errors
/// What a pass fails with.
pub(super) fn compare(
    model: &Loaded,
    reference: &Model,
    sample: &Sample,
    is_busy: &dyn Fn() -> bool,
) -> Result<Option<Audit>> {
    let (served, right): (&Runtime, &Runtime) = match (model.model().runtime(), reference.runtime()) {
        (Some(served), Some(right)) => (served, right),
        _ => return Err(ModelError::ForeignCache),
    };
    let go_on = &mut || if is_busy() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    // The last token predicts nothing that is known.
    let tokens = &sample.tokens[..sample.tokens.len().saturating_sub(1)];
    let from = sample.prompt.saturating_sub(1).min(tokens.len().saturating_sub(1));
    let Some(comparison) = right.compare(served, tokens, from, go_on)? else { return Ok(None) };
    let mut cache = served.new_cache(tokens.len())?;
    let found = served.hidden(&mut cache, tokens, Want::From(from))?;
    let rows = comparison.hidden.rows().min(found.rows());
    let (mut kld, mut agreeing) = (0.0, 0);
    for start in (0..rows).step_by(ROWS) {
        if go_on().is_break() {
            return Ok(None);
        }
        let range = start..(start + ROWS).min(rows);
        let (p, q) = (right.logits(&comparison.hidden, range.clone())?, served.logits(&found, range)?);
        let vocab = right.vocab_size().max(1);
        for (p, q) in p.chunks_exact(vocab).zip(q.chunks_exact(vocab)) {
            kld += divergence(p, q);
            agreeing += usize::from(argmax(p) == argmax(q));
        }
    }
    let count = rows.max(1) as f64;
    Ok(Some(Audit { kld: kld / count, agreement: agreeing as f64 / count, errors: comparison.errors }))
}

/// The KL divergence of the distribution of `q` from that of `p`, in nats.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (of_p, of_q) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    };
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_texts_is_taken() {
        let mut samples = Samples::new(0.25);
        (0..16).for_each(|text| samples.offer(&[text, 1, 2], 1));
        let taken: Vec<u32> = std::iter::from_fn(|| samples.take()).map(|sample| sample.tokens[0]).collect();
        assert_eq!(taken, [3, 7, 11, 15]);
        let mut none = Samples::new(0.0);
        none.offer(&[1, 2, 3], 1);
        assert_eq!(none.take(), None);
        let mut all = Samples::new(1.0);
        all.offer(&[1, 2], 2);
        assert_eq!(all.take(), None, "nothing was written");
        (0..20).for_each(|text| all.offer(&[text, 1], 1));
        assert_eq!(all.take().unwrap().tokens, [12, 1], "the oldest are dropped");
    }

    #[test]
    fn the_end_of_a_text_is_compared() {
        let tokens: Vec<u32> = (0..300).collect();
        let sample = Sample::new(&tokens, 100);
        assert_eq!((sample.tokens.len(), sample.tokens[0], sample.prompt), (256, 44, 56));
        assert_eq!(Sample::new(&tokens, 20).prompt, 0);
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        let (p, q) = ([0.0f32, 1.0, f32::NEG_INFINITY], [0.5f32, 0.5, -3.0]);
        let (a, b) = (1.0 / (1.0 + 1f64.exp()), 1f64.exp() / (1.0 + 1f64.exp()));
        let sum = 2.0 * 0.5f64.exp() + (-3f64).exp();
        let expected = a * (a / (0.5f64.exp() / sum)).ln() + b * (b / (0.5f64.exp() / sum)).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-12);
        assert_eq!(divergence(&p, &p), 0.0);
    }
}
