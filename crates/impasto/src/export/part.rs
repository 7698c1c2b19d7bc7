//! The export of a single tensor: copied or translated.

use impasto_checkpoint::{Change, TensorSpec};
use impasto_container::{Source, TensorMeta};
use impasto_core::{DType, blocks, values};

use super::pieces::{self, Piece};
use crate::error::FileError;
use crate::file::File;

/// Bytes of a tensor that are decoded before they are written; bounds memory for large tensors.
const BAND_BYTES: u64 = 64 << 20;

/// How a tensor is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not at all: its bytes are copied.
    AsItIs,
    /// From the order and values of a GGUF to those of transformers.
    ToHf(Change),
    /// From the order and values of transformers to those of a GGUF.
    #[cfg(feature = "gguf")]
    ToGguf(Change),
}

impl Way {
    /// Returns the difference between the two formats.
    fn change(self) -> Change {
        match self {
            Way::AsItIs => Change::None,
            Way::ToHf(change) => change,
            #[cfg(feature = "gguf")]
            Way::ToGguf(change) => change,
        }
    }
}

/// A tensor to be written.
pub struct Part {
    /// Its description in the new file.
    pub spec: TensorSpec,
    /// Its elements.
    pub content: Content,
}

/// The source of the elements.
pub enum Content {
    /// A tensor of the file, and its translation.
    Tensor(String, Way),
    /// The blocks of a tensor of the file.
    Blocks(String),
    /// A piece of a tensor of the file that has a format.
    Format(String, Piece),
    /// New values with dtype F32.
    #[cfg(any(feature = "gguf", feature = "onnx"))]
    Values(Vec<f32>),
}

/// Returns the description of a tensor that is copied.
pub fn spec(name: &str, meta: &TensorMeta) -> TensorSpec {
    match &meta.opaque {
        None => TensorSpec::new(name, meta.dtype, meta.dims.clone()),
        Some(opaque) => {
            let opaque = impasto_checkpoint::Opaque { name: opaque.name.clone(), bytes: opaque.bytes };
            TensorSpec::opaque(name, meta.dims.clone(), opaque)
        }
    }
}

impl Part {
    /// Plans to copy a tensor.
    pub fn copy(name: &str, meta: &TensorMeta) -> Part {
        Part { spec: spec(name, meta), content: Content::Tensor(name.to_owned(), Way::AsItIs) }
    }

    /// Plans to copy the blocks, of `dtype`, that a tensor is made of.
    pub fn blocks(name: &str, meta: &TensorMeta, dtype: DType) -> Part {
        let spec = TensorSpec::new(name, dtype, meta.dims.clone());
        Part { spec, content: Content::Blocks(name.to_owned()) }
    }

    /// Writes the bytes of the new tensor in pieces.
    pub fn write<S: Source>(
        &self,
        file: &File<S>,
        write: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let (name, way) = match &self.content {
            #[cfg(any(feature = "gguf", feature = "onnx"))]
            Content::Values(values) => {
                return write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            }
            Content::Blocks(name) => {
                let tensor = file.tensor(name)?;
                let of_tile_row = tensor.matrix().tile_rows().saturating_mul(tensor.matrix().cols());
                let together = (BAND_BYTES / of_tile_row.max(1)).max(1);
                for first in (0..tensor.tile_rows()).step_by(together as usize) {
                    write(&tensor.blocks(first..first.saturating_add(together))?)?;
                }
                return Ok(());
            }
            Content::Format(name, piece) => return pieces::write(file, name, *piece, write),
            Content::Tensor(name, way) => (name, *way),
        };
        let tensor = file.tensor(name)?;
        let (rows, columns) = (tensor.matrix().rows(), tensor.matrix().cols());
        if way == Way::AsItIs {
            for (rows, columns) in tensor.bands(BAND_BYTES) {
                write(&tensor.band(rows, columns)?)?;
            }
            return Ok(());
        }
        let width = columns as usize * tensor.dtype().weights();
        // Whole attention heads at a time, since rows and elements move within heads.
        let head = match way.change() {
            Change::HeadRows { head_dim } | Change::HeadElements { head_dim } => head_dim.max(1),
            _ => 1,
        };
        let band_bytes = BAND_BYTES.min(file.memory_limit / 8);
        let heads = (band_bytes / (width as u64 * 4).max(1) / head).max(1);
        let mut from = 0;
        while from < rows && columns > 0 {
            let to = from.saturating_add(heads * head).min(rows);
            let bytes = tensor.band(from..to, 0..columns)?;
            let mut weights = Vec::new();
            if !values::to_f32(tensor.dtype(), &bytes, &mut weights) {
                let dtype = file.meta(name)?.dtype_name().to_owned();
                return Err(FileError::NotFloat { file: file.reader().name().to_owned(), name: name.clone(), dtype });
            }
            let weights = translate(weights, width, way);
            if let Some(value) = beyond(self.spec.dtype, &weights) {
                let (tensor, dtype) = (name.clone(), self.spec.dtype.name());
                return Err(FileError::Range { file: file.reader().name().to_owned(), tensor, value, dtype });
            }
            write(&to_bytes(self.spec.dtype, &weights))?;
            from = to;
        }
        Ok(())
    }
}

/// Converts weights to the order and values of the other format. They must be whole attention heads, with `width`
/// weights per row.
pub fn translate(mut weights: Vec<f32>, width: usize, way: Way) -> Vec<f32> {
    // The source row of row `r` of the result.
    let moved: Box<dyn Fn(u64) -> u64> = match way {
        Way::ToHf(change) => {
            change.values_to_hf(&mut weights);
            Box::new(move |r| change.gguf_row(r))
        }
        #[cfg(feature = "gguf")]
        Way::ToGguf(change) => {
            change.values_to_gguf(&mut weights);
            Box::new(move |r| change.hf_row(r))
        }
        Way::AsItIs => return weights,
    };
    if !matches!(way.change(), Change::HeadRows { .. }) {
        return weights;
    }
    let rows = (weights.len() / width.max(1)) as u64;
    (0..rows).flat_map(|r| &weights[moved(r) as usize * width..][..width]).copied().collect()
}

/// Returns the first weight that a dtype loses because it is too large: a finite one that would become infinite, or one
/// that would make the scale of its block infinite or NaN, and with it all weights of the block.
fn beyond(dtype: DType, weights: &[f32]) -> Option<f32> {
    /// The smallest magnitude that rounds to an infinite binary16.
    const F16: f32 = 65_520.0;
    let lost = |w: f32| match dtype {
        DType::F16 => w.is_finite() && w.abs() >= F16,
        DType::Bf16 => w.is_finite() && half::bf16::from_f32(w).is_infinite(),
        // The scale is the largest magnitude divided by the largest integer.
        DType::Q8_0 => w.is_nan() || w.abs() >= F16 * 127.0,
        DType::Q4_0 => w.is_nan() || w.abs() >= F16 * 8.0,
        _ => false,
    };
    weights.iter().copied().find(|&w| lost(w))
}

/// Converts weights to elements of a dtype: F32, F16, BF16 (rounded to nearest even), or a block dtype with a
/// quantizer.
fn to_bytes(dtype: DType, weights: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => weights.iter().flat_map(|&w| half::f16::from_f32(w).to_le_bytes()).collect(),
        DType::Bf16 => weights.iter().flat_map(|&w| half::bf16::from_f32(w).to_le_bytes()).collect(),
        DType::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
        _ => {
            let mut out = Vec::new();
            let known = blocks::quantize(dtype, weights, &mut out);
            debug_assert!(known, "{dtype:?} has no quantizer");
            out
        }
    }
}
