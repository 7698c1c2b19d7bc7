//! Restores the original files of the checkpoint.

use std::collections::HashSet;

use impasto_checkpoint::{Format, parse_detached_header};
use impasto_container::{HEADER_SUFFIX, Source};

use super::part::Part;
use super::{Begin, Output};
use crate::error::FileError;
use crate::file::File;

/// The original weight files of the checkpoint.
pub struct Original {
    /// One output per file.
    pub outputs: Vec<Output>,
    /// Whether they are GGUF files.
    pub is_gguf: bool,
}

/// Returns the files whose headers are kept, if these cover all tensors and every tensor is exact.
pub fn original<S: Source>(file: &File<S>) -> Result<Option<Original>, FileError> {
    if !file.tensor_names().all(|name| file.is_exact(name)) {
        return Ok(None);
    }
    let (mut outputs, mut described) = (Vec::new(), HashSet::new());
    #[cfg_attr(not(feature = "gguf"), expect(unused_mut, reason = "no file is one"))]
    let mut is_gguf = false;
    for asset in file.asset_names() {
        let Some(name) = asset.strip_suffix(HEADER_SUFFIX) else { continue };
        let header = file.asset(asset)?.unwrap_or_default();
        let misfit = |rule: String| FileError::ShardHeader {
            file: file.reader().name().to_owned(),
            asset: asset.to_owned(),
            rule,
        };
        let infos = match Format::of(&header) {
            Format::Safetensors => parse_detached_header(&header, asset)?.tensors,
            #[cfg(not(feature = "gguf"))]
            Format::Gguf => return Err(impasto_checkpoint::CheckpointError::NoGguf { file: asset.to_owned() }.into()),
            #[cfg(feature = "gguf")]
            Format::Gguf => {
                is_gguf = true;
                impasto_checkpoint::gguf::parse_detached_header(&header, asset)?.tensors
            }
        };
        let mut parts = Vec::new();
        for info in infos {
            let meta = file.meta(&info.name)?;
            let other = info.type_name.as_deref() != meta.opaque.as_ref().map(|opaque| opaque.name.as_str());
            let blocks = if meta.dtype == info.dtype { None } else { file.tensor(&info.name)?.block_dtype()? };
            if blocks.unwrap_or(meta.dtype) != info.dtype || meta.dims != info.shape || other {
                return Err(misfit(format!("tensor {:?} has a different dtype or shape", info.name)));
            }
            if !described.insert(info.name.clone()) {
                return Err(misfit(format!("tensor {:?} is in two shards", info.name)));
            }
            parts.push(match blocks {
                Some(dtype) => Part::blocks(&info.name, meta, dtype),
                None => Part::copy(&info.name, meta),
            });
        }
        outputs.push(Output { name: name.to_owned(), begin: Begin::Raw(header), parts });
    }
    let whole = !outputs.is_empty() && file.tensor_names().all(|name| described.contains(name));
    Ok(whole.then_some(Original { outputs, is_gguf }))
}
