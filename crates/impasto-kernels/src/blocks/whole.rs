//! Strips of blocks that are kept as they are, because they are smaller than cells: those that index a grid, and base 3.
//!
//! The blocks of the 16 rows that have the same columns lie one after another. They are *opened* when they are
//! multiplied: to bytes in the order of cells, and the scales of their groups in binary32.

use std::ops::Range;

use impasto_core::at_each_isa;
use impasto_core::blocks::apart::Parts;
use impasto_core::blocks::dequantize;

use super::strip::{Shape, put_integers};
use crate::packed::cell::{CELL, GROUP, Line, STRIP, VECTORS};

/// Weights of a block of these dtypes.
const BLOCK: usize = 256;
/// Cells of 16 blocks.
pub(super) const CELLS: usize = BLOCK / GROUP;

/// Opened blocks of 16 rows.
#[derive(Default)]
pub(super) struct Open {
    /// The integers of each cell.
    pub cells: [[Line; VECTORS]; CELLS],
    /// For each group, the scales of all rows. There may be only half as many groups.
    pub scales: [Line; BLOCK / 16],
}

/// Returns the number of lines of a strip.
pub(super) fn lines(shape: &Shape) -> usize {
    (shape.inputs / BLOCK * STRIP * shape.dtype.size()).div_ceil(size_of::<Line>())
}

/// Returns the blocks of a strip, 16 rows at a time.
pub(super) fn blocks<'a>(shape: &Shape, strip: &'a [Line]) -> impl ExactSizeIterator<Item = &'a [u8]> {
    let bytes: &[u8] = bytemuck::cast_slice(strip);
    bytes.chunks_exact(STRIP * shape.dtype.size()).take(shape.inputs / BLOCK)
}

/// Appends the lines of a strip. `rows` are the blocks of at most 16 rows; missing rows are zeros.
pub(super) fn pack(shape: &Shape, rows: &[&[u8]], lines: &mut Vec<Line>) {
    let (size, start) = (shape.dtype.size(), lines.len());
    lines.resize(start + self::lines(shape), Line::default());
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines[start..]);
    for (index, column) in bytes.chunks_exact_mut(STRIP * size).take(shape.inputs / BLOCK).enumerate() {
        for (to, row) in column.chunks_exact_mut(size).zip(rows) {
            to.copy_from_slice(&row[index * size..][..size]);
        }
    }
}

at_each_isa! {
    /// Opens blocks of 16 rows.
    pub(super) fn open(shape: &Shape, blocks: &[u8], to: &mut Open) {
        let Shape { dtype, form, .. } = shape;
        let cells: &mut [[u8; CELL]; CELLS] = bytemuck::cast_mut(&mut to.cells);
        let scales: &mut [[f32; STRIP]; BLOCK / 16] = bytemuck::cast_mut(&mut to.scales);
        let mut parts = Parts::default();
        for (lane, block) in blocks.chunks_exact(dtype.size()).enumerate() {
            parts.read(*dtype, block);
            put_integers(&parts, lane, cells);
            form.scales(&parts).zip(&mut *scales).for_each(|((scale, _), of_group)| of_group[lane] = scale);
        }
    }
}

/// Writes the weights of some rows of a strip: rows x inputs.
pub(super) fn weights(shape: &Shape, strip: &[Line], rows: Range<usize>, out: &mut [f32]) {
    let size = shape.dtype.size();
    for (index, blocks) in blocks(shape, strip).enumerate() {
        for (row, out) in rows.clone().zip(out.chunks_exact_mut(shape.inputs)) {
            dequantize(shape.dtype, &blocks[row * size..][..size], &mut out[index * BLOCK..][..BLOCK]);
        }
    }
}
