//! Weights by the names and shapes of a description.

use super::{Block, Ends, LinearSpec, VectorSpec};
use crate::config::DecoderConfig;
use crate::{ModelError, Result, WeightSource};

/// Is the shape of tensor `name` the `expected` one?
///
/// # Errors
/// [`ModelError::MissingTensor`] or [`ModelError::Shape`] if not.
pub fn check_shape(source: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<()> {
    let wide: Vec<u64> = expected.iter().map(|&d| d as u64).collect();
    match source.shape(name) {
        None => Err(ModelError::MissingTensor { name: name.into(), expected: wide }),
        Some(found) if found != wide => Err(ModelError::Shape { name: name.into(), found, expected: wide }),
        Some(_) => Ok(()),
    }
}

/// Values of tensor `name`, whose shape must be `expected`.
///
/// # Errors
/// Those of [`check_shape`], and [`ModelError::Tensor`] when the source fails.
pub fn tensor(source: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
    check_shape(source, name, expected)?;
    let values = source.load_f32(name).map_err(|source| ModelError::Tensor { name: name.into(), source })?;
    if Some(values.len()) != expected.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
        return Err(ModelError::count(name, values.len(), expected));
    }
    Ok(values)
}

pub(super) fn embedding(prefix: &str) -> String {
    format!("{prefix}embed_tokens.weight")
}

/// What tensor names begin with in this source, and the name of the output projection.
pub fn names(source: &dyn WeightSource, config: &DecoderConfig) -> (&'static str, &'static str) {
    let present = |(prefix, _): &&(&'static str, _)| source.shape(&embedding(prefix)).is_some();
    config.names.iter().find(present).or(config.names.first()).copied().unwrap_or(("", ""))
}

/// What makes a linear layer of its description and its bias, after its shape was checked.
type Make<'a, L> = dyn Fn(&LinearSpec, Option<Vec<f32>>) -> Result<L> + 'a;

/// Reads the weights that a description names, linear layers as `make` makes them.
pub struct Loader<'a, L> {
    source: &'a dyn WeightSource,
    make: &'a Make<'a, L>,
}

impl<'a, L> Loader<'a, L> {
    /// Reads the weights of `source`.
    pub fn new(source: &'a dyn WeightSource, make: &'a Make<'a, L>) -> Self {
        Self { source, make }
    }

    fn linear(&self, spec: &LinearSpec) -> Result<L> {
        check_shape(self.source, &spec.name, &[spec.outputs, spec.inputs])?;
        let bias = spec.bias.then(|| tensor(self.source, &spec.bias_name(), &[spec.outputs])).transpose()?;
        (self.make)(spec, bias)
    }

    fn vector(&self, spec: &VectorSpec) -> Result<Vec<f32>> {
        let mut weight = tensor(self.source, &spec.name, &[spec.width])?;
        if spec.plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    /// The weights of a block.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or cannot be read; what `make` refuses.
    pub fn block(&self, block: &Block) -> Result<Block<L, Vec<f32>>> {
        block.try_map(|linear| self.linear(linear), |vector| self.vector(vector))
    }

    /// The weights around the blocks.
    ///
    /// # Errors
    /// As [`Loader::block`].
    pub fn ends(&self, ends: &Ends) -> Result<Ends<L, Vec<f32>>> {
        ends.try_map(|linear| self.linear(linear), |vector| self.vector(vector))
    }
}
