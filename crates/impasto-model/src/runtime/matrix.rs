//! A weight matrix in one of its residences, and its product with activations.

use std::sync::Arc;

use super::dense::{DenseMatrix, multiply_rows};
use super::packed::{Activations, Kernel, PackedMatrix, Scratch};
use super::parts::Parts;
use super::pool::Pool;
use super::workers::{Buffers, Workers};
use crate::{CodedTensor, Failure, ModelError, Result};

/// A matrix, outputs x inputs.
pub(super) enum Matrix {
    /// Floats.
    Dense(DenseMatrix),
    /// Integers at few bits.
    Packed(PackedMatrix),
    /// Entropy-coded, decoded in each product.
    Coded(Arc<dyn CodedTensor>),
}

/// A linear layer.
pub(super) struct Linear {
    /// Name of the weight tensor.
    pub(super) name: String,
    pub(super) matrix: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

/// What products need beside the matrix.
pub(super) struct Tools {
    pub(super) pool: Pool,
    pub(super) kernel: Kernel,
    pub(super) activations: Activations,
    pub(super) workers: Workers,
}

impl Linear {
    pub(super) fn inputs(&self) -> usize {
        match &self.matrix {
            Matrix::Dense(dense) => dense.shape()[1],
            Matrix::Packed(packed) => packed.inputs(),
            Matrix::Coded(coded) => coded.shape()[1],
        }
    }

    pub(super) fn outputs(&self) -> usize {
        match &self.matrix {
            Matrix::Dense(dense) => dense.shape()[0],
            Matrix::Packed(packed) => packed.outputs(),
            Matrix::Coded(coded) => coded.shape()[0],
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        let matrix = match &self.matrix {
            Matrix::Dense(dense) => dense.memory_bytes(),
            Matrix::Packed(packed) => packed.memory_bytes(),
            Matrix::Coded(coded) => coded.memory_bytes(),
        };
        matrix + self.bias.as_deref().map_or(0, size_of_val)
    }

    /// `y = W x + b` for each of the rows x of `x`; `out`, rows x outputs, has room for them.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn multiply(&self, x: &[f32], out: &mut [f32], tools: &Tools, scratch: &mut Scratch) -> Result<()> {
        let (tokens, outputs) = (x.len() / self.inputs(), self.outputs());
        match &self.matrix {
            Matrix::Dense(dense) => dense.multiply(x, out, outputs, &tools.workers, &tools.pool),
            Matrix::Packed(packed) => {
                packed.multiply(tools.kernel, tools.activations, x, tokens, out, outputs, scratch, &tools.pool);
            }
            Matrix::Coded(coded) => self.check(multiply_coded(&**coded, x, out, tools))?,
        }
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        Ok(())
    }

    /// The weights of row `row`, which there is: the embedding of a token.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        match &self.matrix {
            Matrix::Dense(dense) => dense.row(row, out),
            Matrix::Packed(packed) => packed.row(row, out),
            Matrix::Coded(coded) => self.check(row_of_coded(&**coded, row, out))?,
        }
        Ok(())
    }

    fn check<T>(&self, result: Result<T, Failure>) -> Result<T> {
        result.map_err(|source| ModelError::Tensor { name: self.name.clone(), source })
    }
}

/// The product, each band of rows multiplied by the worker that has just decoded it.
fn multiply_coded(coded: &dyn CodedTensor, x: &[f32], out: &mut [f32], tools: &Tools) -> Result<(), Failure> {
    let [outputs, inputs] = coded.shape();
    let open = coded.open()?;
    let bands = open.bands();
    let out = Parts::new(out);
    tools.pool.try_run(bands.len(), &|worker, band| {
        let rows = bands[band].clone();
        tools.workers.with(worker, |Buffers { weights, outputs: buffer }| {
            open.read(band, weights)?;
            // SAFETY: bands are different rows.
            unsafe { multiply_rows(weights, rows, x, inputs, &out, outputs, buffer, tools.workers.level) };
            Ok(())
        })
    })
}

fn row_of_coded(coded: &dyn CodedTensor, row: usize, out: &mut [f32]) -> Result<(), Failure> {
    let open = coded.open()?;
    let bands = open.bands();
    let band = bands.partition_point(|band| band.end <= row);
    let mut weights = Vec::new();
    open.read(band, &mut weights)?;
    let inputs = coded.shape()[1];
    out.copy_from_slice(&weights[(row - bands[band].start) * inputs..][..inputs]);
    Ok(())
}
