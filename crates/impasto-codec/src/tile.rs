//! Tiles: a rectangle of a matrix to the bytes of a unit and back (SPEC 5, 8, 12 to 14).

mod coded;
mod decode;
mod encode;

pub use decode::{TileDecoder, Unit};
pub use encode::TileEncoder;

use std::ops::Range;

use crate::bytes;
use crate::dtype::DType;
use crate::error::CodecError;

/// Coding modes (SPEC 5).
pub mod mode {
    /// The elements as they are.
    pub const STORED: u8 = 0;
    /// Byte planes under Zstandard.
    pub const ZSTD: u8 = 1;
    /// What the tiles of a tensor share.
    pub const HEAD: u8 = 2;
    /// Lossless floats under scale classes.
    pub const FLOAT: u8 = 3;
    /// Lattice integers under scale classes.
    pub const LATTICE: u8 = 4;
    /// What makes the integers of the layer below finer.
    pub const REFINEMENT: u8 = 5;
    /// What the bits of floats have more than the weights of the layer below.
    pub const EXACT: u8 = 6;
}

/// Most segments of a tile.
pub const MAX_SEGMENTS: usize = 16;

/// The rows and columns of its matrix that a tile covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rows of the matrix.
    pub rows: Range<usize>,
    /// Columns of the matrix.
    pub columns: Range<usize>,
}

impl Place {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// Rows of segment `j` of `n` in a tile of `height` rows (SPEC 8.1).
fn segment_rows(j: usize, n: usize, height: usize) -> Range<usize> {
    j * height / n..(j + 1) * height / n
}

/// Codes elements as bytes: under Zstandard at `level`, or stored where that is not larger. Returns the mode and the unit.
///
/// # Errors
/// If the compression library refuses.
pub fn encode_bytes(elements: &[u8], dtype: DType, level: i32) -> Result<(u8, Vec<u8>), CodecError> {
    let packed = bytes::compress(elements, dtype.size(), level)?;
    Ok(if packed.len() < elements.len() { (mode::ZSTD, packed) } else { (mode::STORED, elements.to_vec()) })
}

#[cfg(test)]
mod tests;
