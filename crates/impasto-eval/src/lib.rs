//! Measuring a model: perplexity on a text, the KL divergence from a reference, and accuracy on multiple-choice tasks
//! ([`tasks`]).
//!
//! A text is cut into consecutive windows of `ctx` tokens that do not overlap; each starts with an empty context, and
//! tokens left over at the end are not scored. A model whose tokenizer adds tokens before a text (a beginning-of-text
//! token) gets them before every window, counted into `ctx` and never scored; other models get none, so that the first
//! token of a window is context only. With [`Score::All`] every later token of the window is scored, ctx - 1 of them;
//! with [`Score::SecondHalf`] those at ctx/2 + 1 and after, as llama.cpp's `perplexity` does, so that each has at
//! least half a window of context.
//!
//! Logits are made a few positions at a time, so memory does not grow with the window; log-softmax is taken in binary64.
//! Sums have a fixed order: results do not depend on the number of threads beyond what the products do.

mod error;
mod kld;
mod logsoftmax;
mod ppl;
mod stats;
pub mod tasks;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use error::{EvalError, Result};
pub use kld::{Kld, kld};
pub use ppl::{Perplexity, perplexity};
pub use stats::Estimate;

use impasto_model::{CausalLm, ModelError};
use impasto_text::{TextError, Tokenizer};

/// Bytes of logits in memory at a time, per model. Larger is no faster; much smaller reads the output projection more
/// often than it computes with it.
const LOGIT_BYTES: usize = 32 << 20;

/// Which tokens of a window are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// All that have a token before them.
    #[default]
    All,
    /// Those with more than half a window before them.
    SecondHalf,
}

/// How a text is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalOptions {
    /// Tokens in a window.
    pub ctx: usize,
    /// Which tokens of a window are scored.
    pub score: Score,
    /// Score the first so many windows only.
    pub windows: Option<usize>,
    /// Threads for the scoring beside the model; 0 takes all processors.
    pub threads: usize,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { ctx: 512, score: Score::All, windows: None, threads: 0 }
    }
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Windows scored.
    pub done: usize,
    /// Windows in all.
    pub windows: usize,
    /// Perplexity so far, of the model under test.
    pub perplexity: f64,
    /// Mean KL divergence so far, where one is measured.
    pub kld: Option<f64>,
}

/// Called after each window.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// A tokenized text, ready to be cut into windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalText {
    /// Tokens that go before every window.
    pub prefix: Vec<u32>,
    /// Tokens of the text.
    pub tokens: Vec<u32>,
}

impl EvalText {
    /// Tokenizes `text`; the prefix is what the tokenizer adds before a text.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn new(tokenizer: &Tokenizer, text: &str) -> Result<Self, TextError> {
        Ok(Self { prefix: prefix(tokenizer)?, tokens: tokenizer.encode(text, false)? })
    }

    /// The windows of an evaluation of models with contexts of at least `context`.
    fn windows(&self, options: &EvalOptions, context: usize) -> Result<Vec<Vec<u32>>> {
        let ctx = options.ctx;
        let bad = |name, value: usize, rule| Err(ModelError::BadOption { name, value: value.to_string(), rule }.into());
        let share = ctx.saturating_sub(self.prefix.len());
        if ctx < 2 || share == 0 || scored(options, self.prefix.len()).is_empty() {
            return bad("ctx", ctx, "a window must hold a token to score and one before it");
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

/// The tokens that a tokenizer adds before a text: those before the token of a probe. A suffix (as encoders have) is left
/// out.
fn prefix(tokenizer: &Tokenizer) -> Result<Vec<u32>, TextError> {
    let probe = tokenizer.encode("a", false)?;
    let mut with_special = tokenizer.encode("a", true)?;
    with_special.truncate(with_special.windows(probe.len().max(1)).position(|w| w == probe).unwrap_or(0));
    Ok(with_special)
}

/// Indices in a window of the positions whose next token is scored.
fn scored(options: &EvalOptions, prefix: usize) -> Range<usize> {
    let first = match options.score {
        Score::All => 0,
        Score::SecondHalf => options.ctx / 2,
    };
    first.max(prefix.saturating_sub(1))..options.ctx.saturating_sub(1)
}

/// Positions whose logits are made at a time.
fn chunk(vocab: usize) -> usize {
    (LOGIT_BYTES / size_of::<f32>() / vocab.max(1)).max(1)
}

/// The smallest context of the models.
fn shared_context(models: &[&dyn CausalLm]) -> usize {
    models.iter().map(|m| m.max_context()).min().unwrap_or(0)
}

/// The pool that scores rows of logits.
fn pool(options: &EvalOptions) -> Result<rayon::ThreadPool, ModelError> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    built.map_err(|e| ModelError::Threads(e.to_string()))
}

#[cfg(test)]
mod tests;
