//! A matrix whose layers are in memory together, and the choice among them.

use std::sync::Arc;

use impasto_kernels::low_rank::LowRankMatrix;
use impasto_kernels::packed::{NestedMatrix, Packing};
use impasto_model::{Failure, ModelError, Result};

use crate::Runtime;
use crate::matrix::{Linear, Matrix, Scratch, Tools};
use crate::weights::Weights;

/// The layers of a matrix, outputs x inputs.
pub(crate) struct LayeredMatrix {
    /// Those on a lattice.
    pub(crate) nested: Option<NestedMatrix>,
    /// What is added to those on a lattice.
    pub(crate) low_rank: Option<Box<LowRankMatrix>>,
    /// The others, such as the exact one.
    pub(crate) whole: Vec<Matrix>,
    /// Where each layer is, from the coarsest; not empty.
    pub(crate) places: Vec<Place>,
}

/// Where a layer of a matrix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A layer of the nested matrix.
    Nested(usize),
    /// A matrix of its own.
    Whole(usize),
}

impl LayeredMatrix {
    /// Returns where a layer is. A layer above the finest is the finest.
    fn place(&self, layer: usize) -> Place {
        self.places[layer.min(self.places.len() - 1)]
    }

    /// Returns outputs and inputs.
    pub(crate) fn shape(&self) -> [usize; 2] {
        let of_whole = || self.whole.first().map(|matrix| [matrix.outputs(), matrix.inputs()]);
        let shape = self.nested.as_ref().map(|nested| [nested.outputs(), nested.inputs()]);
        shape.or_else(of_whole).unwrap_or_default()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.nested.as_ref().map_or(0, NestedMatrix::memory_bytes)
            + self.low_rank.as_ref().map_or(0, |low_rank| low_rank.memory_bytes())
            + self.whole.iter().map(Matrix::memory_bytes).sum::<usize>()
    }

    /// Returns the bytes that a product at a layer reads, about.
    fn bytes_at(&self, layer: usize) -> usize {
        let low_rank = self.low_rank.as_ref().map_or(0, |low_rank| low_rank.memory_bytes());
        match self.place(layer) {
            Place::Nested(layer) => self.nested.as_ref().map_or(0, |nested| nested.bytes_at(layer)) + low_rank,
            Place::Whole(at) => self.whole[at].memory_bytes(),
        }
    }

    /// Adds the statistics of its packed integers to `sum`.
    pub(crate) fn add_packing(&self, sum: &mut Packing) {
        self.nested.iter().for_each(|nested| sum.add(nested.report()));
        self.whole.iter().for_each(|matrix| matrix.add_packing(sum));
    }

    /// Computes `y = W x` at a layer for each row x of `x`. The outputs of the rows begin `stride` elements apart.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(crate) fn multiply(
        &self,
        layer: usize,
        x: &[f32],
        out: &mut [f32],
        stride: usize,
        tools: &Tools,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let (layer, nested) = match (self.place(layer), &self.nested) {
            (Place::Whole(at), _) => return self.whole[at].multiply(x, out, stride, tools, scratch),
            (Place::Nested(layer), Some(nested)) => (layer, nested),
            (Place::Nested(_), None) => return Err("a layer is not there".into()),
        };
        let Tools { pool, kernel, activations, workers } = tools;
        let (tokens, scratch) = (x.len() / nested.inputs(), &mut scratch.lattice);
        nested.multiply(layer, *kernel, *activations, x, tokens, out, stride, &mut scratch.packed, pool);
        if let Some(low_rank) = &self.low_rank {
            low_rank.multiply_add(x, out, stride, &mut scratch.low_rank, workers, pool);
        }
        Ok(())
    }

    /// Writes the weights of row `row` at a layer to `out`, one per input. `buffer` is working memory.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(crate) fn row(&self, layer: usize, row: usize, out: &mut [f32], buffer: &mut Vec<f32>) -> Result<(), Failure> {
        match (self.place(layer), &self.nested) {
            (Place::Whole(at), _) => return self.whole[at].row(row, out, buffer),
            (Place::Nested(layer), Some(nested)) => nested.row(layer, row, out),
            (Place::Nested(_), None) => return Err("a layer is not there".into()),
        }
        self.low_rank.iter().for_each(|low_rank| low_rank.add_row(row, out));
        Ok(())
    }
}

impl Weights {
    /// Returns these weights with the layer that `layer` returns for the name of each linear layer.
    pub(crate) fn at(&self, layer: impl Fn(&str) -> usize) -> Weights {
        let mut weights = self.clone();
        for linear in weights.linears_mut() {
            if let Matrix::Layered(layered, _) = &linear.matrix {
                let matrix = Matrix::Layered(layered.clone(), layer(&linear.name));
                *linear = Arc::new(Linear { name: linear.name.clone(), matrix, bias: linear.bias.clone() });
            }
        }
        weights
    }

    /// Returns the bytes of weights that a pass reads, about: without norms, and the embedding only if it is the output
    /// projection.
    fn bytes_of_pass(&self) -> usize {
        let projection = self.ends.projection();
        let of_blocks = self.blocks.iter().flat_map(|block| block.layers());
        of_blocks.chain([projection]).map(|linear| linear.matrix.bytes_of_product()).sum()
    }
}

impl Matrix {
    /// Returns the bytes that a product reads, about.
    fn bytes_of_product(&self) -> usize {
        match self {
            Matrix::Layered(layered, layer) => layered.bytes_at(*layer),
            matrix => matrix.memory_bytes(),
        }
    }
}

impl Runtime {
    /// Number of layers in memory: 1 unless it was loaded by [`Runtime::load_layers`].
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Checks that a layer is in memory.
    ///
    /// # Errors
    /// [`ModelError::NoLayer`] if it is not.
    pub(crate) fn check_layer(&self, layer: usize) -> Result<()> {
        if layer < self.layers { Ok(()) } else { Err(ModelError::NoLayer { layer: layer + 1, layers: self.layers }) }
    }

    /// Chooses a layer, counted from 0, for each linear layer by its name. Nothing is loaded. A running pass keeps the
    /// layers it started with, and a later pass sees all new ones. Keys and values in caches are not recomputed.
    ///
    /// # Errors
    /// [`ModelError::NoLayer`] if a layer is not in memory; nothing then changes.
    pub fn set_layers(&self, layer: impl Fn(&str) -> usize) -> Result<()> {
        let mut current = self.weights_mut();
        current.linears().try_for_each(|linear| self.check_layer(layer(&linear.name)))?;
        *current = Arc::new(current.at(layer));
        Ok(())
    }

    /// Returns the bytes of weights that a pass at a layer reads, about.
    ///
    /// # Errors
    /// [`ModelError::NoLayer`] if the layer is not in memory.
    pub fn bytes_at(&self, layer: usize) -> Result<usize> {
        self.check_layer(layer)?;
        Ok(self.weights().at(|_| layer).bytes_of_pass())
    }
}
