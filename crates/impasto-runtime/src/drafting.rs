//! Which drafts a model is run with.

use impasto_model::speculation::{DraftLength, DraftModel, Lookup, Proposer, Speculator};
use impasto_model::{ModelError, Result};

use crate::{Model, View};

/// What proposes the next tokens of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drafting {
    /// Nothing: tokens are drawn one by one.
    #[default]
    None,
    /// Earlier text of the sequence.
    Lookup,
    /// A layer in memory, counted from 0, below the finest.
    Layer(usize),
    /// Earlier text, and all layers in memory below the finest: whichever is fastest.
    Auto,
}

impl Model {
    /// Creates what draws tokens with drafts; `None` if there are none. It works with the sessions of this model.
    /// `seed` is that of its draws.
    ///
    /// # Errors
    /// [`ModelError::NoLayer`] for a layer that is not in memory, or is the finest.
    pub fn speculator(
        &self,
        drafting: Drafting,
        length: DraftLength,
        seed: u64,
    ) -> Result<Option<Speculator<'static>>> {
        let coarser = self.runtime().map_or(0, |runtime| runtime.layers() - 1);
        let layers = match drafting {
            Drafting::None => return Ok(None),
            Drafting::Lookup => 0..0,
            Drafting::Layer(layer) if layer < coarser => layer..layer + 1,
            Drafting::Layer(layer) => return Err(ModelError::NoLayer { layer: layer + 1, layers: coarser }),
            Drafting::Auto => 0..coarser,
        };
        let mut proposers: Vec<Box<dyn Proposer>> = Vec::new();
        if matches!(drafting, Drafting::Lookup | Drafting::Auto) {
            proposers.push(Box::new(Lookup::default()));
        }
        for layer in layers {
            let Some(runtime) = self.shared_runtime() else { break };
            proposers.push(Box::new(DraftModel::new(Box::new(View::new(runtime, layer)?))));
        }
        Ok(Some(Speculator::new(proposers, length, seed)))
    }
}
