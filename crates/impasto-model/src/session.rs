//! Text generation, one step per call.

mod speculate;

use std::ops::{ControlFlow, Deref};

use crate::network::check_tokens;
use crate::sampling::{Sampler, SamplingParams};
use crate::{CausalLm, Hidden, KvCache, ModelError, Result, Want};

/// Number of tokens of a long prompt that run at a time, between two calls of the progress callback.
pub const PREFILL: usize = 512;

/// One sequence of tokens and its state: cache, sampler, and the logits of the next token.
///
/// The sequence may be ahead of the cache: [`Self::extend`] only appends tokens; they are evaluated when their logits
/// are needed, or piece by piece with [`Self::evaluate`], so that a scheduler controls how long a pass takes. `M` is
/// how the session holds its model: a reference, or an [`Arc`](std::sync::Arc) if sessions outlive a scope.
///
/// ```
/// # use impasto_model::{CausalLm, ModelError, Session, sampling::SamplingParams};
/// fn continue_twice(model: &dyn CausalLm, prompt: &[u32]) -> Result<(u32, u32), ModelError> {
///     let mut session = Session::new(model, SamplingParams { temperature: 0.8, ..SamplingParams::default() })?;
///     session.extend(prompt)?;
///     let other = session.fork()?; // shares the evaluated tokens
///     let first = session.step()?.token;
///     session.truncate(prompt.len()); // removes the token
///     let second = session.step()?.token;
///     assert_eq!(other.tokens(), prompt);
///     Ok((first, second))
/// }
/// ```
pub struct Session<M> {
    model: M,
    cache: KvCache,
    /// All tokens: those in the cache, and then those that are not evaluated yet.
    tokens: Vec<u32>,
    sampler: Sampler,
    logits: Vec<f32>,
    /// Number of tokens before those that `logits` predict; 0 if `logits` are not valid.
    logits_after: usize,
    /// How many of the most likely tokens a step reports; `None` for no log probabilities at all.
    report: Option<usize>,
}

/// A token that a step drew.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// Its log probability by the model, in nats, before temperature and filters. `None` unless requested with
    /// [`Session::report_logprobs`].
    pub logprob: Option<f64>,
    /// The most likely tokens with their log probabilities, most likely first, as many as requested.
    pub top: Vec<(u32, f64)>,
}

/// Progress in evaluating a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens evaluated so far.
    pub done: usize,
    /// Tokens to evaluate in total.
    pub total: usize,
}

impl<M: Deref<Target: CausalLm>> Session<M> {
    /// Creates an empty sequence.
    ///
    /// # Errors
    /// Sampling options out of range; no memory for the cache.
    pub fn new(model: M, sampling: SamplingParams) -> Result<Self> {
        Self::with_capacity(model, sampling, 0)
    }

    /// Creates an empty sequence with memory for `tokens` tokens; it grows when there are more.
    ///
    /// # Errors
    /// Sampling options out of range; not enough memory.
    pub fn with_capacity(model: M, sampling: SamplingParams, tokens: usize) -> Result<Self> {
        let sampler = Sampler::new(sampling)?;
        let cache = model.new_cache(tokens)?;
        let tokens = Vec::with_capacity(tokens.min(model.max_context()));
        Ok(Self { model, cache, tokens, sampler, logits: Vec::new(), logits_after: 0, report: None })
    }

    /// Creates a sequence of the tokens in `cache`, which must be one of `model`.
    ///
    /// # Errors
    /// Sampling options out of range.
    pub fn with_cache(model: M, sampling: SamplingParams, cache: KvCache) -> Result<Self> {
        let (sampler, tokens) = (Sampler::new(sampling)?, cache.tokens().to_vec());
        Ok(Self { model, cache, tokens, sampler, logits: Vec::new(), logits_after: 0, report: None })
    }

    /// The model.
    pub fn model(&self) -> &M::Target {
        &self.model
    }

    /// All tokens, in order, both appended and drawn.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens that are not evaluated yet.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }

    /// Number of tokens that can still be drawn. The last one is never evaluated, so it needs no place in the context.
    pub fn remaining(&self) -> usize {
        self.model.max_context().saturating_add(1).saturating_sub(self.tokens.len())
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The sampler.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Replaces the sampling options and restarts the random stream from the new seed. There are no biases then.
    ///
    /// # Errors
    /// Options out of range.
    pub fn set_sampling(&mut self, sampling: SamplingParams) -> Result<()> {
        self.sampler = Sampler::new(sampling)?;
        Ok(())
    }

    /// Replaces the sampler, with its random stream and biases.
    pub fn set_sampler(&mut self, sampler: Sampler) {
        self.sampler = sampler;
    }

    /// Makes each step report the log probabilities of its token and of the `top` most likely ones. `None`, the
    /// default, reports none and is faster.
    pub fn report_logprobs(&mut self, top: Option<usize>) {
        self.report = top;
    }

    /// Appends tokens; they are evaluated later.
    ///
    /// # Errors
    /// A token outside the vocabulary, or more tokens than the context allows; then none is appended.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<()> {
        if !tokens.is_empty() {
            check_tokens(tokens, self.model.vocab_size(), self.tokens.len(), self.model.max_context())?;
            self.tokens.extend_from_slice(tokens);
        }
        Ok(())
    }

    /// Replaces the sequence by `tokens`. The common prefix stays in the cache, so a conversation continues without
    /// evaluating it again.
    ///
    /// # Errors
    /// Those of [`Self::extend`]; the sequence is then unchanged.
    pub fn restart(&mut self, tokens: &[u32]) -> Result<()> {
        if !tokens.is_empty() {
            check_tokens(tokens, self.model.vocab_size(), 0, self.model.max_context())?;
        }
        let known = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(known);
        self.tokens.extend_from_slice(&tokens[known..]);
        Ok(())
    }

    /// Removes all but the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        if tokens < self.cache.len() {
            self.cache.truncate(tokens);
        }
        if tokens < self.logits_after {
            self.logits_after = 0;
        }
    }

    /// Takes over keys and values of its first tokens that were computed elsewhere, in place of its own; what is missing to its
    /// tokens is evaluated when it is needed. Logits that were computed are kept. If the cache has other tokens, these are removed.
    pub fn adopt(&mut self, mut cache: KvCache) {
        let known = self.tokens.iter().zip(cache.tokens()).take_while(|(a, b)| a == b).count();
        cache.truncate(known);
        self.cache = cache;
    }

    /// Returns the cache, with the tokens that are evaluated.
    pub fn into_cache(self) -> KvCache {
        self.cache
    }

    /// Returns a session with the same tokens and sampler state. With a paged cache, both share pages until one of them
    /// writes.
    ///
    /// # Errors
    /// When memory for the copy cannot be allocated.
    pub fn fork(&self) -> Result<Self>
    where
        M: Clone,
    {
        Ok(Self {
            model: self.model.clone(),
            cache: self.cache.fork()?,
            tokens: self.tokens.clone(),
            sampler: self.sampler.clone(),
            logits: self.logits.clone(),
            logits_after: self.logits_after,
            report: self.report,
        })
    }

    /// Evaluates at most `most` pending tokens in one call and returns how many are left.
    ///
    /// # Errors
    /// Those of [`CausalLm::hidden`]; the tokens are then still pending.
    pub fn evaluate(&mut self, most: usize) -> Result<usize> {
        let pending = self.pending();
        let count = pending.min(most);
        let from = self.cache.len();
        let piece = &self.tokens[from..from + count];
        if count == 0 {
            return Ok(pending);
        }
        if count < pending {
            self.model.hidden(&mut self.cache, piece, Want::From(count))?;
        } else {
            self.logits_after = 0;
            self.model.next_logits(&mut self.cache, piece, &mut self.logits)?;
            self.logits_after = self.tokens.len();
        }
        Ok(pending - count)
    }

    /// Evaluates all pending tokens, [`PREFILL`] at a time. `watch` is called after each piece and may stop; the
    /// remaining tokens then stay pending.
    ///
    /// # Errors
    /// Those of [`Self::evaluate`].
    pub fn prefill(&mut self, watch: &mut dyn FnMut(Prefill) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let total = self.pending();
        let mut left = total;
        while left > 0 {
            left = self.evaluate(PREFILL)?;
            if watch(Prefill { done: total - left, total }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Returns the logits of the next token, after evaluating all pending tokens.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a sequence without tokens; those of [`Self::evaluate`].
    pub fn logits(&mut self) -> Result<&[f32]> {
        if self.tokens.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if self.logits_after != self.tokens.len() {
            // The cache has keys and values but no logits, so evaluate the last token again.
            self.cache.truncate(self.tokens.len() - 1);
            self.evaluate(usize::MAX)?;
        }
        Ok(&self.logits)
    }

    /// Returns the distribution that the next step draws from, as [`Sampler::probabilities`].
    ///
    /// # Errors
    /// Those of [`Self::logits`], or logits that are not finite.
    pub fn probabilities(&mut self) -> Result<Vec<(u32, f64)>> {
        self.logits()?;
        self.sampler.probabilities(&self.logits, &self.tokens)
    }

    /// Draws the next token and appends it.
    ///
    /// # Errors
    /// Those of [`Self::logits`], including [`ModelError::ContextOverflow`] once [`Self::remaining`] is 0; those of
    /// [`Sampler::sample`].
    pub fn step(&mut self) -> Result<Step> {
        self.step_within(None)
    }

    /// [`Self::step`] among the tokens that a mask allows, as in [`Sampler::sample_within`].
    ///
    /// # Errors
    /// Those of [`Self::step`]; [`ModelError::NoneAllowed`].
    pub fn step_within(&mut self, allowed: Option<&[u32]>) -> Result<Step> {
        self.logits()?;
        self.draw(allowed)
    }

    /// Whether the logits of the next token are there, so that [`Self::draw`] can draw it.
    pub fn has_logits(&self) -> bool {
        !self.tokens.is_empty() && self.logits_after == self.tokens.len()
    }

    /// Draws the next token from logits that are there, and appends it. Its logits are there after [`Self::evaluate`] or
    /// [`Self::evaluate_many`] has left no token pending. A mask limits the tokens, as in [`Sampler::sample_within`].
    ///
    /// # Errors
    /// [`ModelError::NoLogits`] if they are not there, as after [`Self::truncate`]; [`Self::step`] computes them. Those of
    /// [`Sampler::sample_within`].
    pub fn draw(&mut self, allowed: Option<&[u32]>) -> Result<Step> {
        if !self.has_logits() {
            return Err(ModelError::NoLogits);
        }
        let token = self.sampler.sample_within(&self.logits, &self.tokens, allowed)?;
        self.tokens.push(token);
        Ok(self.step_of(token, &self.logits))
    }

    /// Appends `drafts`, guesses of the next tokens, and evaluates them in one pass. Returns logits, (drafts + 1) x
    /// vocabulary: row i predicts the token after the first i drafts. The caller removes rejected drafts with
    /// [`Self::truncate`].
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a sequence without tokens; those of [`Self::extend`] and [`Self::evaluate`]. The
    /// drafts are then removed.
    pub fn verify(&mut self, drafts: &[u32]) -> Result<Vec<f32>> {
        if drafts.is_empty() || self.tokens.is_empty() {
            return Ok(self.logits()?.to_vec());
        }
        let before = self.tokens.len();
        self.extend(drafts)?;
        let mut rows = Vec::new();
        if self.logits_after == before && self.cache.len() == before {
            rows.extend_from_slice(&self.logits);
        } else {
            self.cache.truncate(before - 1);
        }
        let from = self.cache.len();
        let want = Want::From((before - 1).saturating_sub(from));
        let run = |cache: &mut KvCache| {
            let hidden = self.model.hidden(cache, &self.tokens[from..], want)?;
            self.model.logits(&hidden, 0..hidden.rows())
        };
        let logits = run(&mut self.cache).inspect_err(|_| self.tokens.truncate(before));
        if logits.is_err() {
            self.cache.truncate(from);
        }
        rows.extend(logits?);
        self.logits.clear();
        self.logits.extend_from_slice(&rows[rows.len().saturating_sub(self.model.vocab_size())..]);
        self.logits_after = self.tokens.len();
        Ok(rows)
    }

    /// [`Self::evaluate`] for several sequences in one pass: at most `most` pending tokens of each. Returns whether any
    /// are left. Sequences without pending tokens cost nothing.
    ///
    /// # Errors
    /// Those of [`Self::evaluate`], [`ModelError::ForeignCache`] for sessions of different models; nothing is then
    /// evaluated.
    pub fn evaluate_many(sessions: &mut [&mut Self], most: usize) -> Result<bool> {
        let Some(first) = sessions.first() else { return Ok(false) };
        let model: *const M::Target = &*first.model;
        if sessions.iter().any(|session| !std::ptr::addr_eq(model, &raw const *session.model)) {
            return Err(ModelError::ForeignCache);
        }
        let sessions = sessions.iter_mut().map(|session| &mut **session);
        let mut running: Vec<&mut Self> = sessions.filter(|session| session.pending().min(most) > 0).collect();
        if let [only] = &mut running[..] {
            return Ok(only.evaluate(most)? > 0);
        }
        let mut batch = Vec::with_capacity(running.len());
        let mut model = None;
        for Self { model: of, cache, tokens, .. } in running.iter_mut().map(|session| &mut **session) {
            let piece = &tokens[cache.len()..];
            batch.push((cache, &piece[..piece.len().min(most)]));
            model = Some(&**of);
        }
        let Some(model) = model else { return Ok(false) };
        let hidden = model.hidden_of_many(&mut batch, Want::LastOnly)?;
        let (whole, part): (Vec<_>, Vec<_>) =
            running.into_iter().zip(hidden).partition(|(session, _)| session.pending() == 0);
        Self::project(whole)?;
        Ok(!part.is_empty())
    }

    /// Computes the logits of all `sessions` in one product, from the hidden row of each session's last token.
    fn project(sessions: Vec<(&mut Self, Hidden)>) -> Result<()> {
        let (mut rows, mut width) = (Vec::new(), 0);
        for (_, hidden) in &sessions {
            let row = hidden.slice(0..1)?;
            rows.extend_from_slice(row);
            width = row.len();
        }
        let Some((first, _)) = sessions.first() else { return Ok(()) };
        let vocab = first.model.vocab_size().max(1);
        let logits = first.model.logits(&Hidden::new(rows, width), 0..sessions.len())?;
        for ((session, _), row) in sessions.into_iter().zip(logits.chunks_exact(vocab)) {
            session.logits.clear();
            session.logits.extend_from_slice(row);
            session.logits_after = session.tokens.len();
        }
        Ok(())
    }

    /// One step of several sequences, which a fast model runs together. Returns their steps, in order.
    ///
    /// # Errors
    /// Those of [`Self::step`] and [`Self::evaluate_many`]. If one sequence cannot continue, no token is drawn; check
    /// [`Self::remaining`] first.
    pub fn step_many(sessions: &mut [&mut Self]) -> Result<Vec<Step>> {
        for session in sessions.iter_mut() {
            let Some(last) = session.tokens.len().checked_sub(1) else { return Err(ModelError::EmptyPrompt) };
            if session.logits_after != session.tokens.len() {
                session.cache.truncate(last);
            }
        }
        Self::evaluate_many(sessions, usize::MAX)?;
        sessions.iter_mut().map(|session| session.draw(None)).collect()
    }
}
