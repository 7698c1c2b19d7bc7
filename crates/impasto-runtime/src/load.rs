//! From a source of weights to matrices in their residence.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use impasto_kernels::Pool;
use impasto_kernels::dense::DenseMatrix;
use impasto_kernels::packed::{Arena, Band, ColumnOrder, PackError, PackedMatrix};
use impasto_model::graph::tensor;
use impasto_model::{Failure, Halves, LatticeBand, LatticeTensor, ModelError, Result, WeightSource};
use serde::Serialize;

use crate::matrix::{Matrix, check_decodes};

/// In which form weights lie in memory while a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Residence {
    /// Integers of the lattice packed at few bits; 16-bit floats where weights are no such integers.
    #[default]
    Packed,
    /// Entropy-coded as in the file, decoded in each product.
    Coded,
    /// Binary32: the reference.
    Float,
}

/// Time that loading took, in seconds; that of several workers added up where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LoadTimes {
    /// All of it.
    pub seconds: f64,
    /// Of that, until weights were begun: configuration, tokenizer, chat template.
    pub assets: f64,
    /// Reading and entropy decoding, all workers.
    pub decode: f64,
    /// Packing, all workers.
    pub pack: f64,
    /// Workers.
    pub threads: usize,
}

/// Loads matrices and counts the time.
pub(super) struct MatrixLoader<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) residence: Residence,
    pub(super) pool: &'a Pool,
    /// Where packed matrices lie.
    pub(super) arena: &'a Arena,
    /// Asked before so many bytes are taken.
    pub(super) admit: &'a dyn Fn(usize) -> Result<()>,
    /// Nanoseconds of decoding, all workers.
    pub(super) decode: &'a AtomicU64,
    /// Nanoseconds of packing, all workers.
    pub(super) pack: &'a AtomicU64,
}

impl MatrixLoader<'_> {
    /// The matrix `name`, whose shape was checked.
    pub(super) fn matrix(&self, name: &str, [outputs, inputs]: [usize; 2]) -> Result<Matrix> {
        let failed = |source| ModelError::Tensor { name: name.into(), source };
        if self.residence == Residence::Coded
            && let Some(coded) = self.source.coded(name).map_err(failed)?
        {
            timed(self.decode, || check_decodes(&*coded, self.pool)).map_err(failed)?;
            return Ok(Matrix::Coded(coded));
        }
        if let Some(lattice) = self.source.lattice(name).map_err(failed)?
            && let Some(packed) = self.pack(&*lattice).map_err(failed)?
        {
            return Ok(Matrix::Packed(packed));
        }
        (self.admit)(outputs.saturating_mul(inputs).saturating_mul(size_of::<u16>()))?;
        timed(self.decode, || {
            if let Some(halves) = self.source.load_half(name).map_err(failed)? {
                return Ok(Matrix::Dense(match halves {
                    Halves::Bf16(bits) => DenseMatrix::of_bf16(bits, outputs, inputs),
                    Halves::F16(bits) => DenseMatrix::of_f16(bits, outputs, inputs),
                }));
            }
            (self.admit)(outputs.saturating_mul(inputs).saturating_mul(size_of::<f32>()))?;
            let weights = tensor(self.source, name, &[outputs, inputs])?;
            Ok(Matrix::Dense(DenseMatrix::new(weights, outputs, inputs)))
        })
    }

    /// Packs a matrix, band by band; `None` if its integers are too wide to be packed.
    fn pack(&self, lattice: &dyn LatticeTensor) -> Result<Option<PackedMatrix>, Failure> {
        let columns = match ColumnOrder::new(lattice.column_steps(), lattice.column_widths()) {
            Ok(columns) => columns,
            Err(_) => return Ok(None),
        };
        let count = lattice.bands().len();
        let bands: Vec<OnceLock<Result<Band, PackError>>> = (0..count).map(|_| OnceLock::new()).collect();
        let buffers: Vec<Mutex<LatticeBand>> = (0..self.pool.threads()).map(|_| Mutex::default()).collect();
        self.pool.try_run(count, &|worker, i| {
            let mut band = buffers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            timed(self.decode, || lattice.read(i, &mut band))?;
            let LatticeBand { integers, row_steps, row_widths, offset } = &*band;
            let pack = || Band::pack(integers, &columns, row_steps, row_widths, *offset);
            bands[i].get_or_init(|| timed(self.pack, || pack().map(|band| band.keep_in(self.arena))));
            Ok::<_, Failure>(())
        })?;
        let bands = bands.into_iter().filter_map(OnceLock::into_inner);
        let Ok(bands) = bands.collect::<Result<Vec<_>, _>>() else { return Ok(None) };
        Ok(PackedMatrix::new(columns, bands).ok())
    }
}

/// Adds to `nanoseconds` the time that `work` takes.
fn timed<R>(nanoseconds: &AtomicU64, work: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = work();
    nanoseconds.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}
