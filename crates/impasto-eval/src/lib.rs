//! Measures the quality of a model: perplexity of a text, KL divergence from a reference, and accuracy on
//! multiple-choice tasks ([`tasks`]).
//!
//! A text is split into consecutive, non-overlapping windows of `ctx` tokens. Each starts with an empty context, and
//! the tokens of an incomplete last window are not scored. If the tokenizer adds tokens before a text (such as a
//! beginning-of-sequence token), they come before every window; they count toward `ctx` and are never scored.
//! Otherwise, the first token of a window is only context. [`Score::All`] scores every later token of the window, ctx -
//! 1 of them. [`Score::SecondHalf`] scores the tokens from ctx/2 + 1 on, as llama.cpp's `perplexity` does, so that each
//! has at least half a window of context.
//!
//! Logits are computed for a few positions at a time, so memory does not grow with the window. Log-softmax is computed
//! in binary64. Sums have a fixed order: results depend on the number of threads only as far as the model's products
//! do.

mod error;
mod kld;
mod logsoftmax;
mod ppl;
mod stats;
pub mod tasks;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use error::{EvalError, Result};
pub use kld::{Compared, Kld, kld, klds, row_divergences};
pub use ppl::{Perplexity, perplexity};
pub use stats::Estimate;

use impasto_model::{CausalLm, ModelError};
use impasto_text::{TextError, Tokenizer};

/// Bytes of logits in memory at a time, per model. More is no faster; much less makes reading the output projection
/// take longer than computing with it.
const LOGIT_BYTES: usize = 32 << 20;

/// The tokens of a window that are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// All tokens that have a token before them.
    #[default]
    All,
    /// The tokens with more than half a window before them.
    SecondHalf,
}

/// Options for scoring a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Number of tokens in a window.
    pub ctx: usize,
    /// The tokens of a window that are scored.
    pub score: Score,
    /// Number of windows to score, from the start of the text; all if `None`.
    pub windows: Option<usize>,
    /// Number of threads for scoring, besides those of the model; 0 means one per processor.
    pub threads: usize,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { ctx: 512, score: Score::All, windows: None, threads: 0 }
    }
}

/// Progress of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Number of windows scored.
    pub done: usize,
    /// Number of windows in total.
    pub windows: usize,
    /// Perplexity of the model under test so far.
    pub perplexity: f64,
    /// Mean KL divergence so far, if it is measured.
    pub kld: Option<f64>,
}

/// A callback after each window.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// A tokenized text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalText {
    /// Tokens before every window.
    pub prefix: Vec<u32>,
    /// Tokens of the text.
    pub tokens: Vec<u32>,
}

impl EvalText {
    /// Tokenizes `text`. The prefix is what the tokenizer adds before a text.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn new(tokenizer: &Tokenizer, text: &str) -> Result<Self, TextError> {
        Ok(Self { prefix: prefix(tokenizer)?, tokens: tokenizer.encode(text, false)? })
    }

    /// Returns the windows for models with a context of `context` tokens.
    fn windows(&self, options: &EvalOptions, context: usize) -> Result<Vec<Vec<u32>>> {
        let ctx = options.ctx;
        let bad = |name, value: usize, rule| Err(ModelError::BadOption { name, value: value.to_string(), rule }.into());
        let share = ctx.saturating_sub(self.prefix.len());
        if ctx < 2 || share == 0 || scored(options, self.prefix.len()).is_empty() {
            return bad("ctx", ctx, "a window must have room for a token to score and one before it");
        }
        if ctx > context {
            return Err(ModelError::ContextOverflow { tokens: ctx, context }.into());
        }
        if options.windows == Some(0) {
            return bad("windows", 0, "must be at least 1");
        }
        if self.tokens.len() < share {
            return Err(EvalError::TextTooShort { tokens: self.tokens.len(), window: share });
        }
        let all = self.tokens.chunks_exact(share).take(options.windows.unwrap_or(usize::MAX));
        Ok(all.map(|text| [self.prefix.as_slice(), text].concat()).collect())
    }
}

/// The tokens that a tokenizer adds before a text, found by tokenizing "a". Tokens that it adds after a text are
/// ignored.
fn prefix(tokenizer: &Tokenizer) -> Result<Vec<u32>, TextError> {
    let probe = tokenizer.encode("a", false)?;
    let mut with_special = tokenizer.encode("a", true)?;
    with_special.truncate(with_special.windows(probe.len().max(1)).position(|w| w == probe).unwrap_or(0));
    Ok(with_special)
}

/// The indices, in a window, of the positions whose next token is scored.
fn scored(options: &EvalOptions, prefix: usize) -> Range<usize> {
    let first = match options.score {
        Score::All => 0,
        Score::SecondHalf => options.ctx / 2,
    };
    first.max(prefix.saturating_sub(1))..options.ctx.saturating_sub(1)
}

/// Number of positions whose logits are computed at a time.
fn chunk(vocab: usize) -> usize {
    (LOGIT_BYTES / size_of::<f32>() / vocab.max(1)).max(1)
}

/// The smallest context of the models.
fn shared_context(models: &[&dyn CausalLm]) -> usize {
    models.iter().map(|m| m.max_context()).min().unwrap_or(0)
}

/// Creates the thread pool that scores rows of logits.
fn pool(options: &EvalOptions) -> Result<rayon::ThreadPool, ModelError> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    built.map_err(|e| ModelError::Threads(e.to_string()))
}

#[cfg(test)]
mod tests;
