//! A file back to a Hugging Face folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use impasto_checkpoint::{SafetensorsWriter, TensorSpec, atomic_write, join_inside, parse_detached_header};
use impasto_container::Source;
use impasto_encode::HEADER_SUFFIX;

use crate::error::FileError;
use crate::file::{File, Tensor};

/// Bytes of a tensor that are decoded before they are written: bounds the memory of a large tensor.
const BAND_BYTES: u64 = 64 << 20;

/// What an export wrote.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Files, in the order written.
    pub files: Vec<PathBuf>,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
    /// Are the weights' files those of the checkpoint, byte for byte?
    pub identical: bool,
}

/// Writes the tensors and assets of a file into `folder`, which is created. Each file is written whole or not at all.
///
/// If the file keeps the headers of its safetensors shards and every tensor exactly, the shards come out as they were, byte for byte.
/// Else all tensors go to `model.safetensors`. `watch` hears the name of each tensor.
///
/// # Errors
/// If a unit is absent, damaged or broken, or a file cannot be written.
pub fn to_safetensors<S: Source>(
    file: &File<S>,
    folder: &Path,
    watch: &(dyn Fn(&str) + Sync),
) -> Result<Exported, FileError> {
    let names: Vec<&str> = file.tensor_names().collect();
    let mut exact = true;
    for name in &names {
        exact &= file.tensor(name)?.is_exact();
    }
    let mut exported = Exported { identical: exact, ..Exported::default() };
    let mut described = HashSet::new();
    if exact {
        for asset in file.asset_names().filter(|name| name.ends_with(HEADER_SUFFIX)) {
            let header = file.asset(asset)?.unwrap_or_default();
            let path = join_inside(folder, asset.trim_end_matches(HEADER_SUFFIX))?;
            let shard = write_shard(file, asset, &path, &header, watch, &mut described)?;
            exported.tensor_bytes += shard;
            exported.files.push(path);
        }
    }
    let rest: Vec<&str> = names.into_iter().filter(|&name| !described.contains(name)).collect();
    if !rest.is_empty() || described.is_empty() {
        exported.identical = false;
        let path = folder.join("model.safetensors");
        let specs =
            rest.iter().map(|&name| Ok(spec(&file.tensor(name)?, name))).collect::<Result<Vec<_>, FileError>>()?;
        let metadata = [("format".to_owned(), "pt".to_owned())];
        let mut writer = SafetensorsWriter::create(&path, Some(&metadata), &specs)?;
        for name in rest {
            exported.tensor_bytes += write_tensor(&file.tensor(name)?, &mut writer)?;
            watch(name);
        }
        writer.finish()?;
        exported.files.push(path);
    }
    for asset in file.asset_names().filter(|name| !name.ends_with(HEADER_SUFFIX)) {
        let bytes = file.asset(asset)?.unwrap_or_default();
        atomic_write(folder, asset, &bytes)?;
        exported.files.push(join_inside(folder, asset)?);
    }
    Ok(exported)
}

fn spec<S: Source>(tensor: &Tensor<'_, S>, name: &str) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype: tensor.dtype(), shape: tensor.shape().to_vec() }
}

fn write_shard<S: Source>(
    file: &File<S>,
    asset: &str,
    path: &Path,
    header: &[u8],
    watch: &(dyn Fn(&str) + Sync),
    described: &mut HashSet<String>,
) -> Result<u64, FileError> {
    let misfit =
        |rule: String| FileError::ShardHeader { file: file.reader().name().to_owned(), asset: asset.to_owned(), rule };
    let parsed = parse_detached_header(header, asset)?;
    let mut specs = Vec::new();
    for info in &parsed.tensors {
        let tensor = file.tensor(&info.name)?;
        if tensor.dtype() != info.dtype || tensor.shape() != info.shape {
            return Err(misfit(format!("tensor {:?} has another dtype or shape", info.name)));
        }
        if !described.insert(info.name.clone()) {
            return Err(misfit(format!("tensor {:?} is in two shards", info.name)));
        }
        specs.push(spec(&tensor, &info.name));
    }
    let mut writer = SafetensorsWriter::with_header(path, header, &specs)?;
    let mut bytes = 0;
    let order: Vec<String> = writer.tensors().iter().map(|t| t.name.clone()).collect();
    for name in order {
        bytes += write_tensor(&file.tensor(&name)?, &mut writer)?;
        watch(&name);
    }
    writer.finish()?;
    Ok(bytes)
}

/// Writes a tensor by bands of whole rows of tiles.
fn write_tensor<S: Source>(tensor: &Tensor<'_, S>, writer: &mut SafetensorsWriter) -> Result<u64, FileError> {
    let matrix = tensor.matrix();
    if matrix.elements() == 0 {
        return Ok(0);
    }
    let row_bytes = (matrix.cols() * tensor.dtype().size() as u64).max(1);
    let tile_rows = matrix.tile_rows().min(matrix.rows()).max(1);
    let height = (BAND_BYTES / row_bytes / tile_rows).max(1) * tile_rows;
    let (mut from, mut written) = (0, 0);
    while from < matrix.rows() {
        let to = from.saturating_add(height).min(matrix.rows());
        let bytes = tensor.band(from..to, 0..matrix.cols())?;
        writer.write(&bytes)?;
        written += bytes.len() as u64;
        from = to;
    }
    Ok(written)
}
