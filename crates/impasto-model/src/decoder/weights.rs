//! The linear layers of a loaded model by name: to list them, to read them, to put other weights in their place.

use super::projection::Layer;
use super::{Block, Decoder, Frame};
use crate::{LinearInfo, ModelError, Result};

impl Layer {
    /// What it is; `input` is the number of its input.
    pub(super) fn info(&self, input: usize) -> LinearInfo<'_> {
        let [outputs, inputs] = self.linear.shape();
        LinearInfo { name: &self.name, outputs, inputs, input }
    }
}

impl<L> Block<L> {
    /// The layers, grouped by the input they share, in the order in which they run.
    fn groups(&self) -> [&[L]; 4] {
        [self.qkv.layers(), self.output.layers(), self.gate_up.layers(), self.down.layers()]
    }

    /// The linear layers in the order in which they run.
    pub fn layers(&self) -> impl Iterator<Item = &L> {
        self.groups().into_iter().flatten()
    }

    /// The weights of all norms.
    pub fn norms(&self) -> impl Iterator<Item = &Vec<f32>> {
        let optional = [&self.q_norm, &self.k_norm, &self.post_attention_norm, &self.post_mlp_norm];
        [&self.attention_norm, &self.mlp_norm].into_iter().chain(optional.into_iter().flatten())
    }

    /// The linear layers in the order in which they run, to be replaced.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut L> {
        let attention = self.qkv.layers_mut().iter_mut().chain(self.output.layers_mut());
        attention.chain(self.gate_up.layers_mut()).chain(self.down.layers_mut())
    }
}

impl Block {
    /// The linear layers in the order in which they run: two inputs in each half. Inputs are counted through all blocks.
    pub fn linears(&self) -> impl Iterator<Item = LinearInfo<'_>> {
        let groups = (4 * self.index..).zip(self.groups());
        groups.flat_map(|(input, layers)| layers.iter().map(move |layer| layer.info(input)))
    }

    /// Weights of the linear layer `name`, as [`Decoder::weights`].
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] when the block has none of that name.
    pub fn weights(&self, name: &str) -> Result<&[f32]> {
        weights(self.layers(), name)
    }

    /// Replaces the weights of the linear layer `name`, as [`Decoder::set_weights`].
    ///
    /// # Errors
    /// Those of [`Decoder::set_weights`].
    pub fn set_weights(&mut self, name: &str, weights: &[f32]) -> Result<()> {
        set_weights(self.layers_mut(), name, weights)
    }
}

impl Frame {
    /// Weights of the embedding or the output projection, as [`Decoder::weights`].
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] for another name.
    pub fn weights(&self, name: &str) -> Result<&[f32]> {
        weights(self.layers(), name)
    }

    /// Replaces the weights of the embedding or the output projection, as [`Decoder::set_weights`].
    ///
    /// # Errors
    /// Those of [`Decoder::set_weights`].
    pub fn set_weights(&mut self, name: &str, weights: &[f32]) -> Result<()> {
        set_weights(self.layers_mut(), name, weights)
    }
}

fn weights<'a>(mut layers: impl Iterator<Item = &'a Layer>, name: &str) -> Result<&'a [f32]> {
    let found = layers.find(|layer| layer.name == name).ok_or_else(|| ModelError::NoLinear { name: name.into() })?;
    Ok(found.linear.weight())
}

fn set_weights<'a>(mut layers: impl Iterator<Item = &'a mut Layer>, name: &str, weights: &[f32]) -> Result<()> {
    let found = layers.find(|layer| layer.name == name).ok_or_else(|| ModelError::NoLinear { name: name.into() })?;
    let shape = found.linear.shape();
    let old = found.linear.weight_mut();
    if old.len() != weights.len() {
        return Err(ModelError::count(name, weights.len(), &shape));
    }
    old.copy_from_slice(weights);
    Ok(())
}

impl Decoder {
    /// The linear layers in the order in which they run, the output projection last (under the name of the embedding
    /// where that is tied). A tensor that fuses several layers is one layer.
    pub fn linears(&self) -> Vec<LinearInfo<'_>> {
        self.blocks.iter().flat_map(Block::linears).chain([self.frame.head()]).collect()
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.blocks.iter().flat_map(Block::layers).chain(self.frame.layers())
    }

    /// Weights of the linear layer (or the embedding) `name`, outputs x inputs, row-major.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] when there is none of that name.
    pub fn weights(&self, name: &str) -> Result<&[f32]> {
        weights(self.layers(), name)
    }

    /// Puts `weights`, outputs x inputs, row-major, in place of those of the linear layer (or the embedding) `name`. A
    /// tied embedding changes as what it is: embedding and output projection in one.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] when there is none of that name, [`ModelError::Tensor`] for another number of weights.
    pub fn set_weights(&mut self, name: &str, weights: &[f32]) -> Result<()> {
        let blocks = self.blocks.iter_mut().flat_map(Block::layers_mut);
        set_weights(blocks.chain(self.frame.layers_mut()), name, weights)
    }

    /// Bytes of all weights in memory.
    pub fn memory_bytes(&self) -> usize {
        let norms = self.blocks.iter().flat_map(Block::norms).chain([&self.frame.norm]);
        self.layers().map(|layer| layer.linear.memory_bytes()).sum::<usize>()
            + norms.map(|norm| size_of_val(norm.as_slice())).sum::<usize>()
    }
}
