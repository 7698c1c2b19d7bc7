//! Generation by steps that the caller drives.

use std::ops::{ControlFlow, Deref};

use crate::network::check_tokens;
use crate::sampling::{Sampler, SamplingParams, log_sum_exp, top};
use crate::{CausalLm, Hidden, KvCache, ModelError, Result, Want};

/// Tokens of a long prompt that run at a time, between two looks at whether to go on.
pub const PREFILL: usize = 512;

/// One sequence of tokens and what its continuation needs: cache, sampler, and the logits of the next token.
///
/// The sequence may run ahead of the cache: tokens are appended at once ([`Self::extend`]) and evaluated when their
/// logits are asked for, or piece by piece ([`Self::evaluate`]), so a scheduler decides how long a pass takes. `M` is how
/// the session holds its model: a reference, or an [`Arc`](std::sync::Arc) where sessions outlive a scope.
///
/// ```
/// # use impasto_model::{CausalLm, ModelError, Session, sampling::SamplingParams};
/// fn continue_twice(model: &dyn CausalLm, prompt: &[u32]) -> Result<(u32, u32), ModelError> {
///     let mut session = Session::new(model, SamplingParams { temperature: 0.8, ..SamplingParams::default() })?;
///     session.extend(prompt)?;
///     let other = session.fork()?; // shares what was evaluated
///     let first = session.step()?.token;
///     session.truncate(prompt.len()); // takes the token back
///     let second = session.step()?.token;
///     assert_eq!(other.tokens(), prompt);
///     Ok((first, second))
/// }
/// ```
pub struct Session<M> {
    model: M,
    cache: KvCache,
    /// The tokens of the cache and those that are not evaluated yet.
    tokens: Vec<u32>,
    sampler: Sampler,
    logits: Vec<f32>,
    /// How many tokens `logits` follow; 0 when they follow none.
    logits_after: usize,
    /// How many of the likeliest tokens a step reports; `None` for no log probabilities at all.
    report: Option<usize>,
}

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// Its log probability by the model, nats, before the sampler's temperature and filters. `None` unless
    /// [`Session::report_logprobs`] asked for it.
    pub logprob: Option<f64>,
    /// The model's likeliest tokens with their log probabilities, likeliest first, as many as were asked for.
    pub top: Vec<(u32, f64)>,
}

/// How far a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens evaluated since it began.
    pub done: usize,
    /// Tokens to evaluate in all.
    pub total: usize,
}

impl<M: Deref<Target: CausalLm>> Session<M> {
    /// An empty sequence.
    ///
    /// # Errors
    /// Sampling options out of range; a cache that is refused.
    pub fn new(model: M, sampling: SamplingParams) -> Result<Self> {
        Self::with_capacity(model, sampling, 0)
    }

    /// An empty sequence with room for `tokens`; it grows when more come.
    ///
    /// # Errors
    /// Sampling options out of range; room that is refused.
    pub fn with_capacity(model: M, sampling: SamplingParams, tokens: usize) -> Result<Self> {
        let sampler = Sampler::new(sampling)?;
        let cache = model.new_cache(tokens)?;
        let tokens = Vec::with_capacity(tokens.min(model.max_context()));
        Ok(Self { model, cache, tokens, sampler, logits: Vec::new(), logits_after: 0, report: None })
    }

    /// The model.
    pub fn model(&self) -> &M::Target {
        &self.model
    }

    /// All tokens, in order: those given and those drawn.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that are not evaluated yet.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }

    /// Tokens that can still be drawn before the context is full. The last of them has no successor.
    pub fn remaining(&self) -> usize {
        self.model.max_context().saturating_add(1).saturating_sub(self.tokens.len())
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The sampler, whose random stream goes on from step to step.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Chooses tokens otherwise from here on, from the start of the seed's stream.
    ///
    /// # Errors
    /// Options out of range.
    pub fn set_sampling(&mut self, sampling: SamplingParams) -> Result<()> {
        self.sampler = Sampler::new(sampling)?;
        Ok(())
    }

    /// Has each step report the log probability of its token and of the `top` likeliest; `None`, the default, saves the
    /// time.
    pub fn report_logprobs(&mut self, top: Option<usize>) {
        self.report = top;
    }

    /// Appends tokens; they are evaluated later.
    ///
    /// # Errors
    /// A token outside the vocabulary, or more than the context takes; then none is appended.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<()> {
        if !tokens.is_empty() {
            check_tokens(tokens, self.model.vocab_size(), self.tokens.len(), self.model.max_context())?;
            self.tokens.extend_from_slice(tokens);
        }
        Ok(())
    }

    /// Makes `tokens` the sequence. What the cache has of its beginning is kept, so that a talk goes on where it was.
    ///
    /// # Errors
    /// Those of [`Self::extend`]; the sequence is then as it was.
    pub fn restart(&mut self, tokens: &[u32]) -> Result<()> {
        if !tokens.is_empty() {
            check_tokens(tokens, self.model.vocab_size(), 0, self.model.max_context())?;
        }
        let known = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(known);
        self.tokens.extend_from_slice(&tokens[known..]);
        Ok(())
    }

    /// Takes back all but the first `tokens`.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        if tokens < self.cache.len() {
            self.cache.truncate(tokens);
        }
        if tokens < self.logits_after {
            self.logits_after = 0;
        }
    }

    /// Another session that goes on from here: same tokens, same state of the sampler. A model with a paged cache
    /// shares the pages until one of them writes.
    ///
    /// # Errors
    /// When room for the copy is refused.
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

    /// Evaluates at most `most` of the pending tokens in one call and returns how many are left.
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

    /// Evaluates all pending tokens, [`PREFILL`] at a time; `watch` hears of each piece and may break off. What was
    /// evaluated stays, and the rest is pending.
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

    /// The model's logits of the next token, after all pending ones are evaluated.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a sequence without tokens; those of [`Self::evaluate`].
    pub fn logits(&mut self) -> Result<&[f32]> {
        if self.tokens.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        if self.logits_after != self.tokens.len() {
            // The cache has keys and values, not logits: of the last token they are computed again.
            self.cache.truncate(self.tokens.len() - 1);
            self.evaluate(usize::MAX)?;
        }
        Ok(&self.logits)
    }

    /// The distribution that the next step draws from, as [`Sampler::probabilities`].
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
    /// Those of [`Self::logits`], [`ModelError::ContextOverflow`] among them once [`Self::remaining`] is 0; logits that
    /// are not finite.
    pub fn step(&mut self) -> Result<Step> {
        self.logits()?;
        self.draw()
    }

    /// Draws from the logits, which are those of the next token.
    fn draw(&mut self) -> Result<Step> {
        let token = self.sampler.sample(&self.logits, &self.tokens)?;
        self.tokens.push(token);
        let Some(count) = self.report else { return Ok(Step { token, logprob: None, top: Vec::new() }) };
        let sum = log_sum_exp(&self.logits);
        let logprob = |logit: f32| f64::from(logit) - sum;
        Ok(Step {
            token,
            logprob: self.logits.get(token as usize).map(|&logit| logprob(logit)),
            top: top(&self.logits, count).into_iter().map(|(id, logit)| (id, logprob(logit))).collect(),
        })
    }

    /// Appends `drafts`, guesses of what follows, and evaluates them in one pass. Returns logits, (drafts + 1) x
    /// vocabulary: row i is the model's after i of the drafts. The caller takes back what it rejects
    /// ([`Self::truncate`]).
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a sequence without tokens; those of [`Self::extend`] and [`Self::evaluate`]. The
    /// drafts are then taken back.
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

    /// [`Self::evaluate`] of several sequences in one pass: at most `most` pending tokens of each. Returns whether any is
    /// left. Sequences that have nothing pending cost nothing.
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

    /// The logits of sessions whose last token gave the hidden row beside them, in one product.
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

    /// One step of several sequences, which a fast model runs together: their tokens, in order.
    ///
    /// # Errors
    /// Those of [`Self::step`] and [`Self::evaluate_many`]. If one sequence cannot go on, no token is drawn:
    /// [`Self::remaining`] tells beforehand.
    pub fn step_many(sessions: &mut [&mut Self]) -> Result<Vec<Step>> {
        for session in sessions.iter_mut() {
            let Some(last) = session.tokens.len().checked_sub(1) else { return Err(ModelError::EmptyPrompt) };
            if session.logits_after != session.tokens.len() {
                session.cache.truncate(last);
            }
        }
        Self::evaluate_many(sessions, usize::MAX)?;
        sessions.iter_mut().map(|session| session.draw()).collect()
    }
}
