//! Loads matrices from a source of weights into their residence.

mod budget;
mod layers;
mod of_base;
mod parts;
mod queue;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use impasto_kernels::Pool;
use impasto_kernels::blocks::BlockMatrix;
use impasto_kernels::dense::DenseMatrix;
use impasto_kernels::packed::Arena;
use impasto_model::graph::tensor;
use impasto_model::{Blocks, ModelError, Result, WeightSource};
use serde::{Deserialize, Serialize};

pub(super) use budget::Budget;
use of_base::OfBase;
use parts::HalfParts;

use crate::matrix::{Matrix, check_decodes};
use crate::weights::Weights;

/// The form of the weights in memory while a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Residence {
    /// Packed integers of few bits, or blocks of ggml; floats of 16 or 32 bits for other tensors.
    #[default]
    Packed,
    /// Entropy-coded as in the file, decoded in each product; blocks of ggml as they are.
    Coded,
    /// Binary32: the reference.
    Float,
}

/// Loading times in seconds. Times of workers are added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LoadTimes {
    /// The whole load.
    pub seconds: f64,
    /// The part before the weights: configuration and tokenizer.
    pub assets: f64,
    /// The weights, which are loaded while the tokenizer is.
    pub weights: f64,
    /// Reading and entropy decoding, over all workers.
    pub decode: f64,
    /// Packing, over all workers.
    pub pack: f64,
    /// Number of workers.
    pub threads: usize,
    /// Whether packed weights were mapped, as an earlier load left them.
    pub cached: bool,
}

/// A matrix that could not be packed and is stored as floats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadWarning {
    /// Name of the tensor.
    pub tensor: String,
    /// Why it cannot be packed.
    pub reason: String,
    /// Memory in addition to 8 bits per weight, in bytes.
    pub extra_bytes: u64,
}

impl fmt::Display for LoadWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadWarning { tensor, reason, extra_bytes } = self;
        write!(f, "tensor {tensor:?} cannot be packed and takes {extra_bytes} more bytes as floats: {reason}")
    }
}

/// A matrix to load, whose shape was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Name of the tensor.
    pub(super) name: &'a str,
    /// Outputs and inputs.
    pub(super) shape: [usize; 2],
}

/// Loads matrices and measures the time.
pub(super) struct MatrixLoader<'a> {
    source: &'a dyn WeightSource,
    residence: Residence,
    pool: &'a Pool,
    arena: &'a Arena,
    budget: &'a Budget,
    /// The weights of the base in memory that matrices may be added to.
    shared: Option<&'a Weights>,
    /// Nanoseconds of decoding and of packing, over all workers.
    decode: AtomicU64,
    pack: AtomicU64,
    warnings: Mutex<Vec<LoadWarning>>,
}

impl<'a> MatrixLoader<'a> {
    /// Loads from `source` into a residence, on the threads of `pool`. The matrices are kept in `arena`.
    pub(super) fn new(
        source: &'a dyn WeightSource,
        residence: Residence,
        pool: &'a Pool,
        arena: &'a Arena,
        budget: &'a Budget,
    ) -> Self {
        let (decode, pack, warnings) = Default::default();
        MatrixLoader { source, residence, pool, arena, budget, shared: None, decode, pack, warnings }
    }

    /// Has matrices added to those of a base in memory.
    pub(super) fn over(self, shared: Option<&'a Weights>) -> Self {
        MatrixLoader { shared, ..self }
    }

    /// Creates a loader from another source, under the same budget.
    fn of(&self, source: &'a dyn WeightSource) -> Self {
        MatrixLoader::new(source, self.residence, self.pool, self.arena, self.budget)
    }

    /// Loads matrices as a part of what another loader does.
    fn load_into(self, wanted: &[Wanted<'_>], other: &MatrixLoader<'_>) -> Result<Vec<Matrix>> {
        let matrices = self.load(wanted)?;
        other.decode.fetch_add(self.decode.into_inner(), Ordering::Relaxed);
        other.pack.fetch_add(self.pack.into_inner(), Ordering::Relaxed);
        let own = self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
        other.warnings.lock().unwrap_or_else(PoisonError::into_inner).extend(own);
        Ok(matrices)
    }

    /// Loads matrices, in order.
    ///
    /// # Errors
    /// A tensor that cannot be read; matrices above the memory limit.
    pub(super) fn load(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Matrix>> {
        let of_base = match self.shared {
            Some(weights) => OfBase::shared(weights),
            None => OfBase::load(self, wanted)?,
        };
        let found = queue::load(self, wanted, &of_base)?;
        let rest = wanted.iter().zip(found).map(|(&wanted, found)| match found {
            queue::Found::Matrix(matrix) => Ok(matrix),
            queue::Found::Refused(reason) => self.whole(wanted, Some(reason)),
            queue::Found::Whole => self.whole(wanted, None),
        });
        rest.collect()
    }

    /// Loads matrices in all layers, in order. `coarser` are the sources of the layers below, from the coarsest.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub(super) fn load_layers(&self, coarser: &[&dyn WeightSource], wanted: &[Wanted<'_>]) -> Result<Vec<Matrix>> {
        layers::load(self, coarser, wanted)
    }

    /// Loading times so far, and warnings about matrices that could not be packed.
    pub(super) fn finish(self) -> ([f64; 2], Vec<LoadWarning>) {
        let seconds = |nanoseconds: AtomicU64| nanoseconds.into_inner() as f64 / 1e9;
        ([seconds(self.decode), seconds(self.pack)], self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads a matrix that is not read in parts; `refused` is why it cannot be packed, if it is on a lattice.
    fn whole(&self, wanted: Wanted<'_>, refused: Option<String>) -> Result<Matrix> {
        let Wanted { name, shape } = wanted;
        let failed = |source| ModelError::Tensor { name: name.into(), source };
        if self.residence == Residence::Coded
            && let Some(coded) = self.source.coded(name).map_err(failed)?
        {
            timed(&self.decode, || check_decodes(&*coded, self.pool)).map_err(failed)?;
            self.budget.spend(coded.memory_bytes())?;
            return Ok(Matrix::Coded(coded));
        }
        if let Some(Blocks { dtype, bytes }) = timed(&self.decode, || self.source.load_blocks(name)).map_err(failed)? {
            self.budget.admit(bytes.len())?;
            let packed = timed(&self.pack, || BlockMatrix::pack(dtype, &bytes, shape, self.arena, self.pool));
            let packed = packed.map_err(|error| failed(error.into()))?;
            self.budget.spend(packed.memory_bytes())?;
            return Ok(Matrix::Blocks(packed));
        }
        let dense = self.floats(wanted)?;
        if let Some(reason) = refused {
            let extra_bytes = dense.memory_bytes().saturating_sub(shape[0] * shape[1]) as u64;
            let warning = LoadWarning { tensor: name.into(), reason, extra_bytes };
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
        }
        Ok(Matrix::Dense(dense))
    }

    /// Loads a matrix as floats: of 16 bits if its elements are, or of 32.
    fn floats(&self, wanted: Wanted<'_>) -> Result<DenseMatrix> {
        let Wanted { name, shape: [outputs, inputs] } = wanted;
        if let Some(halves) = HalfParts::open(self, wanted)? {
            (0..halves.count()).try_for_each(|part| halves.read(self, part))?;
            return Ok(halves.finish());
        }
        self.budget.spend(outputs.saturating_mul(inputs).saturating_mul(size_of::<f32>()))?;
        let weights = tensor(self.source, name, &[outputs, inputs])?;
        Ok(DenseMatrix::new(weights, outputs, inputs).keep_in(self.arena))
    }
}

/// Adds the duration of `work` to `nanoseconds`.
fn timed<R>(nanoseconds: &AtomicU64, work: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = work();
    nanoseconds.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}
