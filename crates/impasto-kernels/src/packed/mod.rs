//! Packed matrices: the integers of a lattice at a few bits each, ready for the processor at hand.
//!
//! A weight is `row step * column step * (z + sign(z) * offset / 256)` (SPEC 10.3), `z` an integer. A product takes
//! the column steps into the activations and quantizes those to 8 bits, one scale for each [`ACTIVATION_BLOCK`]
//! columns; sums over a block are of integers, and exact; blocks are added up in binary32, in order. So every kernel,
//! for any number of threads and tokens, gives the same bits.
//!
//! ```text
//! PackedMatrix -> Band (rows that were decoded together) -> strip (16 rows) -> cell (16 x 32 integers of one width, 0 to 8 bits)
//! ```
//!
//! Files are coded with a scale for each row and column: sorted by it, integers of a cell are about as wide as each
//! other. Those that are wider than their cell lie beside as outliers. What is read for a token is then little more
//! than the entropy of the integers, and reading it is what a token takes; `cell` says how a cell lies in memory,
//! `avx512` how it is multiplied.

mod activations;
mod arena;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod band;
mod cell;
mod columns;
mod error;
mod fixes;
mod kernel;
mod multiply;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod unpacked;
mod widths;

use std::ops::Range;

use impasto_core::lattice;

pub use activations::Activations;
pub use arena::Arena;
pub use band::Band;
pub use columns::ColumnOrder;
pub use error::PackError;
pub use kernel::Kernel;
pub use multiply::Scratch;

use crate::Pool;
use cell::STRIP;

/// Columns whose activations are quantized with one scale.
pub const ACTIVATION_BLOCK: usize = cell::BLOCK;

/// Bytes that a share of a product reads, at least.
const SHARE: usize = 1 << 15;

/// A matrix, packed.
#[derive(Debug)]
pub struct PackedMatrix {
    columns: ColumnOrder,
    bands: Vec<Band>,
    /// First row of each band, and the end.
    starts: Vec<usize>,
    /// Strips before each band, and all.
    strips: Vec<usize>,
    /// Bytes that a product reads.
    bytes: usize,
}

/// What a packed matrix takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Packing {
    /// Number of weights.
    pub weights: usize,
    /// Bits of the cells.
    pub cell_bits: usize,
    /// Integers that lie beside their cells.
    pub outliers: usize,
    /// All memory, in bytes.
    pub bytes: usize,
}

impl Packing {
    /// Bits of a weight in its cell, on average.
    pub fn mean_width(&self) -> f64 {
        self.cell_bits as f64 / self.weights.max(1) as f64
    }

    /// Adds another matrix.
    pub fn add(&mut self, other: Packing) {
        self.weights += other.weights;
        self.cell_bits += other.cell_bits;
        self.outliers += other.outliers;
        self.bytes += other.bytes;
    }
}

impl PackedMatrix {
    /// Puts bands together, the first rows first.
    ///
    /// # Errors
    /// [`PackError::OtherColumns`] if a band was not packed with `columns`.
    pub fn new(columns: ColumnOrder, bands: Vec<Band>) -> Result<PackedMatrix, PackError> {
        let (mut starts, mut strips, mut bytes) = (vec![0], vec![0], 0);
        for (index, band) in bands.iter().enumerate() {
            if band.columns != columns {
                return Err(PackError::OtherColumns(index));
            }
            starts.push(starts[index] + band.rows());
            strips.push(strips[index] + band.strips());
            bytes += band.bytes();
        }
        Ok(PackedMatrix { columns, bands, starts, strips, bytes })
    }

    /// Number of rows.
    pub fn outputs(&self) -> usize {
        self.starts[self.bands.len()]
    }

    /// Number of columns.
    pub fn inputs(&self) -> usize {
        self.columns.inputs()
    }

    /// All memory that it takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.columns.memory_bytes()
            + size_of_val(&self.starts[..])
            + size_of_val(&self.strips[..])
            + self.bands.iter().map(|band| size_of::<Band>() + band.memory_bytes()).sum::<usize>()
    }

    /// What it takes, in detail.
    pub fn report(&self) -> Packing {
        Packing {
            weights: self.outputs() * self.inputs(),
            cell_bits: self.bands.iter().map(Band::cell_bits).sum(),
            outliers: self.bands.iter().map(Band::outliers).sum(),
            bytes: self.memory_bytes(),
        }
    }

    /// Writes the weights of a row, columns in the file's order: those of SPEC 10.3 before they are rounded to the
    /// tensor's type.
    ///
    /// # Panics
    /// If there is no such row, or `out` does not hold `inputs()` elements.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.inputs(), "a row of weights");
        let (order, steps) = (self.columns.order(), self.columns.steps());
        let (band, row) = self.place(row);
        let offset = self.bands[band].offset();
        let step = self.for_each_integer(band, row, |place, z| {
            out[order[place] as usize] = lattice::point(z, offset) * steps[place];
        });
        out.iter_mut().for_each(|weight| *weight *= step);
    }

    /// Writes the integers of a row, columns in the file's order.
    ///
    /// # Panics
    /// As [`PackedMatrix::row`].
    pub fn integers(&self, row: usize, out: &mut [i32]) {
        assert_eq!(out.len(), self.inputs(), "a row of integers");
        let order = self.columns.order();
        let (band, row) = self.place(row);
        self.for_each_integer(band, row, |place, z| out[order[place] as usize] = z);
    }

    /// The band of a row, and its number in that.
    fn place(&self, row: usize) -> (usize, usize) {
        assert!(row < self.outputs(), "row {row} of {}", self.outputs());
        let band = self.starts.partition_point(|&start| start <= row) - 1;
        (band, row - self.starts[band])
    }

    /// Hands the integers of a row of a band to `each`, with their places, some twice, the last time as they are;
    /// returns the row's step.
    fn for_each_integer(&self, band: usize, row: usize, mut each: impl FnMut(usize, i32)) -> f32 {
        let (strip, lane, step) = self.bands[band].place(row);
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

    fn bands(&self) -> &[Band] {
        &self.bands
    }

    fn start_of(&self, band: usize) -> usize {
        self.starts[band]
    }

    /// Do the weights of some band stand further from 0 than their integers?
    fn has_offset(&self) -> bool {
        self.bands.iter().any(|band| band.offset() != 0.0)
    }

    /// How many shares a product may be cut into.
    fn most_shares(&self) -> usize {
        (self.bytes / SHARE).clamp(1, self.strips[self.bands.len()].max(1))
    }

    /// The strips of each band that belong to a share, nearly the same number to each.
    fn share(&self, share: usize, shares: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let cut = |share: usize| self.strips[self.bands.len()] * share / shares;
        let (from, to) = (cut(share), cut(share + 1));
        let of_bands = self.strips.windows(2).enumerate().map(move |(band, of_band)| {
            // Strips go in pairs where there are many tokens.
            let within = |cut: usize| {
                if cut < of_band[1] { cut.saturating_sub(of_band[0]) & !1 } else { of_band[1] - of_band[0] }
            };
            (band, within(from)..within(to))
        });
        of_bands.filter(|(_, strips)| !strips.is_empty())
    }
}

const _: () = assert!(STRIP * size_of::<f32>() == size_of::<cell::Line>());
