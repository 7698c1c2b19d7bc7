//! The interface between a model and its users, evaluation and generation.

use std::ops::Range;

use crate::{KvCache, ModelError, Result};

/// The positions, among the given tokens, whose logits are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only the last position, as in generation.
    LastOnly,
    /// Every position.
    All,
    /// Every position from this index on.
    From(usize),
}

impl Want {
    /// First requested index among `tokens` given tokens.
    pub fn first(self, tokens: usize) -> usize {
        match self {
            Self::LastOnly => tokens.saturating_sub(1),
            Self::All => 0,
            Self::From(first) => first.min(tokens),
        }
    }
}

/// Normalized output of the last block at the requested positions: the input of the output projection.
///
/// It is small (rows x hidden size), unlike the logits of a window (rows x vocabulary).
#[derive(Clone, Debug)]
pub struct Hidden {
    data: Vec<f32>,
    width: usize,
}

impl Hidden {
    /// Creates rows of `width` values each.
    pub fn new(data: Vec<f32>, width: usize) -> Self {
        Self { data, width }
    }

    /// Number of positions.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.width).unwrap_or(0)
    }

    /// Returns the values of the positions `rows`, row-major.
    ///
    /// # Errors
    /// [`ModelError::Rows`] if they do not all exist.
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
    /// Number of token ids, and width of the logits.
    fn vocab_size(&self) -> usize;

    /// Largest context, in tokens.
    fn max_context(&self) -> usize;

    /// Creates an empty cache with memory for `tokens` tokens; it grows when there are more.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when memory cannot be allocated.
    fn new_cache(&self, tokens: usize) -> Result<KvCache>;

    /// Runs `tokens` after those in `cache`, appends them to it, and returns the requested positions.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, a full context, a foreign cache, or not enough memory; the cache is
    /// then unchanged. (If LongRoPE requires that all its tokens are evaluated again and that fails, the cache has a
    /// prefix of its tokens, or none.)
    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden>;

    /// [`Self::hidden`] of several sequences, each with its own cache. A fast network runs them together.
    ///
    /// # Errors
    /// Those of [`Self::hidden`].
    fn hidden_of_many(&self, batch: &mut [(&mut KvCache, &[u32])], want: Want) -> Result<Vec<Hidden>> {
        batch.iter_mut().map(|(cache, tokens)| self.hidden(cache, tokens, want)).collect()
    }

    /// Runs `tokens` after those in `cache` and replaces the contents of `logits` by the logits of the last position.
    ///
    /// # Errors
    /// Those of [`Self::hidden`].
    fn next_logits(&self, cache: &mut KvCache, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        *logits = self.forward(cache, tokens, Want::LastOnly)?;
        Ok(())
    }

    /// Returns the logits of the positions `rows` of `hidden`: rows x vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Rows`] if the rows do not exist.
    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>>;

    /// Returns the logits of all requested positions at once: rows x vocabulary.
    ///
    /// # Errors
    /// Those of [`Self::hidden`].
    fn forward(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Vec<f32>> {
        let hidden = self.hidden(cache, tokens, want)?;
        self.logits(&hidden, 0..hidden.rows())
    }

    /// Passes the logits of the requested positions to `sink`, at most `chunk` positions at a time, as (index into
    /// `tokens` of the first row, rows x vocabulary). Only one chunk of logits is in memory at a time.
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

/// Checks `tokens`, as every model does before it runs them after `seen` others in a context of at most `context`.
///
/// # Errors
/// No tokens, a token that is not below `vocab`, or more tokens than the context allows.
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
