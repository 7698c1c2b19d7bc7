//! Guesses of a model, such as a coarser layer of the same weights.

use std::ops::Deref;

use impasto_core::rng::SplitMix64;

use super::{Draft, Known, Proposer};
use crate::{CausalLm, Hidden, KvCache, Result, Want};

/// Proposes what a model draws. It continues a fork of the keys and values of the sequence, which it drops afterwards;
/// so it must be able to use the caches of the model that verifies.
pub struct DraftModel<M> {
    model: M,
}

impl<M: Deref<Target: CausalLm>> DraftModel<M> {
    /// Creates the proposer of a model.
    pub fn new(model: M) -> Self {
        DraftModel { model }
    }

    /// Appends the next token to each draft that needs one. Returns whether there were any.
    fn extend(
        &self,
        known: &[Known<'_>],
        caches: &mut [KvCache],
        drafts: &mut [Draft],
        rng: &mut SplitMix64,
    ) -> Result<bool> {
        let mut tokens: Vec<Vec<u32>> = Vec::new();
        for ((known, cache), draft) in known.iter().zip(&*caches).zip(&*drafts) {
            let all = known.tokens.iter().chain(&draft.tokens);
            tokens.push(all.skip(cache.len()).copied().collect());
        }
        let is_open: Vec<bool> =
            known.iter().zip(&*drafts).map(|(known, draft)| draft.tokens.len() < known.most).collect();
        let with_tokens = caches.iter_mut().zip(&tokens).map(|(cache, tokens)| (cache, &tokens[..]));
        let mut batch: Vec<(&mut KvCache, &[u32])> =
            with_tokens.zip(&is_open).filter(|(_, is_open)| **is_open).map(|(entry, _)| entry).collect();
        if batch.is_empty() {
            return Ok(false);
        }
        let mut logits = Vec::new();
        if let [(cache, tokens)] = &mut batch[..] {
            self.model.next_logits(cache, tokens, &mut logits)?;
        } else {
            let hidden = self.model.hidden_of_many(&mut batch, Want::LastOnly)?;
            let (mut rows, mut width) = (Vec::new(), 0);
            for hidden in &hidden {
                let row = hidden.slice(0..1)?;
                rows.extend_from_slice(row);
                width = row.len();
            }
            logits = self.model.logits(&Hidden::new(rows, width), 0..hidden.len())?;
        }
        let open = known.iter().zip(drafts).zip(&is_open).filter(|(_, is_open)| **is_open).map(|(entry, _)| entry);
        for ((known, draft), row) in open.zip(logits.chunks_exact(self.model.vocab_size().max(1))) {
            let context: Vec<u32> = known.tokens.iter().chain(&draft.tokens).copied().collect();
            let mut from = known.sampler.distribution(row, &context)?;
            draft.tokens.push(from.draw(|| rng.next_f64()));
            draft.from.push(from);
        }
        Ok(true)
    }
}

impl<M: Deref<Target: CausalLm> + Send> Proposer for DraftModel<M> {
    fn propose(&mut self, known: &[Known<'_>], rng: &mut SplitMix64) -> Result<Vec<Draft>> {
        let fork = |known: &Known<'_>| {
            let mut cache = known.cache.fork()?;
            cache.truncate(known.tokens.len().saturating_sub(1));
            Ok(cache)
        };
        let mut caches = known.iter().map(fork).collect::<Result<Vec<_>>>()?;
        let mut drafts = vec![Draft::default(); known.len()];
        while self.extend(known, &mut caches, &mut drafts, rng)? {}
        Ok(drafts)
    }
}
