//! Matrices that are read a tile row at a time, by any number of workers.

use std::ops::Range;
use std::sync::OnceLock;

use impasto_kernels::KernelError;
use impasto_kernels::dense::{DenseMatrix, HalfRows};
use impasto_kernels::low_rank::LowRankMatrix;
use impasto_kernels::packed::{ColumnOrder, PackError, PackedMatrix, RowGroup};
use impasto_model::{HalfTensor, LatticeRows, LatticeTensor, LowRankFactors, ModelError, Result};

use super::{MatrixLoader, Wanted, timed};
use crate::lattice::LatticeMatrix;

/// Integers on a lattice that are being read and packed.
pub(super) struct LatticeParts<'a> {
    name: &'a str,
    tensor: Box<dyn LatticeTensor + 'a>,
    columns: ColumnOrder,
    groups: Vec<OnceLock<RowGroup>>,
}

impl<'a> LatticeParts<'a> {
    /// Opens a matrix; `None` if it is not on a lattice. The inner error says why it cannot be packed.
    pub(super) fn open(loader: &MatrixLoader<'a>, wanted: Wanted<'a>) -> Result<Option<Result<Self, PackError>>> {
        let failed = |source| ModelError::Tensor { name: wanted.name.into(), source };
        let tensor = timed(&loader.decode, || loader.source.lattice(wanted.name)).map_err(failed)?;
        tensor.map(|tensor| LatticeParts::of(loader, wanted, tensor)).transpose()
    }

    /// Opens these integers. The inner error says why they cannot be packed.
    pub(super) fn of(
        loader: &MatrixLoader<'a>,
        Wanted { name, shape: [outputs, inputs] }: Wanted<'a>,
        tensor: Box<dyn LatticeTensor + 'a>,
    ) -> Result<Result<Self, PackError>> {
        // A packed weight takes about one bit or more.
        loader.budget.admit(outputs.saturating_mul(inputs) / 8)?;
        // Factors are read as integers and kept as floats, of 16 bits each. A file may say in few bytes that all are equal.
        let factors = tensor.rank().saturating_mul(outputs.saturating_add(inputs));
        loader.budget.admit(factors.saturating_mul(2 * size_of::<u16>()))?;
        Ok(ColumnOrder::new(tensor.column_steps(), tensor.column_widths()).map(|columns| {
            let groups = tensor.tile_rows().iter().map(|_| OnceLock::new()).collect();
            LatticeParts { name, tensor, columns, groups }
        }))
    }

    pub(super) fn count(&self) -> usize {
        self.groups.len()
    }

    /// Reads and packs a part. The inner error says why it cannot be packed.
    pub(super) fn read(
        &self,
        loader: &MatrixLoader<'_>,
        part: usize,
        rows: &mut LatticeRows,
    ) -> Result<Result<(), PackError>> {
        let failed = |source| ModelError::Tensor { name: self.name.into(), source };
        timed(&loader.decode, || self.tensor.read(part, rows)).map_err(failed)?;
        let LatticeRows { integers, row_steps, row_widths, offset } = &*rows;
        let pack = || RowGroup::pack(integers, &self.columns, row_steps, row_widths, *offset);
        match timed(&loader.pack, || pack().map(|group| group.keep_in(loader.arena))) {
            Ok(group) => self.groups[part].get_or_init(|| group),
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(()))
    }

    /// Returns the matrix, all of whose parts were read.
    pub(super) fn finish(self, loader: &MatrixLoader<'_>) -> Result<LatticeMatrix, PackError> {
        let low_rank = self.tensor.low_rank();
        let groups = self.groups.into_iter().filter_map(OnceLock::into_inner).collect();
        let matrix =
            |LowRankFactors { left, scales, right }| Box::new(LowRankMatrix::new(&left, scales, &right, loader.arena));
        Ok(LatticeMatrix { packed: PackedMatrix::new(self.columns, groups)?, low_rank: low_rank.map(matrix) })
    }
}

/// Floats of 16 bits that are being read.
pub(super) struct HalfParts<'a> {
    name: &'a str,
    tensor: Box<dyn HalfTensor + 'a>,
    rows: HalfRows,
    count: usize,
}

impl<'a> HalfParts<'a> {
    /// Opens a matrix; `None` if its elements are not 16-bit floats.
    pub(super) fn open(loader: &MatrixLoader<'a>, Wanted { name, shape }: Wanted<'a>) -> Result<Option<Self>> {
        let failed = |source| ModelError::Tensor { name: name.into(), source };
        let Some(tensor) = timed(&loader.decode, || loader.source.halves(name)).map_err(failed)? else {
            return Ok(None);
        };
        loader.budget.spend(shape[0].saturating_mul(shape[1]).saturating_mul(size_of::<u16>()))?;
        let tile_rows: Vec<Range<usize>> = tensor.tile_rows();
        let rows = HalfRows::new(loader.arena, tensor.dtype(), shape, &tile_rows).map_err(|error| match error {
            KernelError::Memory { bytes } => ModelError::Memory { what: "a weight matrix", bytes: bytes as u64 },
            other => failed(other.into()),
        })?;
        Ok(Some(HalfParts { name, tensor, rows, count: tile_rows.len() }))
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Reads a part, if it was not read before.
    pub(super) fn read(&self, loader: &MatrixLoader<'_>, part: usize) -> Result<()> {
        let Some(bits) = self.rows.take(part) else { return Ok(()) };
        let read = timed(&loader.decode, || self.tensor.read(part, bits));
        read.map_err(|source| ModelError::Tensor { name: self.name.into(), source })
    }

    /// Returns the matrix, all of whose parts were read.
    pub(super) fn finish(self) -> DenseMatrix {
        self.rows.finish()
    }
}
