//! The finest layers, to compare with.

use std::sync::Arc;

use impasto_runtime::{Activations, Model, Residence, RunOptions};

use crate::models::{Catalog, Loaded};

/// The reference that was used last: entropy-coded in memory, decoded in each product and multiplied with activations that are not
/// rounded. It is slow, but takes little memory beside the mapped file.
#[derive(Default)]
pub(super) struct References {
    last: Option<(String, Arc<Model>)>,
}

impl References {
    /// Returns the reference of a model.
    ///
    /// # Errors
    /// A message, if it cannot be opened or does not fit into memory.
    pub(super) fn of(&mut self, catalog: &Catalog, model: &Loaded) -> Result<Arc<Model>, String> {
        if let Some((_, reference)) = self.last.as_ref().filter(|(id, _)| *id == model.id) {
            return Ok(reference.clone());
        }
        // Before the next one takes memory.
        self.last = None;
        let weights = catalog.reopen(&model.id, None).map_err(|error| error.to_string())?;
        let options = catalog.options();
        let run = RunOptions {
            residence: Residence::Coded,
            activations: Activations::F32,
            packs: None,
            memory_limit: Some(options.memory_limit.saturating_sub(catalog.memory_bytes())),
            kv_memory: None,
            ..options.run.clone()
        };
        let reference = Arc::new(Model::load(&*weights, &run).map_err(|error| error.to_string())?);
        self.last = Some((model.id.clone(), reference.clone()));
        Ok(reference)
    }
}
