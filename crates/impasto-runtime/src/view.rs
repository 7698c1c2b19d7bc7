//! A network at one of its layers.

use std::ops::{Deref, Range};
use std::sync::Arc;

use impasto_model::{CausalLm, Hidden, KvCache, Result, Want};

use crate::Runtime;
use crate::weights::Weights;

/// A [`Runtime`] at one of the layers that are in memory. It shares weights, threads and the pages of keys and values
/// with it, and a cache of one can be used by the other. It keeps the weights it was created with.
///
/// `R` is how it holds the network: a reference, or an [`Arc`] to outlive a scope.
pub struct View<R> {
    runtime: R,
    weights: Arc<Weights>,
}

impl<R: Deref<Target = Runtime>> View<R> {
    /// Creates a view at a layer, counted from 0, the coarsest.
    ///
    /// # Errors
    /// [`impasto_model::ModelError::NoLayer`] if the layer is not in memory.
    pub fn new(runtime: R, layer: usize) -> Result<View<R>> {
        runtime.check_layer(layer)?;
        let weights = Arc::new(runtime.weights().at(|_| layer));
        Ok(View { runtime, weights })
    }
}

impl Runtime {
    /// Returns a view at a layer; see [`View::new`].
    ///
    /// # Errors
    /// [`impasto_model::ModelError::NoLayer`] if the layer is not in memory.
    pub fn at(&self, layer: usize) -> Result<View<&Runtime>> {
        View::new(self, layer)
    }
}

impl<R: Deref<Target = Runtime> + Send + Sync> CausalLm for View<R> {
    fn vocab_size(&self) -> usize {
        self.runtime.vocab_size()
    }

    fn max_context(&self) -> usize {
        self.runtime.max_context()
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        self.runtime.new_cache(tokens)
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        let mut hidden = self.hidden_of_many(&mut [(cache, tokens)], want)?;
        Ok(hidden.remove(0))
    }

    fn hidden_of_many(&self, batch: &mut [(&mut KvCache, &[u32])], want: Want) -> Result<Vec<Hidden>> {
        self.runtime.hidden_with(&self.weights, batch, want)
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        self.runtime.logits_with(&self.weights, hidden, rows)
    }

    fn next_logits(&self, cache: &mut KvCache, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        self.runtime.next_logits_with(&self.weights, cache, tokens, logits)
    }
}
