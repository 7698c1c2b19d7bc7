//! Which drafts a model is run with.

use impasto_model::speculation::{DraftLength, DraftModel, Lookup, Proposer, Speculator};
use impasto_model::{ModelError, Result};

use crate::{Model, View};

/// Returns the layer of a file, counted from 1, that drafts for the one in use, the last of those with these cumulative sizes
/// in bytes. `None` if drafts of a layer are not expected to pay.
///
/// They pay under an exact layer, whose weights take several times the memory of a coarser one. Products of packed layers take
/// so little time that opening the planes of two of them costs more than drafts save.
pub fn layer_that_drafts(sizes: &[u64], is_exact: bool) -> Option<usize> {
    let (last, below) = sizes.split_last().filter(|_| is_exact)?;
    // A finer layer is right more often, and takes longer. About a third of the bytes is best.
    let nearest =
        below.iter().enumerate().min_by_key(|(_, bytes)| (3 * u128::from(**bytes)).abs_diff(u128::from(*last)));
    nearest.map(|(index, _)| index + 1)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_of_a_third_drafts_for_an_exact_one() {
        assert_eq!(layer_that_drafts(&[42, 60, 86, 186], true), Some(2));
        assert_eq!(layer_that_drafts(&[42, 60, 86], false), None);
        assert_eq!(layer_that_drafts(&[42], true), None);
        assert_eq!(layer_that_drafts(&[], true), None);
    }
}
