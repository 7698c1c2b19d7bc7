//! What speculation needs of sessions: one pass over the guesses of several, and steps from given logits.

use std::ops::Deref;

use super::{PREFILL, Session, Step};
use crate::sampling::{log_sum_exp, top};
use crate::{CausalLm, Hidden, ModelError, Result, Want};

impl<M: Deref<Target: CausalLm>> Session<M> {
    /// Evaluates all tokens but the last, so that one pass can evaluate it with guesses of the next ones.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a sequence without tokens; those of [`Self::evaluate`].
    pub(crate) fn leave_last(&mut self) -> Result<()> {
        let last = self.tokens.len().checked_sub(1).ok_or(ModelError::EmptyPrompt)?;
        while self.pending() > 1 {
            self.evaluate(PREFILL.min(self.pending() - 1))?;
        }
        self.cache.truncate(last);
        Ok(())
    }

    /// [`Self::verify`] for several sequences in one pass, each with its own drafts. Returns the logits of each.
    ///
    /// # Errors
    /// Those of [`Self::verify`], and [`ModelError::ForeignCache`] for sessions of different models. All drafts are then
    /// removed.
    pub fn verify_many(sessions: &mut [&mut Self], drafts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let before: Vec<usize> = sessions.iter().map(|session| session.tokens.len()).collect();
        let verified = Self::verify_together(sessions, drafts);
        if verified.is_err() {
            for (session, before) in sessions.iter_mut().zip(before) {
                session.truncate(before);
            }
        }
        verified
    }

    fn verify_together(sessions: &mut [&mut Self], drafts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let Some(first) = sessions.first() else { return Ok(Vec::new()) };
        let model: *const M::Target = &*first.model;
        if sessions.iter().any(|session| !std::ptr::addr_eq(model, &raw const *session.model)) {
            return Err(ModelError::ForeignCache);
        }
        for (session, drafts) in sessions.iter_mut().zip(drafts) {
            session.leave_last()?;
            session.extend(drafts)?;
        }
        let mut batch = Vec::with_capacity(sessions.len());
        let mut model = None;
        for Self { model: of, cache, tokens, .. } in sessions.iter_mut().map(|session| &mut **session) {
            let piece = &tokens[cache.len()..];
            batch.push((cache, piece));
            model = Some(&**of);
        }
        let Some(model) = model else { return Ok(Vec::new()) };
        let hidden = model.hidden_of_many(&mut batch, Want::All)?;
        let counts: Vec<usize> = hidden.iter().map(Hidden::rows).collect();
        let (mut rows, mut width) = (Vec::new(), 0);
        for hidden in &hidden {
            let of_session = hidden.slice(0..hidden.rows())?;
            width = of_session.len() / hidden.rows().max(1);
            rows.extend_from_slice(of_session);
        }
        let logits = model.logits(&Hidden::new(rows, width), 0..counts.iter().sum())?;
        let (vocab, mut left) = (model.vocab_size(), &logits[..]);
        let mut out = Vec::with_capacity(sessions.len());
        for (session, count) in sessions.iter_mut().zip(counts) {
            let (own, rest) = left.split_at(count * vocab);
            session.logits.clear();
            session.logits.extend_from_slice(&own[own.len() - vocab..]);
            session.logits_after = session.tokens.len();
            out.push(own.to_vec());
            left = rest;
        }
        Ok(out)
    }

    /// Returns the step that draws `token` from `logits`.
    pub(crate) fn step_of(&self, token: u32, logits: &[f32]) -> Step {
        let Some(count) = self.report else { return Step { token, logprob: None, top: Vec::new() } };
        let sum = log_sum_exp(logits);
        let logprob = |logit: f32| f64::from(logit) - sum;
        Step {
            token,
            logprob: logits.get(token as usize).map(|&logit| logprob(logit)),
            top: top(logits, count).into_iter().map(|(id, logit)| (id, logprob(logit))).collect(),
        }
    }

    /// Appends a token that was drawn from the distribution that the next step draws from.
    pub(crate) fn push_drawn(&mut self, token: u32) {
        self.tokens.push(token);
    }
}
