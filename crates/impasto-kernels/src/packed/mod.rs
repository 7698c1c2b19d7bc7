//! Packed matrices: lattice integers at a few bits each, in a layout for fast products.
//!
//! A weight is `row step * column step * (z + sign(z) * offset / 256)` (SPEC 10.3) with an integer `z`. A product
//! multiplies the activations by the column steps and quantizes them to 8 bits, with one scale per [`ACTIVATION_BLOCK`]
//! columns. Sums over such a block are exact, because they are of integers; the blocks are added in binary32, in order.
//! Therefore every kernel gives the same bits, for any number of threads and tokens.
//!
//! ```text
//! matrix -> row group (rows that were decoded together) -> strip (16 rows) -> cell (16 x 32 integers of one width, 0
//! to 8 bits)
//! ```
//!
//! Files have a scale for each row and column. Sorted by scale, the integers of a cell have about the same width.
//! Integers that are too wide for their cell are stored separately, as outliers. A token then reads little more than
//! the entropy of the integers, and that read determines its time. `cell` describes the layout of a cell, `avx512` its
//! multiplication.

pub(crate) mod activations;
pub(crate) mod arena;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod cell;
mod columns;
mod error;
mod fixes;
pub(crate) mod kernel;
mod lane;
mod multiply;
mod nested;
mod row_group;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod unpacked;
mod widths;

use std::io;
use std::ops::Range;

use impasto_core::lattice;

pub use activations::Activations;
pub use arena::Arena;
pub use columns::ColumnOrder;
pub use error::PackError;
pub use kernel::Kernel;
pub use multiply::Scratch;
pub use nested::{LayerRows, NestedMatrix, NestedRows};
pub use row_group::RowGroup;

use crate::Pool;
use crate::stored::{Reader, Writer};
use cell::STRIP;

/// Number of columns whose activations share a scale.
pub const ACTIVATION_BLOCK: usize = cell::BLOCK;

/// The smallest number of bytes that a share of a product reads.
pub(crate) const SHARE: usize = 1 << 15;

/// A packed matrix.
#[derive(Debug)]
pub struct PackedMatrix {
    columns: ColumnOrder,
    groups: Vec<RowGroup>,
    /// The first row of each row group, and the end of the last.
    starts: Vec<usize>,
    /// The number of strips before each row group, and of all strips.
    strips: Vec<usize>,
    /// Number of bytes that a product reads.
    bytes: usize,
}

/// Size of a packed matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Packing {
    /// Number of weights.
    pub weights: usize,
    /// Number of bits of the cells.
    pub cell_bits: usize,
    /// Number of integers that the cells have room for, with those of padding.
    pub places: usize,
    /// Number of integers that are stored separately because they are too wide for their cell, 4 bytes each.
    pub outliers: usize,
    /// Bytes of the heads of strips, without outliers: widths, rows, steps of rows, padding.
    pub head_bytes: usize,
    /// Bytes of the order and the steps of columns.
    pub column_bytes: usize,
    /// Memory in bytes.
    pub bytes: usize,
}

impl Packing {
    /// Returns the average width of a weight in its cell, in bits.
    pub fn mean_width(&self) -> f64 {
        self.cell_bits as f64 / self.weights.max(1) as f64
    }

    /// Adds the size of another matrix.
    pub fn add(&mut self, other: Packing) {
        self.weights += other.weights;
        self.cell_bits += other.cell_bits;
        self.places += other.places;
        self.outliers += other.outliers;
        self.head_bytes += other.head_bytes;
        self.column_bytes += other.column_bytes;
        self.bytes += other.bytes;
    }
}

impl PackedMatrix {
    /// Creates a matrix of row groups, in the order of rows.
    ///
    /// # Errors
    /// [`PackError::OtherColumns`] if a row group was not packed with `columns`.
    pub fn new(columns: ColumnOrder, groups: Vec<RowGroup>) -> Result<PackedMatrix, PackError> {
        let (mut starts, mut strips, mut bytes) = (vec![0], vec![0], 0);
        for (index, group) in groups.iter().enumerate() {
            if group.columns != columns {
                return Err(PackError::OtherColumns(index));
            }
            starts.push(starts[index] + group.rows());
            strips.push(strips[index] + group.strips());
            bytes += group.bytes();
        }
        Ok(PackedMatrix { columns, groups, starts, strips, bytes })
    }

    /// Writes the matrix as bytes, for [`Self::read`].
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.numbers(&[self.inputs(), self.groups.len()])?;
        self.columns.write(to)?;
        self.groups.iter().try_for_each(|group| group.write(to))
    }

    /// Reads a matrix whose strips stay in the mapped file; `None` if the bytes are not one.
    pub fn read(from: &mut Reader) -> Option<PackedMatrix> {
        let [inputs, count] = from.numbers()?;
        let columns = ColumnOrder::read(inputs, from)?;
        // Without a capacity: `count` may be anything.
        let mut groups = Vec::new();
        for _ in 0..count {
            groups.push(RowGroup::read(&columns, from)?);
        }
        PackedMatrix::new(columns, groups).ok()
    }

    /// Returns the number of rows.
    pub fn outputs(&self) -> usize {
        self.starts[self.groups.len()]
    }

    /// Returns the number of columns.
    pub fn inputs(&self) -> usize {
        self.columns.inputs()
    }

    /// Returns the memory of the matrix in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.columns.memory_bytes()
            + size_of_val(&self.starts[..])
            + size_of_val(&self.strips[..])
            + self.groups.iter().map(|group| size_of::<RowGroup>() + group.memory_bytes()).sum::<usize>()
    }

    /// Returns the size of the matrix in detail.
    pub fn report(&self) -> Packing {
        Packing {
            weights: self.outputs() * self.inputs(),
            cell_bits: self.groups.iter().map(RowGroup::cell_bits).sum(),
            places: self.strips[self.groups.len()] * STRIP * self.columns.padded(),
            outliers: self.groups.iter().map(RowGroup::outliers).sum(),
            head_bytes: self.groups.iter().map(RowGroup::head_bytes).sum(),
            column_bytes: self.columns.memory_bytes(),
            bytes: self.memory_bytes(),
        }
    }

    /// Writes the weights of a row, with columns in the order of the file: those of SPEC 10.3 before they are rounded
    /// to the dtype of the tensor.
    ///
    /// # Panics
    /// If there is no such row, or `out` does not have `inputs()` elements.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.inputs(), "a row of weights");
        let (order, steps) = (self.columns.order(), self.columns.steps());
        let (group, row) = self.place(row);
        let offset = self.groups[group].offset();
        let step = self.for_each_integer(group, row, |place, z| {
            out[order[place] as usize] = lattice::point(z, offset) * steps[place];
        });
        out.iter_mut().for_each(|weight| *weight *= step);
    }

    /// Writes the integers of a row, with columns in the order of the file.
    ///
    /// # Panics
    /// As for [`PackedMatrix::row`].
    pub fn integers(&self, row: usize, out: &mut [i32]) {
        assert_eq!(out.len(), self.inputs(), "a row of integers");
        let order = self.columns.order();
        let (group, row) = self.place(row);
        self.for_each_integer(group, row, |place, z| out[order[place] as usize] = z);
    }

    /// Returns the row group of a row, and the number of the row within it.
    fn place(&self, row: usize) -> (usize, usize) {
        assert!(row < self.outputs(), "row {row} of {}", self.outputs());
        let group = self.starts.partition_point(|&start| start <= row) - 1;
        (group, row - self.starts[group])
    }

    /// Calls `each` with the position and the integer of every column in a row of a row group; for some positions
    /// twice, the second time with the correct integer. Returns the step of the row.
    fn for_each_integer(&self, group: usize, row: usize, mut each: impl FnMut(usize, i32)) -> f32 {
        let (strip, lane, step) = self.groups[group].place(row);
        let inputs = self.inputs();
        strip.integers(lane, |place, z| {
            if place < inputs {
                each(place, z);
            }
        });
        step
    }

    fn columns(&self) -> &ColumnOrder {
        &self.columns
    }

    fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    fn start_of(&self, group: usize) -> usize {
        self.starts[group]
    }

    /// Returns whether the reconstruction points of some row group have an offset.
    fn has_offset(&self) -> bool {
        self.groups.iter().any(|group| group.offset() != 0.0)
    }

    /// Returns the largest number of shares that a product is divided into.
    fn most_shares(&self) -> usize {
        (self.bytes / SHARE).clamp(1, self.strips[self.groups.len()].max(1))
    }

    /// Returns the strips of each row group in a share. All shares have nearly the same number of strips.
    fn share(&self, share: usize, shares: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let cut = |share: usize| self.strips[self.groups.len()] * share / shares;
        let (from, to) = (cut(share), cut(share + 1));
        let of_groups = self.strips.windows(2).enumerate().map(move |(group, of_group)| {
            // Shares begin at even strips, because strips are unpacked in pairs.
            let within = |cut: usize| {
                if cut < of_group[1] { cut.saturating_sub(of_group[0]) & !1 } else { of_group[1] - of_group[0] }
            };
            (group, within(from)..within(to))
        });
        of_groups.filter(|(_, strips)| !strips.is_empty())
    }
}

const _: () = assert!(STRIP * size_of::<f32>() == size_of::<cell::Line>());
