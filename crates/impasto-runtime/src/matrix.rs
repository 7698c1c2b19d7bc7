//! A weight matrix in one of its residences, and its product with activations.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use impasto_kernels::dense::{DenseMatrix, multiply_parts};
use impasto_kernels::packed::{Activations, Kernel, PackedMatrix, Scratch};
use impasto_kernels::{Pool, Workers};
use impasto_model::{CodedTensor, Failure, ModelError, OpenTensor, Result};

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

    /// The weights of `rows`, which there are, one after another in `out`: the embeddings of tokens.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn rows(&self, rows: impl Iterator<Item = usize>, out: &mut [f32]) -> Result<()> {
        let places = rows.zip(out.chunks_exact_mut(self.inputs()));
        match &self.matrix {
            Matrix::Dense(dense) => places.for_each(|(row, out)| dense.row(row, out)),
            Matrix::Packed(packed) => places.for_each(|(row, out)| packed.row(row, out)),
            Matrix::Coded(coded) => self.check(rows_of_coded(&**coded, places.collect()))?,
        }
        Ok(())
    }

    fn check<T>(&self, result: Result<T, Failure>) -> Result<T> {
        result.map_err(|source| ModelError::Tensor { name: self.name.clone(), source })
    }
}

/// The bands of a coded matrix, each row in one of them, in order.
fn bands_of(open: &dyn OpenTensor, outputs: usize) -> Result<Vec<Range<usize>>, Failure> {
    let bands = open.bands();
    let ends = bands.iter().map(|band| band.end);
    let begins = bands.iter().map(|band| band.start).chain([outputs]);
    let in_order = [0].into_iter().chain(ends).eq(begins) && bands.iter().all(|band| band.start < band.end);
    if in_order { Ok(bands) } else { Err("bands are not all rows in order".into()) }
}

/// Decodes a band into `weights`.
fn read_band(open: &dyn OpenTensor, band: usize, count: usize, weights: &mut Vec<f32>) -> Result<(), Failure> {
    open.read(band, weights)?;
    if weights.len() == count { Ok(()) } else { Err(format!("band {band} has {} weights", weights.len()).into()) }
}

/// The product, each band of rows multiplied by the worker that has just decoded it.
fn multiply_coded(coded: &dyn CodedTensor, x: &[f32], out: &mut [f32], tools: &Tools) -> Result<(), Failure> {
    let [outputs, inputs] = coded.shape();
    let open = coded.open()?;
    let bands = bands_of(&*open, outputs)?;
    let read = |band: usize, weights: &mut Vec<f32>| read_band(&*open, band, bands[band].len() * inputs, weights);
    multiply_parts(&bands, read, x, inputs, out, &tools.workers, &tools.pool)
}

/// Rows of a coded matrix, each to its place; a band is decoded once.
fn rows_of_coded(coded: &dyn CodedTensor, mut places: Vec<(usize, &mut [f32])>) -> Result<(), Failure> {
    let [outputs, inputs] = coded.shape();
    let open = coded.open()?;
    let bands = bands_of(&*open, outputs)?;
    let mut weights = Vec::new();
    let mut decoded = None;
    places.sort_by_key(|(row, _)| *row);
    for (row, out) in places {
        let band = bands.partition_point(|band| band.end <= row);
        if decoded != Some(band) {
            read_band(&*open, band, bands[band].len() * inputs, &mut weights)?;
            decoded = Some(band);
        }
        out.copy_from_slice(&weights[(row - bands[band].start) * inputs..][..inputs]);
    }
    Ok(())
}

/// Decodes every band once, so that what is broken is found when the model is loaded.
pub(super) fn check_decodes(coded: &dyn CodedTensor, pool: &Pool) -> Result<(), Failure> {
    let [outputs, inputs] = coded.shape();
    let open = coded.open()?;
    let bands = bands_of(&*open, outputs)?;
    let buffers: Vec<Mutex<Vec<f32>>> = (0..pool.threads()).map(|_| Mutex::default()).collect();
    pool.try_run(bands.len(), &|worker, band| {
        let mut weights = buffers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        read_band(&*open, band, bands[band].len() * inputs, &mut weights)
    })
}
