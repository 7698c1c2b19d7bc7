//! Exchanges weights of a running model for others of its file.

use impasto_runtime::Runtime;

use super::Judge;
use crate::models::{Catalog, Loaded};

/// Gives blocks the weights of the next finer layer than they have; of the finest, the same again, in case those in memory were
/// damaged.
///
/// # Errors
/// A message; nothing is exchanged then.
pub(super) fn promote(catalog: &Catalog, model: &Loaded, judge: &Judge, blocks: &[usize]) -> Result<(), String> {
    let wanted = blocks.iter().map(|block| {
        let steps = judge.promoted.get(block).copied().unwrap_or(0) + 1;
        (Some(*block), model.quality().layer + steps)
    });
    exchange(catalog, model, wanted)
}

/// Gives everything the weights of a layer.
///
/// # Errors
/// A message; nothing is exchanged then.
pub(super) fn all(catalog: &Catalog, model: &Loaded, layer: usize) -> Result<(), String> {
    exchange(catalog, model, [(None, layer)].into_iter())
}

/// Exchanges the weights of blocks (or all) for those of a layer each, all at once.
fn exchange(
    catalog: &Catalog,
    model: &Loaded,
    wanted: impl Iterator<Item = (Option<usize>, usize)>,
) -> Result<(), String> {
    let runtime: &Runtime = model.model().runtime().ok_or("weights of this residence cannot be exchanged")?;
    let mut replacements = Vec::new();
    for (block, layer) in wanted {
        let layer = layer.min(model.quality().layers);
        let source = catalog.reopen(&model.id, Some(layer)).map_err(|error| error.to_string())?;
        let names = block.map_or_else(|| runtime.linear_names(), |block| runtime.names_of_block(block));
        for name in names {
            replacements.push(runtime.prepare(&*source, &name).map_err(|error| error.to_string())?);
        }
    }
    runtime.exchange(replacements).map_err(|error| error.to_string())
}
