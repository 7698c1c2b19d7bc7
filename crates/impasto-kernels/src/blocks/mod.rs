//! Matrices of ggml's blocks, as a GGUF stores them, in a layout for fast products.
//!
//! A weight is `s * (integer - bias) + m` or `s * table[integer]`, where `s` and `m` belong to a group of 16 or 32
//! columns ([`Form`]). A product quantizes the activations to 8 bits, with one scale per 32 columns, as llama.cpp does
//! for blocks of 32. (Blocks of 256 share a scale of the activations there; here they do not, which costs little and is
//! more precise.) The sums over a group are of integers; groups are added in binary32, in order. Therefore every kernel
//! gives the same bits, for any number of threads and tokens.
//!
//! ```text
//! matrix -> strip (16 rows) -> a few cells (16 x 32 integers, as in `packed`), with the scales of their groups
//! ```
//!
//! One token is multiplied straight from the cells; more, by strips that are unpacked to bytes once. Blocks that are
//! smaller than cells stay as they are until they are multiplied.

mod activations;
mod kernel;
mod kinds;
mod lanes;
mod multiply;
mod strip;
#[cfg(test)]
mod tests;
mod whole;

use std::io;
use std::sync::OnceLock;

use impasto_core::blocks::apart::Form;
use impasto_core::{DType, Isa};

pub use multiply::Scratch;

use crate::Pool;
use crate::packed::arena::Lines;
use crate::packed::cell::{Line, STRIP};
use crate::packed::{Arena, PackError};
use crate::stored::{Reader, Writer};
use strip::Shape;

/// Strips that are packed, and stored, together.
const TOGETHER: usize = 16;

/// A matrix of blocks, outputs x inputs.
#[derive(Debug)]
pub struct BlockMatrix {
    shape: Shape,
    outputs: usize,
    /// The strips, [`TOGETHER`] at a time.
    strips: Vec<Lines>,
}

impl BlockMatrix {
    /// Returns whether matrices of a dtype can be packed.
    pub fn packs(dtype: DType) -> bool {
        Form::of(dtype).is_some()
    }

    /// Packs a matrix. `bytes` are its blocks, row by row.
    ///
    /// # Errors
    /// [`PackError::Dtype`] if [`Self::packs`] is false, [`PackError::Count`] if rows are not whole blocks, or there
    /// are not as many as the shape says.
    pub fn pack(
        dtype: DType,
        bytes: &[u8],
        [outputs, inputs]: [usize; 2],
        arena: &Arena,
        pool: &Pool,
    ) -> Result<BlockMatrix, PackError> {
        let Some(form) = Form::of(dtype) else { return Err(PackError::Dtype(dtype)) };
        let over = inputs % dtype.weights();
        PackError::check_count("columns of whole blocks", inputs, inputs - over)?;
        PackError::check_count("blocks", bytes.len() / dtype.size(), outputs.saturating_mul(inputs / dtype.weights()))?;
        PackError::check_count("bytes of whole blocks", bytes.len(), bytes.len() / dtype.size() * dtype.size())?;
        if inputs == 0 {
            PackError::check_count("rows without columns", outputs, 0)?;
        }
        let shape = Shape::new(dtype, form, inputs);
        let row_bytes = inputs / dtype.weights() * dtype.size();
        let row = |row: usize| &bytes[row * row_bytes..][..row_bytes];
        let count = outputs.div_ceil(STRIP * TOGETHER);
        let strips: Vec<OnceLock<Lines>> = (0..count).map(|_| OnceLock::new()).collect();
        pool.run(count, &|_, i| {
            let mut lines = Vec::new();
            for first in (i * TOGETHER * STRIP..outputs.min((i + 1) * TOGETHER * STRIP)).step_by(STRIP) {
                let rows: Vec<&[u8]> = (first..outputs.min(first + STRIP)).map(row).collect();
                strip::pack(Isa::best(), &shape, &rows, &mut lines);
            }
            strips[i].get_or_init(|| arena.keep(lines));
        });
        let strips = strips.into_iter().filter_map(OnceLock::into_inner).collect();
        Ok(BlockMatrix { shape, outputs, strips })
    }

    /// Writes the matrix as bytes, for [`Self::read`].
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.numbers(&[self.dtype() as usize, self.outputs, self.inputs()])?;
        self.strips.iter().try_for_each(|lines| to.array(lines))
    }

    /// Reads a matrix whose strips stay in the mapped file; `None` if the bytes are not one. Any bytes are blocks.
    pub fn read(from: &mut Reader) -> Option<BlockMatrix> {
        let [code, outputs, inputs] = from.numbers()?;
        let dtype = DType::from_code(u8::try_from(code).ok()?)?;
        let form = Form::of(dtype)?;
        let are_columns = u32::try_from(inputs).is_ok() && inputs.is_multiple_of(dtype.weights());
        if !are_columns || inputs == 0 && outputs > 0 {
            return None;
        }
        let shape = Shape::new(dtype, form, inputs);
        let all = outputs.div_ceil(STRIP);
        // As many as there can be lines for: `outputs` may be anything.
        let mut strips = Vec::new();
        for first in (0..all).step_by(TOGETHER) {
            strips.push(from.lines((all - first).min(TOGETHER).checked_mul(shape.lines())?)?);
        }
        Some(BlockMatrix { shape, outputs, strips })
    }

    /// Returns the dtype of the blocks.
    pub fn dtype(&self) -> DType {
        self.shape.dtype
    }

    /// Returns the number of rows.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Returns the number of columns.
    pub fn inputs(&self) -> usize {
        self.shape.inputs
    }

    /// Returns the memory of the matrix in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.strips.iter().map(|lines| size_of::<Lines>() + size_of_val(&lines[..])).sum()
    }

    /// Writes the weights of a row, exactly those that the blocks stand for.
    ///
    /// # Panics
    /// If there is no such row, or `out` does not have `inputs()` elements.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.outputs && out.len() == self.inputs(), "row {row} of {}", self.outputs);
        strip::weights(&self.shape, self.strip(row / STRIP), row % STRIP..row % STRIP + 1, out);
    }

    /// Returns the number of strips.
    fn count(&self) -> usize {
        self.outputs.div_ceil(STRIP)
    }

    /// Returns the lines of a strip.
    fn strip(&self, index: usize) -> &[Line] {
        let lines = self.shape.lines();
        &self.strips[index / TOGETHER][index % TOGETHER * lines..][..lines]
    }
}
