//! The linear layers of a loaded model by name: to list them, to read them, to put other weights in their place.

use super::{Block, Decoder, Layer};
use crate::{LinearInfo, ModelError, Result};

impl Block {
    /// The layers, grouped by the input they share, in the order in which they run.
    fn groups(&self) -> [&[Layer]; 4] {
        [self.qkv.layers(), self.output.layers(), self.gate_up.layers(), self.down.layers()]
    }

    fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        let attention = self.qkv.layers_mut().iter_mut().chain(self.output.layers_mut());
        attention.chain(self.gate_up.layers_mut()).chain(self.down.layers_mut())
    }

    fn norms(&self) -> impl Iterator<Item = &Vec<f32>> {
        let optional = [&self.q_norm, &self.k_norm, &self.post_attention_norm, &self.post_mlp_norm];
        [&self.attention_norm, &self.mlp_norm].into_iter().chain(optional.into_iter().flatten())
    }
}

impl Decoder {
    /// The linear layers in the order in which they run, the output projection last (under the name of the embedding
    /// where that is tied). A tensor that fuses several layers is one layer.
    pub fn linears(&self) -> Vec<LinearInfo<'_>> {
        let blocks = self.blocks.iter().flat_map(Block::groups);
        let groups = blocks.chain([std::slice::from_ref(self.head())]).enumerate();
        let mut all = Vec::new();
        for (input, layers) in groups {
            all.extend(layers.iter().map(|layer| {
                let [outputs, inputs] = layer.linear.shape();
                LinearInfo { name: &layer.name, outputs, inputs, input }
            }));
        }
        all
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        let blocks = self.blocks.iter().flat_map(|block| block.groups().into_iter().flatten());
        blocks.chain(&self.head).chain([&self.embedding])
    }

    /// Weights of the linear layer (or the embedding) `name`, outputs x inputs, row-major.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] when there is none of that name.
    pub fn weights(&self, name: &str) -> Result<&[f32]> {
        let mut layers = self.layers();
        let found =
            layers.find(|layer| layer.name == name).ok_or_else(|| ModelError::NoLinear { name: name.into() })?;
        Ok(found.linear.weight())
    }

    /// Puts `weights`, outputs x inputs, row-major, in place of those of the linear layer (or the embedding) `name`. A
    /// tied embedding changes as what it is: embedding and output projection in one.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] when there is none of that name, [`ModelError::Tensor`] for another number of weights.
    pub fn set_weights(&mut self, name: &str, weights: &[f32]) -> Result<()> {
        let blocks = self.blocks.iter_mut().flat_map(Block::layers_mut);
        let mut layers = blocks.chain(&mut self.head).chain([&mut self.embedding]);
        let found =
            layers.find(|layer| layer.name == name).ok_or_else(|| ModelError::NoLinear { name: name.into() })?;
        let shape = found.linear.shape();
        let old = found.linear.weight_mut();
        if old.len() != weights.len() {
            return Err(ModelError::count(name, weights.len(), &shape));
        }
        old.copy_from_slice(weights);
        Ok(())
    }

    /// Bytes of all weights in memory.
    pub fn memory_bytes(&self) -> usize {
        let norms = self.blocks.iter().flat_map(Block::norms).chain([&self.norm]);
        self.layers().map(|layer| layer.linear.memory_bytes()).sum::<usize>()
            + norms.map(|norm| size_of_val(norm.as_slice())).sum::<usize>()
    }
}
