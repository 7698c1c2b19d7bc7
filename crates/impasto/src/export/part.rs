//! One tensor on its way out: as it is, or translated.

use impasto_checkpoint::{Change, TensorSpec};
use impasto_container::{Source, TensorMeta};
use impasto_core::{DType, blocks, values};

use crate::error::FileError;
use crate::file::File;

/// Bytes of a tensor that are decoded before they are written: bounds the memory of a large tensor.
const BAND_BYTES: u64 = 64 << 20;

/// What a tensor goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing: its bytes are copied.
    AsItIs,
    /// From a GGUF's order and values to those of transformers.
    ToHf(Change),
    /// From those of transformers to a GGUF's.
    #[cfg(feature = "gguf")]
    ToGguf(Change),
}

impl Way {
    /// What differs between the two sides.
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
    /// What it is in the new file.
    pub spec: TensorSpec,
    /// Its elements.
    pub content: Content,
}

/// Where the elements come from.
pub enum Content {
    /// A tensor of the file, and what it goes through.
    Tensor(String, Way),
    /// Values of their own, of dtype F32.
    #[cfg(feature = "gguf")]
    Values(Vec<f32>),
}

/// What to write for a tensor that is copied.
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
    /// A tensor that is copied.
    pub fn copy(name: &str, meta: &TensorMeta) -> Part {
        Part { spec: spec(name, meta), content: Content::Tensor(name.to_owned(), Way::AsItIs) }
    }

    /// Gives the bytes of the new tensor to `write`, piece by piece.
    pub fn write<S: Source>(
        &self,
        file: &File<S>,
        write: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let (name, way) = match &self.content {
            #[cfg(feature = "gguf")]
            Content::Values(values) => {
                return write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
            }
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
        // Whole attention heads at a time, since rows move within them.
        let head = match way.change() {
            Change::HeadRows { head_dim } => head_dim.max(1),
            _ => 1,
        };
        let heads = (BAND_BYTES / (width as u64 * 4).max(1) / head).max(1);
        let mut from = 0;
        while from < rows && columns > 0 {
            let to = from.saturating_add(heads * head).min(rows);
            let bytes = tensor.band(from..to, 0..columns)?;
            let mut weights = Vec::new();
            if !values::to_f32(tensor.dtype(), &bytes, &mut weights) {
                let dtype = file.meta(name)?.dtype_name().to_owned();
                return Err(FileError::NotFloat { file: file.reader().name().to_owned(), name: name.clone(), dtype });
            }
            write(&to_bytes(self.spec.dtype, &translate(weights, width, way)))?;
            from = to;
        }
        Ok(())
    }
}

/// Weights in the order and with the values of the other side; whole attention heads, `width` a row.
pub fn translate(mut weights: Vec<f32>, width: usize, way: Way) -> Vec<f32> {
    // Where row `r` of the result lies.
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

/// Weights as elements of a dtype: F32, F16, BF16 (rounded to nearest even) or a block dtype that can be quantized to.
fn to_bytes(dtype: DType, weights: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => weights.iter().flat_map(|&w| half::f16::from_f32(w).to_le_bytes()).collect(),
        DType::Bf16 => weights.iter().flat_map(|&w| half::bf16::from_f32(w).to_le_bytes()).collect(),
        DType::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
        _ => {
            let mut out = Vec::new();
            let known = blocks::quantize(dtype, weights, &mut out);
            debug_assert!(known, "{dtype:?} is not one that an export asks for");
            out
        }
    }
}
