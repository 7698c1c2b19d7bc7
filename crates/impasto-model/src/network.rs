//! What evaluation and generation ask of a model.

use std::ops::Range;

use crate::{KvCache, ModelError, Result};

/// Positions of the given tokens whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The last position alone, as in generation.
    LastOnly,
    /// Every position.
    All,
    /// Every position from this index into the given tokens on.
    From(usize),
}

impl Want {
    /// First wanted index of `tokens` given tokens.
    pub fn first(self, tokens: usize) -> usize {
        match self {
            Self::LastOnly => tokens.saturating_sub(1),
            Self::All => 0,
            Self::From(first) => first.min(tokens),
        }
    }
}

/// Normalised output of the last block at the wanted positions: what the output projection turns into logits.
///
/// It is kept apart since it is small (rows x hidden size) where the logits of a window (rows x vocabulary) are not.
#[derive(Clone, Debug)]
pub struct Hidden {
    data: Vec<f32>,
    width: usize,
}

impl Hidden {
    /// Rows of `width` values each.
    pub fn new(data: Vec<f32>, width: usize) -> Self {
        Self { data, width }
    }

    /// Number of positions.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.width).unwrap_or(0)
    }

    /// Values of the positions `rows`, row-major.
    ///
    /// # Errors
    /// [`ModelError::Rows`] when they are not all there.
    pub fn slice(&self, rows: Range<usize>) -> Result<&[f32]> {
        let Range { start, end } = rows;
        if start > end || end > self.rows() {
            return Err(ModelError::Rows { start, end, rows: self.rows() });
        }
        Ok(&self.data[start * self.width..end * self.width])
    }
}

/// A causal language model: token ids in, logits of the next token out.
pub trait CausalLm: Send + Sync {
    /// Number of token ids, which is the width of the logits.
    fn vocab_size(&self) -> usize;

    /// Largest number of tokens in one context.
    fn max_context(&self) -> usize;

    /// An empty cache with room for `tokens`; it grows when more come.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when the room is refused.
    fn new_cache(&self, tokens: usize) -> Result<KvCache>;

    /// Runs `tokens` after those in `cache`, which then holds them too, and returns the wanted positions.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, a full context, a foreign cache, or memory refused; the cache is then
    /// as it was. (Where LongRoPE has all its tokens run again and that fails, it holds the first of them, or none.)
    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden>;

    /// [`Self::hidden`] of several sequences, each with a cache of its own, which a fast network runs together.
    ///
    /// # Errors
    /// Those of [`Self::hidden`].
    fn hidden_of_many(&self, batch: &mut [(&mut KvCache, &[u32])], want: Want) -> Result<Vec<Hidden>> {
        batch.iter_mut().map(|(cache, tokens)| self.hidden(cache, tokens, want)).collect()
    }

    /// Runs `tokens` after those in `cache` and puts the logits of the last position in `logits`, in place of what it
    /// holds.
    ///
    /// # Errors
    /// Those of [`Self::hidden`].
    fn next_logits(&self, cache: &mut KvCache, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        *logits = self.forward(cache, tokens, Want::LastOnly)?;
        Ok(())
    }

    /// Logits, rows x vocabulary, of the positions `rows` of `hidden`.
    ///
    /// # Errors
    /// [`ModelError::Rows`] when the rows are not there.
    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>>;

    /// Logits of all wanted positions at once, rows x vocabulary.
    ///
    /// # Errors
    /// Those of [`Self::hidden`].
    fn forward(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Vec<f32>> {
        let hidden = self.hidden(cache, tokens, want)?;
        self.logits(&hidden, 0..hidden.rows())
    }

    /// Hands the logits of the wanted positions to `sink`, at most `chunk` positions at a time, as (index into `tokens`
    /// of the first row, rows x vocabulary). Memory for logits stays at one chunk.
    ///
    /// # Errors
    /// Those of [`Self::hidden`] and of `sink`.
    fn for_each_logits_chunk(
        &self,
        cache: &mut KvCache,
        tokens: &[u32],
        want: Want,
        chunk: usize,
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let hidden = self.hidden(cache, tokens, want)?;
        let first = want.first(tokens.len());
        for start in (0..hidden.rows()).step_by(chunk.max(1)) {
            let end = start.saturating_add(chunk.max(1)).min(hidden.rows());
            sink(first + start, &self.logits(&hidden, start..end)?)?;
        }
        Ok(())
    }
}

/// The checks that every model makes before it runs `tokens` after `seen` others in a context of at most `context`.
///
/// # Errors
/// No tokens, one that is not of `vocab`, or too many for the context.
pub fn check_tokens(tokens: &[u32], vocab: usize, seen: usize, context: usize) -> Result<()> {
    if tokens.is_empty() {
        return Err(ModelError::EmptyPrompt);
    }
    if let Some((position, &id)) = tokens.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
        return Err(ModelError::TokenId { id, position, vocab });
    }
    let total = seen.saturating_add(tokens.len());
    if total > context {
        return Err(ModelError::ContextOverflow { tokens: total, context });
    }
    Ok(())
}
