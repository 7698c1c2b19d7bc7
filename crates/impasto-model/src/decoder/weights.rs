//! Lists, reads and replaces the linear layers of a loaded model by name.

use super::layer::Layer;
use super::{Block, Decoder, Frame};
use crate::{LinearInfo, ModelError, Result};

impl Block {
    /// The linear layers in the order in which they run. Inputs are numbered across all blocks.
    pub fn linears(&self) -> impl Iterator<Item = LinearInfo<'_>> {
        (0..self.sublayers.len()).flat_map(|sublayer| self.linears_of(sublayer))
    }

    /// The linear layers of the sublayer with this index, as in [`Block::linears`].
    ///
    /// # Panics
    /// If there is no such sublayer.
    pub fn linears_of(&self, sublayer: usize) -> impl Iterator<Item = LinearInfo<'_>> {
        let before: usize = self.sublayers[..sublayer].iter().map(|sublayer| sublayer.groups().count()).sum();
        let groups = (self.first_input + before..).zip(self.sublayers[sublayer].groups());
        groups.flat_map(|(input, layers)| layers.iter().map(move |layer| layer.info(input)))
    }

    /// The weights of the linear layer `name`, as [`Decoder::weights`].
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] if the block has no layer of that name.
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
    /// The weights of the embedding or the output projection, as [`Decoder::weights`].
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] for another name.
    pub fn weights(&self, name: &str) -> Result<&[f32]> {
        weights(self.ends.layers(), name)
    }

    /// Replaces the weights of the embedding or the output projection, as [`Decoder::set_weights`].
    ///
    /// # Errors
    /// Those of [`Decoder::set_weights`].
    pub fn set_weights(&mut self, name: &str, weights: &[f32]) -> Result<()> {
        set_weights(self.ends.layers_mut(), name, weights)
    }
}

fn weights<'a>(mut layers: impl Iterator<Item = &'a Layer>, name: &str) -> Result<&'a [f32]> {
    let found = layers.find(|layer| layer.name == name).ok_or_else(|| ModelError::NoLinear { name: name.into() })?;
    Ok(found.linear.weight())
}

fn no_norm(number: usize) -> ModelError {
    let rule = "must be the number of a norm, with as many weights as it has";
    ModelError::BadOption { name: "norm", value: number.to_string(), rule }
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
    /// The linear layers in the order in which they run, the output projection last (under the name of the embedding if
    /// they are tied). A tensor that fuses several layers is one layer.
    pub fn linears(&self) -> Vec<LinearInfo<'_>> {
        self.blocks.iter().flat_map(Block::linears).chain([self.frame.head()]).collect()
    }

    fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.blocks.iter().flat_map(Block::layers).chain(self.frame.ends.layers())
    }

    /// The weights of the linear layer (or embedding) `name`: outputs x inputs, row-major.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] if there is no layer of that name.
    pub fn weights(&self, name: &str) -> Result<&[f32]> {
        weights(self.layers(), name)
    }

    /// Replaces the weights of the linear layer (or embedding) `name` by `weights`: outputs x inputs, row-major.
    /// Replacing a tied embedding changes both the embedding and the output projection.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] if there is no layer of that name, [`ModelError::Tensor`] for a wrong number of
    /// weights.
    pub fn set_weights(&mut self, name: &str, weights: &[f32]) -> Result<()> {
        let blocks = self.blocks.iter_mut().flat_map(Block::layers_mut);
        set_weights(blocks.chain(self.frame.ends.layers_mut()), name, weights)
    }

    /// Multiplies each row of the linear layer (or embedding) `name` by a factor.
    ///
    /// # Errors
    /// [`ModelError::NoLinear`] if there is no layer of that name, [`ModelError::Tensor`] for a wrong number of factors.
    pub fn scale_rows(&mut self, name: &str, factors: &[f32]) -> Result<()> {
        let blocks = self.blocks.iter_mut().flat_map(Block::layers_mut);
        let mut layers = blocks.chain(self.frame.ends.layers_mut());
        let found =
            layers.find(|layer| layer.name == name).ok_or_else(|| ModelError::NoLinear { name: name.into() })?;
        let [outputs, _] = found.linear.shape();
        if factors.len() != outputs {
            return Err(ModelError::count(name, factors.len(), &[outputs]));
        }
        found.linear.scale_rows(factors);
        Ok(())
    }

    fn norms(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.blocks.iter().flat_map(Block::vectors).chain([&self.frame.ends.norm])
    }

    /// The weights of a norm: what normalized values are multiplied by, also where the tensor has one less. Norms are numbered in
    /// the order in which they run; the last is that before the output projection.
    ///
    /// # Errors
    /// [`ModelError::BadOption`] if there is no such norm.
    pub fn norm(&self, number: usize) -> Result<&[f32]> {
        self.norms().nth(number).map(Vec::as_slice).ok_or_else(|| no_norm(number))
    }

    /// Replaces the weights of a norm; see [`Decoder::norm`].
    ///
    /// # Errors
    /// [`ModelError::BadOption`] if there is no such norm, or for a wrong number of weights.
    pub fn set_norm(&mut self, number: usize, weights: &[f32]) -> Result<()> {
        let mut norms = self.blocks.iter_mut().flat_map(Block::vectors_mut).chain([&mut self.frame.ends.norm]);
        let norm = norms.nth(number).filter(|norm| norm.len() == weights.len()).ok_or_else(|| no_norm(number))?;
        norm.copy_from_slice(weights);
        Ok(())
    }

    /// Bytes of all weights in memory.
    pub fn memory_bytes(&self) -> usize {
        self.layers().map(|layer| layer.linear.memory_bytes()).sum::<usize>()
            + self.norms().map(|norm| size_of_val(norm.as_slice())).sum::<usize>()
    }
}
