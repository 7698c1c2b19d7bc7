//! Brings the weights of a running network to what a growing source has.

use std::collections::HashMap;
use std::ops::ControlFlow;

use impasto_model::{Result, WeightSource};

use crate::{Replacement, Runtime};

/// What a [`Refiner`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refined {
    /// Linear layers that were exchanged.
    pub layers: usize,
    /// Linear layers for which the source has more than the network.
    pub left: usize,
    /// The most bytes of weights that were in memory twice.
    pub most_bytes: usize,
}

/// How much of each linear layer a network has.
#[derive(Clone, Debug)]
pub struct Refiner {
    extents: HashMap<String, u64>,
}

impl Refiner {
    /// Creates the refiner of a network that was loaded from `source`.
    pub fn new(runtime: &Runtime, source: &dyn WeightSource) -> Refiner {
        let extent = |name: String| (name.clone(), source.extent_of(&name));
        Refiner { extents: runtime.linear_names().into_iter().map(extent).collect() }
    }

    /// Reads the linear layers of which `source` has more, packs them and exchanges them one by one, so that the old and the new form
    /// are in memory for one of them at a time. All work runs on this thread, and generation goes on; a pass that is running
    /// keeps its weights. `watch` is called before each and may stop; a later call continues.
    ///
    /// # Errors
    /// Those of [`Runtime::prepare`]. Layers before the one that failed are exchanged.
    pub fn refine(
        &mut self,
        runtime: &Runtime,
        source: &dyn WeightSource,
        watch: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Refined> {
        let mut done = Refined::default();
        for (name, extent) in self.behind(runtime, source) {
            if watch().is_break() {
                done.left += 1;
                continue;
            }
            let replacement = runtime.prepare(source, &name)?;
            done.most_bytes = done.most_bytes.max(replacement.memory_bytes());
            runtime.exchange([replacement])?;
            self.extents.insert(name, extent);
            done.layers += 1;
        }
        Ok(done)
    }

    /// Like [`Refiner::refine`], but exchanges all layers at once: no pass sees some new weights and some old ones, but both forms of
    /// all layers that change are in memory.
    ///
    /// # Errors
    /// Those of [`Runtime::prepare`]. Nothing is exchanged then.
    pub fn refine_at_once(&mut self, runtime: &Runtime, source: &dyn WeightSource) -> Result<Refined> {
        let behind = self.behind(runtime, source);
        let replacements = behind.iter().map(|(name, _)| runtime.prepare(source, name));
        let replacements = replacements.collect::<Result<Vec<Replacement>>>()?;
        let most_bytes = replacements.iter().map(Replacement::memory_bytes).sum();
        let layers = replacements.len();
        runtime.exchange(replacements)?;
        self.extents.extend(behind);
        Ok(Refined { layers, left: 0, most_bytes })
    }

    /// The layers of which `source` has more, with their extents.
    fn behind(&self, runtime: &Runtime, source: &dyn WeightSource) -> Vec<(String, u64)> {
        let extents = runtime.linear_names().into_iter().map(|name| (source.extent_of(&name), name));
        let is_behind = |(extent, name): &(u64, String)| self.extents.get(name).is_none_or(|has| has < extent);
        extents.filter(is_behind).map(|(extent, name)| (name, extent)).collect()
    }
}
