//! The log probabilities of a prompt's tokens.

use std::sync::Arc;

use impasto_model::sampling::{log_sum_exp, top};
use impasto_model::{CausalLm, KvCache, Result, Want};

use super::Scored;

/// Positions whose logits are computed at a time.
const ROWS: usize = 64;

/// A prompt whose tokens are being scored, some at a time.
pub(super) struct Scoring {
    model: Arc<dyn CausalLm>,
    pub(super) cache: KvCache,
    pub(super) tokens: Vec<u32>,
    /// How many of the most likely tokens are reported.
    top: usize,
    /// The tokens so far, from the second on.
    scored: Vec<Scored>,
}

impl Scoring {
    pub(super) fn new(model: Arc<dyn CausalLm>, tokens: Vec<u32>, top: usize) -> Result<Scoring> {
        let cache = model.new_cache(0)?;
        Ok(Scoring { model, cache, tokens, top, scored: Vec::new() })
    }

    /// Scores some more tokens. Returns the number of tokens that were evaluated; 0 when all are scored, and only the last one
    /// of the prompt is not evaluated.
    ///
    /// # Errors
    /// Those of [`CausalLm::hidden`]; the tokens can be tried again.
    pub(super) fn advance(&mut self) -> Result<usize> {
        let from = self.cache.len();
        let until = (self.tokens.len() - 1).min(from + ROWS);
        if from == until {
            return Ok(0);
        }
        let hidden = self.model.hidden(&mut self.cache, &self.tokens[from..until], Want::All)?;
        let logits = self.model.logits(&hidden, 0..hidden.rows()).inspect_err(|_| self.cache.truncate(from))?;
        let rows = logits.chunks_exact(self.model.vocab_size().max(1));
        let next = &self.tokens[from + 1..=until];
        self.scored.extend(rows.zip(next).map(|(row, &token)| score(row, token, self.top)));
        Ok(until - from)
    }

    /// Gives up the keys and values; the scores so far are lost.
    pub(super) fn restart(&mut self) {
        self.cache.clear();
        self.scored.clear();
    }

    /// Returns the cache, the tokens, and the scores from the second token on.
    pub(super) fn finish(self) -> (KvCache, Vec<u32>, Vec<Scored>) {
        (self.cache, self.tokens, self.scored)
    }
}

/// Returns a token with its log probability and the `count` most likely ones.
fn score(logits: &[f32], token: u32, count: usize) -> Scored {
    let sum = log_sum_exp(logits);
    let logprob = |logit: f32| f64::from(logit) - sum;
    Scored {
        token,
        logprob: logits.get(token as usize).map(|&logit| logprob(logit)),
        top: top(logits, count).into_iter().map(|(id, logit)| (id, logprob(logit))).collect(),
    }
}
