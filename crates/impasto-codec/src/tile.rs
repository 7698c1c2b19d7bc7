//! Tiles: coding a rectangle of a matrix to the bytes of a unit, and decoding it (SPEC 5, 8, 12 to 14, 16).

mod blocks;
mod coded;
mod decode;
mod encode;
pub mod syntax;

pub use decode::{TileDecoder, Unit};
pub use encode::{Content, TileEncoder};

use std::ops::Range;

use crate::bytes;
use crate::error::CodecError;
use impasto_core::{DType, Mode};

/// The largest number of segments in a tile.
pub const MAX_SEGMENTS: usize = 16;

/// Returns the rows of segment `j` of `n` in a tile of `height` rows (SPEC 8.1).
pub fn segment_rows(j: usize, n: usize, height: usize) -> Range<usize> {
    j * height / n..(j + 1) * height / n
}

/// Codes elements with Zstandard at level `compression`, or stores them if that is not larger. Returns the mode and the
/// unit.
///
/// # Errors
/// If the compression library fails.
pub fn encode_bytes(elements: &[u8], dtype: DType, compression: i32) -> Result<(Mode, Vec<u8>), CodecError> {
    let packed = bytes::compress(elements, dtype.size(), compression)?;
    Ok(if packed.len() < elements.len() { (Mode::ZSTD, packed) } else { (Mode::STORED, elements.to_vec()) })
}

#[cfg(test)]
mod tests;
