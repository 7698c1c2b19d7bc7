//! A weight matrix in its residence, and its product with activations.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use impasto_core::Isa;
use impasto_kernels::blocks::{self, BlockMatrix};
use impasto_kernels::dense::{DenseMatrix, Part, multiply_parts};
use impasto_kernels::packed::{Activations, Kernel, Packing};
use impasto_kernels::{KernelError, Pool, Workers};
use impasto_model::{CodedTensor, Failure, ModelError, Result};

use crate::lattice::{self, LatticeMatrix};
use crate::layered::LayeredMatrix;
use crate::load::Residence;
use crate::network::RuntimeOptions;
use crate::over::OverMatrix;

/// A matrix, outputs x inputs.
pub(super) enum Matrix {
    /// Floats.
    Dense(DenseMatrix),
    /// Packed integers, with a low-rank part if there is one.
    Packed(LatticeMatrix),
    /// Packed blocks of ggml.
    Blocks(BlockMatrix),
    /// Entropy-coded; decoded in each product.
    Coded(Arc<dyn CodedTensor>),
    /// A matrix of a base and what is added to it.
    Over(Box<OverMatrix>),
    /// Several layers, and the one that is in use, counted from 0.
    Layered(Arc<LayeredMatrix>, usize),
}

/// A linear layer.
pub(super) struct Linear {
    /// Name of the weight tensor.
    pub(super) name: String,
    pub(super) matrix: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

/// What products need besides the matrix.
pub(super) struct Tools {
    pub(super) pool: Pool,
    pub(super) kernel: Kernel,
    pub(super) activations: Activations,
    pub(super) workers: Workers,
}

impl Tools {
    /// Creates those of a network or matrix of its own.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub(super) fn new(options: &RuntimeOptions) -> Result<Tools, KernelError> {
        let pool = Pool::new(options.threads)?;
        let workers = Workers::new(pool.threads(), Isa::best());
        // In the other residences nothing rounds activations, blocks included.
        let activations = if options.residence == Residence::Packed { options.activations } else { Activations::F32 };
        Ok(Tools { pool, kernel: Kernel::best(), activations, workers })
    }
}

/// Working memory of products.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) lattice: lattice::Scratch,
    pub(super) blocks: blocks::Scratch,
    /// The product with what is added to a matrix of a base.
    pub(super) added: Vec<f32>,
}

impl Matrix {
    pub(super) fn inputs(&self) -> usize {
        match self {
            Matrix::Dense(dense) => dense.shape()[1],
            Matrix::Packed(lattice) => lattice.packed.inputs(),
            Matrix::Blocks(blocks) => blocks.inputs(),
            Matrix::Coded(coded) => coded.shape()[1],
            Matrix::Over(over) => over.inputs(),
            Matrix::Layered(layered, _) => layered.shape()[1],
        }
    }

    pub(super) fn outputs(&self) -> usize {
        match self {
            Matrix::Dense(dense) => dense.shape()[0],
            Matrix::Packed(lattice) => lattice.packed.outputs(),
            Matrix::Blocks(blocks) => blocks.outputs(),
            Matrix::Coded(coded) => coded.shape()[0],
            Matrix::Over(over) => over.outputs(),
            Matrix::Layered(layered, _) => layered.shape()[0],
        }
    }

    /// Bytes in memory, without what is shared with another model.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Matrix::Dense(dense) => dense.memory_bytes(),
            Matrix::Packed(lattice) => lattice.memory_bytes(),
            Matrix::Blocks(blocks) => blocks.memory_bytes(),
            Matrix::Coded(coded) => coded.memory_bytes(),
            Matrix::Over(over) => over.memory_bytes(),
            Matrix::Layered(layered, _) => layered.memory_bytes(),
        }
    }

    /// Adds the statistics of its packed integers to `sum`.
    pub(super) fn add_packing(&self, sum: &mut Packing) {
        match self {
            Matrix::Packed(lattice) => sum.add(lattice.packed.report()),
            Matrix::Over(over) => over.add_packing(sum),
            Matrix::Layered(layered, _) => layered.add_packing(sum),
            Matrix::Dense(_) | Matrix::Blocks(_) | Matrix::Coded(_) => {}
        }
    }

    /// Computes `y = W x` for each row x of `x`. The outputs of the rows begin `stride` elements apart in `out`.
    ///
    /// # Errors
    /// If a coded matrix does not decode, or is asked for another stride than its outputs.
    pub(super) fn multiply(
        &self,
        x: &[f32],
        out: &mut [f32],
        stride: usize,
        tools: &Tools,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let Tools { pool, kernel, activations, workers } = tools;
        match self {
            Matrix::Dense(dense) => dense.multiply(x, out, stride, workers, pool),
            Matrix::Packed(lattice) => lattice.multiply(x, out, stride, tools, &mut scratch.lattice),
            Matrix::Blocks(blocks) => {
                blocks.multiply(*kernel, *activations, x, out, stride, &mut scratch.blocks, workers, pool);
            }
            Matrix::Coded(coded) if stride == self.outputs() => {
                multiply_coded(&[&**coded], x, &mut [out], tools).map_err(|(_, source)| source)?;
            }
            Matrix::Coded(_) => return Err("a coded matrix has no room between its outputs".into()),
            Matrix::Over(over) => over.multiply(x, out, stride, tools, scratch)?,
            Matrix::Layered(layered, layer) => layered.multiply(*layer, x, out, stride, tools, scratch)?,
        }
        Ok(())
    }

    /// Writes the weights of row `row`, which must exist, to `out`, one per input. `buffer` is working memory.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn row(&self, row: usize, out: &mut [f32], buffer: &mut Vec<f32>) -> Result<(), Failure> {
        match self {
            Matrix::Dense(dense) => dense.row(row, out),
            Matrix::Packed(lattice) => lattice.row(row, out),
            Matrix::Blocks(blocks) => blocks.row(row, out),
            Matrix::Coded(coded) => rows_of_coded(&**coded, vec![(row, out)])?,
            Matrix::Over(over) => over.row(row, out, buffer)?,
            Matrix::Layered(layered, layer) => layered.row(*layer, row, out, buffer)?,
        }
        Ok(())
    }
}

impl Linear {
    pub(super) fn inputs(&self) -> usize {
        self.matrix.inputs()
    }

    pub(super) fn outputs(&self) -> usize {
        self.matrix.outputs()
    }

    /// Bytes of weights and bias, without what is shared with another model.
    pub(super) fn memory_bytes(&self) -> usize {
        self.matrix.memory_bytes() + self.bias.as_deref().map_or(0, size_of_val)
    }

    /// Computes `y = W x + b` for each row x of `x`. `out` is rows x outputs.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn multiply(&self, x: &[f32], out: &mut [f32], tools: &Tools, scratch: &mut Scratch) -> Result<()> {
        let product = self.matrix.multiply(x, out, self.outputs(), tools, scratch);
        product.map_err(|source| self.failed(source))?;
        self.add_bias(out);
        Ok(())
    }

    fn add_bias(&self, out: &mut [f32]) {
        let Some(bias) = &self.bias else { return };
        for row in out.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }

    /// Copies the weights of `rows` to `out`, in order: the embeddings of tokens. The rows must exist.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn rows(&self, rows: impl Iterator<Item = usize>, out: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        let mut places = rows.zip(out.chunks_exact_mut(self.inputs()));
        let copied = match &self.matrix {
            Matrix::Coded(coded) => rows_of_coded(&**coded, places.collect()),
            matrix => places.try_for_each(|(row, out)| matrix.row(row, out, &mut scratch.added)),
        };
        copied.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: Failure) -> ModelError {
        ModelError::Tensor { name: self.name.clone(), source }
    }
}

/// Computes `y = W x + b` for layers that share the input `x`. If all layers are coded, one product covers all their
/// tile rows: the key and value projections alone have too few for all threads.
///
/// # Errors
/// If a coded matrix does not decode.
pub(super) fn multiply_all(
    layers: &[&Linear],
    x: &[f32],
    outs: &mut [&mut [f32]],
    tools: &Tools,
    scratch: &mut Scratch,
) -> Result<()> {
    let coded = layers.iter().map(|layer| match &layer.matrix {
        Matrix::Coded(coded) => Some(&**coded),
        _ => None,
    });
    let Some(coded) = coded.collect::<Option<Vec<_>>>() else {
        return layers.iter().zip(outs).try_for_each(|(layer, out)| layer.multiply(x, out, tools, scratch));
    };
    multiply_coded(&coded, x, outs, tools).map_err(|(matrix, source)| layers[matrix].failed(source))?;
    layers.iter().zip(outs).for_each(|(layer, out)| layer.add_bias(out));
    Ok(())
}

/// Returns the tile rows of a coded matrix, after checking that they cover all rows in order.
fn tile_rows_of(coded: &dyn CodedTensor) -> Result<&[Range<usize>], Failure> {
    let tile_rows = coded.tile_rows();
    let ends = tile_rows.iter().map(|rows| rows.end);
    let begins = tile_rows.iter().map(|rows| rows.start).chain([coded.shape()[0]]);
    let in_order = [0].into_iter().chain(ends).eq(begins) && tile_rows.iter().all(|rows| rows.start < rows.end);
    if in_order { Ok(tile_rows) } else { Err("tile rows do not cover all rows in order".into()) }
}

/// Decodes a tile row into `weights`.
fn read_tile_row(coded: &dyn CodedTensor, number: usize, rows: usize, weights: &mut Vec<f32>) -> Result<(), Failure> {
    coded.read(number, weights)?;
    let (found, wanted) = (weights.len(), rows * coded.shape()[1]);
    if found == wanted {
        Ok(())
    } else {
        Err(format!("tile row {number} has {found} weights, expected {wanted}").into())
    }
}

/// Multiplies matrices that share their input. The worker that decodes a tile row also multiplies it. An error has the
/// index of its matrix.
fn multiply_coded(
    matrices: &[&dyn CodedTensor],
    x: &[f32],
    outs: &mut [&mut [f32]],
    tools: &Tools,
) -> Result<(), (usize, Failure)> {
    let (mut parts, mut numbers) = (Vec::new(), Vec::new());
    for (matrix, coded) in matrices.iter().enumerate() {
        let tile_rows = tile_rows_of(*coded).map_err(|error| (matrix, error))?;
        numbers.extend(0..tile_rows.len());
        parts.extend(tile_rows.iter().map(|rows| Part { matrix, rows: rows.clone() }));
    }
    let inputs = matrices.first().map_or(1, |coded| coded.shape()[1]);
    let read = |i: usize, weights: &mut Vec<f32>| {
        let Part { matrix, rows } = &parts[i];
        read_tile_row(matrices[*matrix], numbers[i], rows.len(), weights).map_err(|error| (*matrix, error))
    };
    multiply_parts(&parts, read, x, inputs, outs, &tools.workers, &tools.pool)
}

/// Copies rows of a coded matrix to their places. Each tile row is decoded at most once.
fn rows_of_coded(coded: &dyn CodedTensor, mut places: Vec<(usize, &mut [f32])>) -> Result<(), Failure> {
    let inputs = coded.shape()[1];
    let tile_rows = tile_rows_of(coded)?;
    let mut weights = Vec::new();
    let mut decoded = None;
    places.sort_by_key(|(row, _)| *row);
    for (row, out) in places {
        let number = tile_rows.partition_point(|rows| rows.end <= row);
        if decoded != Some(number) {
            read_tile_row(coded, number, tile_rows[number].len(), &mut weights)?;
            decoded = Some(number);
        }
        out.copy_from_slice(&weights[(row - tile_rows[number].start) * inputs..][..inputs]);
    }
    Ok(())
}

/// Decodes every tile row once, so that damage is detected when the model is loaded.
pub(super) fn check_decodes(coded: &dyn CodedTensor, pool: &Pool) -> Result<(), Failure> {
    let tile_rows = tile_rows_of(coded)?;
    let buffers: Vec<Mutex<Vec<f32>>> = (0..pool.threads()).map(|_| Mutex::default()).collect();
    pool.try_run(tile_rows.len(), &|worker, number| {
        let mut weights = buffers[worker].lock().unwrap_or_else(PoisonError::into_inner);
        read_tile_row(coded, number, tile_rows[number].len(), &mut weights)
    })
}
