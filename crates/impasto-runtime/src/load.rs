//! Loads matrices from a source of weights into their residence.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use impasto_kernels::Pool;
use impasto_kernels::blocks::BlockMatrix;
use impasto_kernels::dense::DenseMatrix;
use impasto_kernels::packed::{Arena, ColumnOrder, PackError, PackedMatrix, RowGroup};
use impasto_model::graph::tensor;
use impasto_model::{Blocks, Failure, Halves, LatticeRows, LatticeTensor, ModelError, Result, WeightSource};
use serde::Serialize;

use crate::matrix::{Matrix, check_decodes};

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
    /// Reading and entropy decoding, over all workers.
    pub decode: f64,
    /// Packing, over all workers.
    pub pack: f64,
    /// Number of workers.
    pub threads: usize,
}

/// A matrix that could not be packed and is stored as floats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// Loads matrices and measures the time.
pub(super) struct MatrixLoader<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) residence: Residence,
    pub(super) pool: &'a Pool,
    /// The memory of packed matrices.
    pub(super) arena: &'a Arena,
    /// Called with a number of bytes before they are allocated; returns an error if they exceed the memory limit.
    pub(super) admit: &'a dyn Fn(usize) -> Result<()>,
    /// Nanoseconds of decoding, over all workers.
    pub(super) decode: &'a AtomicU64,
    /// Nanoseconds of packing, over all workers.
    pub(super) pack: &'a AtomicU64,
    /// Matrices that could not be packed.
    pub(super) warnings: &'a Mutex<Vec<LoadWarning>>,
}

impl MatrixLoader<'_> {
    /// Loads the matrix `name`, whose shape was checked.
    pub(super) fn matrix(&self, name: &str, [outputs, inputs]: [usize; 2]) -> Result<Matrix> {
        let failed = |source| ModelError::Tensor { name: name.into(), source };
        if self.residence == Residence::Coded
            && let Some(coded) = self.source.coded(name).map_err(failed)?
        {
            timed(self.decode, || check_decodes(&*coded, self.pool)).map_err(failed)?;
            return Ok(Matrix::Coded(coded));
        }
        let mut refused = None;
        if let Some(lattice) = self.source.lattice(name).map_err(failed)? {
            match self.pack(&*lattice).map_err(failed)? {
                Ok(packed) => return Ok(Matrix::Packed(packed)),
                Err(error) => refused = Some(error.to_string()),
            }
        }
        if let Some(Blocks { dtype, bytes }) = timed(self.decode, || self.source.load_blocks(name)).map_err(failed)? {
            (self.admit)(bytes.len())?;
            let packed =
                timed(self.pack, || BlockMatrix::pack(dtype, &bytes, [outputs, inputs], self.arena, self.pool));
            return packed.map(Matrix::Blocks).map_err(|error| failed(error.into()));
        }
        let dense = self.dense(name, [outputs, inputs])?.keep_in(self.arena);
        if let Some(reason) = refused {
            let extra_bytes = dense.memory_bytes().saturating_sub(outputs * inputs) as u64;
            let warning = LoadWarning { tensor: name.into(), reason, extra_bytes };
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
        }
        Ok(Matrix::Dense(dense))
    }

    /// Loads the matrix `name` as floats; of 16 bits if its elements are.
    fn dense(&self, name: &str, [outputs, inputs]: [usize; 2]) -> Result<DenseMatrix> {
        let failed = |source| ModelError::Tensor { name: name.into(), source };
        (self.admit)(outputs.saturating_mul(inputs).saturating_mul(size_of::<u16>()))?;
        timed(self.decode, || {
            if let Some(halves) = self.source.load_half(name).map_err(failed)? {
                return Ok(match halves {
                    Halves::Bf16(bits) => DenseMatrix::of_bf16(bits, outputs, inputs),
                    Halves::F16(bits) => DenseMatrix::of_f16(bits, outputs, inputs),
                });
            }
            (self.admit)(outputs.saturating_mul(inputs).saturating_mul(size_of::<f32>()))?;
            let weights = tensor(self.source, name, &[outputs, inputs])?;
            Ok(DenseMatrix::new(weights, outputs, inputs))
        })
    }

    /// Packs a matrix one row group at a time. The inner error says why it cannot be packed.
    fn pack(&self, lattice: &dyn LatticeTensor) -> Result<Result<PackedMatrix, PackError>, Failure> {
        let columns = match ColumnOrder::new(lattice.column_steps(), lattice.column_widths()) {
            Ok(columns) => columns,
            Err(error) => return Ok(Err(error)),
        };
        let count = lattice.tile_rows().len();
        let groups: Vec<OnceLock<Result<RowGroup, PackError>>> = (0..count).map(|_| OnceLock::new()).collect();
        let buffers: Vec<Mutex<LatticeRows>> = (0..self.pool.threads()).map(|_| Mutex::default()).collect();
        self.pool.try_run(count, &|worker, i| {
            let mut rows = buffers[worker].lock().unwrap_or_else(PoisonError::into_inner);
            timed(self.decode, || lattice.read(i, &mut rows))?;
            let LatticeRows { integers, row_steps, row_widths, offset } = &*rows;
            let pack = || RowGroup::pack(integers, &columns, row_steps, row_widths, *offset);
            groups[i].get_or_init(|| timed(self.pack, || pack().map(|group| group.keep_in(self.arena))));
            Ok::<_, Failure>(())
        })?;
        let groups = groups.into_iter().filter_map(OnceLock::into_inner);
        Ok(groups.collect::<Result<Vec<_>, _>>().and_then(|groups| PackedMatrix::new(columns, groups)))
    }
}

/// Adds the duration of `work` to `nanoseconds`.
fn timed<R>(nanoseconds: &AtomicU64, work: impl FnOnce() -> R) -> R {
    let begun = Instant::now();
    let result = work();
    nanoseconds.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// Two rows of integers. Those of the second row are `largest`.
    struct Rows {
        largest: i32,
    }

    const INPUTS: usize = 40;

    impl LatticeTensor for Rows {
        fn shape(&self) -> [usize; 2] {
            [2, INPUTS]
        }

        fn column_steps(&self) -> &[f32] {
            &[1.0; INPUTS]
        }

        fn column_widths(&self) -> &[i32] {
            &[0; INPUTS]
        }

        fn tile_rows(&self) -> Vec<Range<usize>> {
            vec![0..1, 1..2]
        }

        fn read(&self, tile_row: usize, out: &mut LatticeRows) -> Result<(), Failure> {
            let integers = vec![if tile_row == 0 { 1 } else { self.largest }; INPUTS];
            *out = LatticeRows { integers, row_steps: vec![1.0], row_widths: vec![0], offset: 0 };
            Ok(())
        }
    }

    impl WeightSource for Rows {
        fn shape(&self, _: &str) -> Option<Vec<u64>> {
            Some(vec![2, INPUTS as u64])
        }

        fn load_f32(&self, _: &str) -> Result<Vec<f32>, Failure> {
            Ok(vec![1.0; 2 * INPUTS])
        }

        fn asset(&self, _: &str) -> Option<Vec<u8>> {
            None
        }

        fn lattice(&self, _: &str) -> Result<Option<Box<dyn LatticeTensor + '_>>, Failure> {
            Ok(Some(Box::new(Rows { ..*self })))
        }
    }

    fn load(largest: i32) -> (Matrix, Vec<LoadWarning>) {
        let (pool, arena, warnings) = (Pool::new(1).unwrap(), Arena::new(), Mutex::default());
        let loader = MatrixLoader {
            source: &Rows { largest },
            residence: Residence::Packed,
            pool: &pool,
            arena: &arena,
            admit: &|_| Ok(()),
            decode: &AtomicU64::new(0),
            pack: &AtomicU64::new(0),
            warnings: &warnings,
        };
        let matrix = loader.matrix("up", [2, INPUTS]).unwrap();
        (matrix, warnings.into_inner().unwrap())
    }

    #[test]
    fn what_cannot_be_packed_is_said() {
        let (matrix, warnings) = load(3);
        assert!(matches!(matrix, Matrix::Packed(_)));
        assert_eq!(warnings, []);
        let (matrix, warnings) = load(1 << 30);
        assert!(matches!(matrix, Matrix::Dense(_)));
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert_eq!((&*warning.tensor, warning.extra_bytes), ("up", 3 * 2 * INPUTS as u64));
        assert!(warning.to_string().contains("do not fit 32 bits"), "{warning}");
    }
}
