//! Paged storage of keys and values.

use impasto_kernels::kv::{KvError, KvStore};
use impasto_model::cache::KvStorage;
use impasto_model::{ModelError, Result};

/// The key/value pages of one sequence.
pub(crate) struct Paged(pub(crate) KvStore);

/// Converts an error of the store.
pub(crate) fn failed(error: KvError) -> ModelError {
    ModelError::Cache(Box::new(error))
}

impl KvStorage for Paged {
    fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.0.reserve(tokens).map_err(failed)
    }

    fn advance(&mut self, tokens: usize) {
        self.0.advance(tokens);
    }

    fn truncate(&mut self, tokens: usize) {
        self.0.truncate(tokens);
    }

    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }

    fn fork(&self) -> Result<Box<dyn KvStorage>> {
        Ok(Box::new(Self(self.0.fork())))
    }
}
