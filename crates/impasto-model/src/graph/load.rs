//! Loads weights by the names and shapes of a description.

use super::{Block, Ends, LinearSpec, VectorSpec};
use crate::{ModelError, Result, WeightSource};

/// Checks that tensor `name` has the `expected` shape.
///
/// # Errors
/// [`ModelError::MissingTensor`] or [`ModelError::Shape`] if it does not.
pub fn check_shape(source: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<()> {
    let wide: Vec<u64> = expected.iter().map(|&d| d as u64).collect();
    match source.shape(name) {
        None => Err(ModelError::MissingTensor { name: name.into(), expected: wide }),
        Some(found) if found != wide => Err(ModelError::Shape { name: name.into(), found, expected: wide }),
        Some(_) => Ok(()),
    }
}

/// Returns the values of tensor `name`, whose shape must be `expected`.
///
/// # Errors
/// Those of [`check_shape`], and [`ModelError::Tensor`] if the source fails.
pub fn tensor(source: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
    check_shape(source, name, expected)?;
    let values = source.load_f32(name).map_err(|source| ModelError::Tensor { name: name.into(), source })?;
    if Some(values.len()) != expected.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
        return Err(ModelError::count(name, values.len(), expected));
    }
    Ok(values)
}

/// Creates a linear layer from its description and its bias; called after its shape was checked.
type Make<'a, L> = dyn Fn(&LinearSpec, Option<Vec<f32>>) -> Result<L> + 'a;

/// Loads the weights that a description names; `make` creates the linear layers.
pub struct Loader<'a, L> {
    source: &'a dyn WeightSource,
    make: &'a Make<'a, L>,
}

impl<'a, L> Loader<'a, L> {
    /// Loads from `source`.
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

    /// Loads the weights of a block.
    ///
    /// # Errors
    /// A tensor that is missing, has the wrong shape or cannot be read; errors of `make`.
    pub fn block(&self, block: &Block) -> Result<Block<L, Vec<f32>>> {
        block.try_map(|linear| self.linear(linear), |vector| self.vector(vector))
    }

    /// Loads the weights outside the blocks.
    ///
    /// # Errors
    /// Those of [`Loader::block`].
    pub fn ends(&self, ends: &Ends) -> Result<Ends<L, Vec<f32>>> {
        ends.try_map(|linear| self.linear(linear), |vector| self.vector(vector))
    }
}
