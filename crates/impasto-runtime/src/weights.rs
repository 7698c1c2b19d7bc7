//! The weights of a network, and their exchange at run time.

use std::sync::Arc;

use impasto_core::files::Map;
use impasto_kernels::{KernelError, Pool};
use impasto_model::graph::{Block, Ends, check_shape};
use impasto_model::{ModelError, Result, WeightSource};

use crate::Runtime;
use crate::load::{Budget, LoadWarning, MatrixLoader, Wanted};
use crate::matrix::Linear;

/// All weights. A pass keeps the set that was current when it started.
#[derive(Clone)]
pub(crate) struct Weights {
    /// What the source says that it is, as long as no weights were exchanged.
    pub(crate) identity: Option<[u8; 32]>,
    /// The content of the source, likewise.
    pub(crate) content: Option<[u8; 32]>,
    /// The file of packed weights that matrices are in.
    pub(crate) map: Option<Arc<Map>>,
    pub(crate) ends: Ends<Arc<Linear>, Vec<f32>>,
    pub(crate) blocks: Vec<Block<Arc<Linear>, Vec<f32>>>,
}

impl Weights {
    /// The linear layers and the embedding.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Arc<Linear>> {
        self.blocks.iter().flat_map(Block::layers).chain(self.ends.layers())
    }

    fn find(&self, name: &str) -> Result<&Arc<Linear>> {
        self.linears().find(|linear| linear.name == name).ok_or_else(|| ModelError::NoLinear { name: name.into() })
    }

    fn find_mut(&mut self, name: &str) -> Option<&mut Arc<Linear>> {
        self.linears_mut().find(|linear| linear.name == name)
    }

    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Arc<Linear>> {
        let Self { ends, blocks, .. } = self;
        blocks.iter_mut().flat_map(Block::layers_mut).chain(ends.layers_mut())
    }

    /// Checks that no zeros were read in place of the bytes of a file that became shorter.
    ///
    /// # Errors
    /// [`ModelError::Mapped`] if it did.
    pub(crate) fn check(&self) -> Result<()> {
        self.map.as_ref().map_or(Ok(()), |map| map.check().map_err(ModelError::Mapped))
    }

    /// Bytes in memory, without what is shared with another model.
    pub(crate) fn memory_bytes(&self) -> usize {
        let norms = self.blocks.iter().flat_map(Block::vectors).chain([&self.ends.norm]);
        self.linears().map(|linear| linear.memory_bytes()).sum::<usize>()
            + norms.map(|norm| size_of_val(&norm[..])).sum::<usize>()
    }
}

/// New weights of one linear layer, in the residence of a [`Runtime`], for [`Runtime::exchange`].
pub struct Replacement {
    linear: Arc<Linear>,
    warning: Option<LoadWarning>,
}

impl Replacement {
    /// Name of the weight tensor.
    pub fn name(&self) -> &str {
        &self.linear.name
    }

    /// The warning if the weights could not be packed.
    pub fn warning(&self) -> Option<&LoadWarning> {
        self.warning.as_ref()
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.linear.memory_bytes()
    }
}

impl Runtime {
    /// Names of the weight tensors that can be exchanged: the linear layers in the order in which they run, the output
    /// projection unless it is tied to the embedding, and the embedding.
    pub fn linear_names(&self) -> Vec<String> {
        self.weights().linears().map(|linear| linear.name.clone()).collect()
    }

    /// Reads the weights of the linear layer `name` from `source`, for [`Self::exchange`]. The layer's bias does not
    /// change.
    ///
    /// All work runs on the calling thread, so running passes keep their workers.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] if there is no such layer, [`ModelError::MemoryLimit`] if old and new weights together
    /// exceed the limit, or a tensor that is missing, has the wrong shape or cannot be read.
    pub fn prepare(&self, source: &dyn WeightSource, name: &str) -> Result<Replacement> {
        let weights = self.weights();
        let old = weights.find(name)?;
        let shape = [old.outputs(), old.inputs()];
        check_shape(source, name, &shape)?;
        let (used, limit) = (weights.memory_bytes(), self.memory_limit);
        let budget = Budget::new(limit, used);
        let pool = Pool::new(1).map_err(|error| match error {
            KernelError::Threads(reason) => ModelError::Threads(reason),
            other => ModelError::Threads(other.to_string()),
        })?;
        let loader = MatrixLoader::new(source, self.residence, &pool, &self.arena, &budget);
        let matrix = loader.load(&[Wanted { name, shape }])?.pop();
        let matrix = matrix.ok_or_else(|| ModelError::NoLinear { name: name.into() })?;
        let linear = Linear { name: name.into(), matrix, bias: old.bias.clone() };
        let warning = loader.finish().1.pop();
        Ok(Replacement { linear: Arc::new(linear), warning })
    }

    /// Replaces the weights of the same names, all at once: a running pass keeps the weights it started with, and a
    /// later pass sees all new ones. Keys and values in caches are not recomputed.
    ///
    /// The memory of old weights is freed when no pass uses them. Packed weights share blocks of 64 MiB, each of which
    /// is freed as a whole.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] for a layer that this model does not have, [`ModelError::Shape`] for a layer of another
    /// shape. Nothing is then exchanged.
    pub fn exchange(&self, replacements: impl IntoIterator<Item = Replacement>) -> Result<()> {
        let mut current = self.weights_mut();
        let mut weights = Weights { identity: None, content: None, ..Weights::clone(&current) };
        for Replacement { linear, .. } in replacements {
            let Some(place) = weights.find_mut(&linear.name) else {
                return Err(ModelError::NoLinear { name: linear.name.clone() });
            };
            let shape = |linear: &Linear| vec![linear.outputs() as u64, linear.inputs() as u64];
            if shape(place) != shape(&linear) {
                let (found, expected) = (shape(&linear), shape(place));
                return Err(ModelError::Shape { name: linear.name.clone(), found, expected });
            }
            *place = linear;
        }
        *current = Arc::new(weights);
        Ok(())
    }
}
