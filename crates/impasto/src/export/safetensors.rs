//! Export to a new safetensors file.

use impasto_checkpoint::{Change, TensorSpec};
use impasto_container::Source;
use impasto_core::DType;

use super::part::{Content, Part, Way};
use super::{Begin, Output};
use crate::error::FileError;
use crate::file::File;
use crate::view::{Origin, View};

/// The file name of the weights.
pub const WEIGHTS: &str = "model.safetensors";

/// Plans one file with all tensors; those of a GGUF are translated to transformers.
pub fn output<S: Source>(file: &File<S>) -> Result<Output, FileError> {
    let view = View::of_file(file)?;
    let parts = view.iter().map(|(name, origin)| part(file, name, origin)).collect::<Result<_, FileError>>()?;
    Ok(Output { name: WEIGHTS.to_owned(), begin: Begin::Safetensors, parts })
}

/// Plans one tensor.
pub fn part<S: Source>(file: &File<S>, name: &str, origin: &Origin) -> Result<Part, FileError> {
    let meta = file.meta(&origin.name)?;
    let blocks = meta.dtype.is_block();
    if !blocks && origin.change == Change::None {
        let mut part = Part::copy(&origin.name, meta);
        part.spec.name = name.to_owned();
        return Ok(part);
    }
    // Computed values are binary32; those that only move keep their dtype.
    let moved = matches!(origin.change, Change::HeadRows { .. } | Change::HeadElements { .. })
        && matches!(meta.dtype, DType::F32 | DType::F16 | DType::Bf16);
    let dtype = if moved { meta.dtype } else { DType::F32 };
    let spec = TensorSpec::new(name, dtype, meta.dims.clone());
    Ok(Part { spec, content: Content::Tensor(origin.name.clone(), Way::ToHf(origin.change)) })
}
