//! Matrices of 16-bit floats, read a tile row at a time.

use std::ops::Range;
use std::sync::Arc;

use impasto_checkpoint::{Change, Checkpoint, TensorInfo};
use impasto_codec::tile::TileDecoder;
use impasto_container::Source;
use impasto_core::DType;
use impasto_model::{Failure, HalfTensor};

use crate::error::FileError;
use crate::lattice::{matrix_shape, rows_of, tile_rows};
use crate::tensor::Tensor;
use crate::weights::hf_rows;

/// About the number of elements of a checkpoint that are read together.
const TOGETHER: usize = 1 << 19;

/// A tensor of a file.
pub struct FileHalves<'a, S> {
    tensor: Tensor<'a, S>,
    decoder: Arc<TileDecoder>,
    shape: [usize; 2],
    change: Change,
}

impl<'a, S: Source> FileHalves<'a, S> {
    /// Opens `tensor`; `None` if it is not a matrix of 16-bit floats, or transformers' rows differ in more than their
    /// order.
    pub fn new(tensor: Tensor<'a, S>, change: Change) -> Result<Option<Self>, FileError> {
        let Some(shape) = matrix_shape(&tensor).filter(|_| is_half(tensor.dtype(), change)) else { return Ok(None) };
        if tensor.block_dtype()?.is_some() {
            return Ok(None);
        }
        let decoder = tensor.finest()?;
        Ok(Some(FileHalves { tensor, decoder, shape, change }))
    }

    /// Whether the rows are in transformers' order, so that tile rows are read one by one.
    fn is_in_order(&self) -> bool {
        self.change == Change::None
    }
}

impl<S: Source> HalfTensor for FileHalves<'_, S> {
    fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    #[allow(clippy::single_range_in_vec_init, reason = "one tile row")]
    fn tile_rows(&self) -> Vec<Range<usize>> {
        if self.is_in_order() { tile_rows(&self.tensor) } else { vec![0..self.shape[0]] }
    }

    fn read(&self, tile_row: usize, out: &mut [u16]) -> Result<(), Failure> {
        let tensor = &self.tensor;
        if !self.is_in_order() {
            copy(&hf_rows(tensor.bytes()?.into(), tensor.shape(), self.change), out)?;
            tensor.release(0..self.shape[0] as u64);
            return Ok(());
        }
        let rows = rows_of(tensor, tile_row);
        check_length(rows.len() * self.shape[1], out)?;
        let rows = rows.start as u64..rows.end as u64;
        tensor.tile_row_into(&self.decoder, rows.clone(), bytemuck::cast_slice_mut(out))?;
        out.iter_mut().for_each(|bits| *bits = u16::from_le(*bits));
        tensor.release(rows);
        Ok(())
    }
}

/// A tensor of a checkpoint.
pub struct CheckpointHalves<'a> {
    checkpoint: &'a Checkpoint,
    tensor: &'a TensorInfo,
    shape: [usize; 2],
    change: Change,
}

impl<'a> CheckpointHalves<'a> {
    /// Opens `tensor`; `None` as for [`FileHalves::new`].
    pub fn new(checkpoint: &'a Checkpoint, tensor: &'a TensorInfo, change: Change) -> Option<Self> {
        let &[rows, columns] = &tensor.shape[..] else { return None };
        let shape = [usize::try_from(rows).ok()?, usize::try_from(columns).ok()?];
        let is_some = shape[0] > 0 && shape[1] > 0 && is_half(tensor.dtype, change);
        is_some.then_some(CheckpointHalves { checkpoint, tensor, shape, change })
    }

    fn rows(&self, tile_row: usize) -> Range<usize> {
        let height = (TOGETHER / self.shape[1]).max(1);
        let first = tile_row.saturating_mul(height).min(self.shape[0]);
        first..first.saturating_add(height).min(self.shape[0])
    }
}

impl HalfTensor for CheckpointHalves<'_> {
    fn dtype(&self) -> DType {
        self.tensor.dtype
    }

    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn tile_rows(&self) -> Vec<Range<usize>> {
        (0..).map(|tile_row| self.rows(tile_row)).take_while(|rows| !rows.is_empty()).collect()
    }

    fn read(&self, tile_row: usize, out: &mut [u16]) -> Result<(), Failure> {
        let (rows, width) = (self.rows(tile_row), self.shape[1]);
        check_length(rows.len() * width, out)?;
        let bytes = self.checkpoint.bytes(self.tensor);
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            let from = match self.change {
                Change::HeadRows { .. } => self.change.gguf_row(row as u64) as usize,
                _ => row,
            };
            copy(&bytes[from * width * 2..][..width * 2], out)?;
        }
        self.checkpoint.check_file_of(self.tensor)?;
        Ok(())
    }
}

impl Drop for CheckpointHalves<'_> {
    fn drop(&mut self) {
        self.checkpoint.release(self.tensor);
    }
}

/// Whether elements are 16-bit floats whose rows differ from those of transformers at most in their order.
fn is_half(dtype: DType, change: Change) -> bool {
    matches!(dtype, DType::Bf16 | DType::F16) && !change.is_within_rows()
}

fn check_length(wanted: usize, out: &[u16]) -> Result<(), Failure> {
    if out.len() == wanted {
        return Ok(());
    }
    Err(format!("a tile row has {wanted} elements, not {}", out.len()).into())
}

/// Copies little-endian elements.
fn copy(bytes: &[u8], out: &mut [u16]) -> Result<(), Failure> {
    let elements = bytes.as_chunks().0;
    check_length(elements.len(), out)?;
    out.iter_mut().zip(elements).for_each(|(out, &bytes)| *out = u16::from_le_bytes(bytes));
    Ok(())
}
