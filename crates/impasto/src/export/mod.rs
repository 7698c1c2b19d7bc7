//! A file back to a Hugging Face folder.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use impasto_checkpoint::{
    CheckpointError, SafetensorsWriter, TensorSpec, atomic_write, join_inside, parse_detached_header,
};
use impasto_container::Source;
use impasto_encode::HEADER_SUFFIX;

use crate::error::FileError;
use crate::file::File;

/// Bytes of a tensor that are decoded before they are written: bounds the memory of a large tensor.
const BAND_BYTES: u64 = 64 << 20;
/// Where the weights go if their shards are not given back as they were.
const WEIGHTS: &str = "model.safetensors";

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

/// A safetensors file to be written: its name, the raw header it had (if it is to be the same), its tensors.
struct Shard {
    name: String,
    header: Option<Vec<u8>>,
    tensors: Vec<String>,
}

/// Writes the tensors and assets of a file into `folder`, which is created if it is not there.
///
/// If the file keeps the headers of its safetensors shards and every tensor exactly, the shards come out as they were, byte for byte.
/// Else all tensors go to `model.safetensors`. Everything is written to a temporary folder inside `folder` first, and moved when it is
/// complete. Files that are there already are an error unless `replace` is set. `watch` hears the name of each tensor.
///
/// # Errors
/// If a unit is absent, damaged or broken, two parts of the file claim the same path, or a file cannot be written; then `folder` is as
/// it was.
pub fn to_safetensors<S: Source>(
    file: &File<S>,
    folder: &Path,
    replace: bool,
    watch: &(dyn Fn(&str) + Sync),
) -> Result<Exported, FileError> {
    let (shards, identical) = shards(file)?;
    let assets: Vec<&str> = file.asset_names().filter(|name| !name.ends_with(HEADER_SUFFIX)).collect();
    let names: Vec<&str> = shards.iter().map(|s| s.name.as_str()).chain(assets.iter().copied()).collect();
    let mut seen = HashSet::new();
    for &name in &names {
        let path = join_inside(folder, name)?;
        if !seen.insert(name) {
            return Err(FileError::SamePath { file: file.reader().name().to_owned(), name: name.to_owned() });
        }
        if !replace && path.symlink_metadata().is_ok() {
            return Err(FileError::Exists { path: path.display().to_string() });
        }
    }
    let io = |error| CheckpointError::io(folder, error);
    let created = !folder.exists();
    fs::create_dir_all(folder).map_err(io)?;
    let staged = stage(file, folder, &shards, &assets, watch);
    let moved = staged.and_then(|(staging, tensor_bytes)| {
        let mut exported = Exported { identical, tensor_bytes, ..Exported::default() };
        for &name in &names {
            let to = join_inside(folder, name)?;
            let parent = to.parent().unwrap_or(folder);
            let moved = fs::create_dir_all(parent).and_then(|()| fs::rename(staging.path().join(name), &to));
            moved.map_err(|error| CheckpointError::io(&to, error))?;
            exported.files.push(to);
        }
        Ok(exported)
    });
    if moved.is_err() && created {
        // Only if it is empty; the error that led here is the one to tell.
        let _ = fs::remove_dir(folder);
    }
    moved
}

/// The safetensors files to write, and whether they are those of the checkpoint.
fn shards<S: Source>(file: &File<S>) -> Result<(Vec<Shard>, bool), FileError> {
    let names: Vec<&str> = file.tensor_names().collect();
    let mut shards = Vec::new();
    let mut described = HashSet::new();
    if names.iter().all(|name| file.is_exact(name)) {
        for asset in file.asset_names() {
            let Some(name) = asset.strip_suffix(HEADER_SUFFIX) else { continue };
            let header = file.asset(asset)?.unwrap_or_default();
            let misfit = |rule: String| FileError::ShardHeader {
                file: file.reader().name().to_owned(),
                asset: asset.to_owned(),
                rule,
            };
            let mut tensors = Vec::new();
            for info in parse_detached_header(&header, asset)?.tensors {
                let meta = file.meta(&info.name)?;
                if meta.dtype != info.dtype || meta.dims != info.shape {
                    return Err(misfit(format!("tensor {:?} has another dtype or shape", info.name)));
                }
                if !described.insert(info.name.clone()) {
                    return Err(misfit(format!("tensor {:?} is in two shards", info.name)));
                }
                tensors.push(info.name);
            }
            shards.push(Shard { name: name.to_owned(), header: Some(header), tensors });
        }
    }
    let rest: Vec<String> = names.into_iter().filter(|&name| !described.contains(name)).map(String::from).collect();
    let identical = rest.is_empty() && !shards.is_empty();
    if !identical {
        shards.push(Shard { name: WEIGHTS.to_owned(), header: None, tensors: rest });
    }
    Ok((shards, identical))
}

/// Writes everything into a temporary folder. Returns it, and the bytes of tensors.
fn stage<S: Source>(
    file: &File<S>,
    folder: &Path,
    shards: &[Shard],
    assets: &[&str],
    watch: &(dyn Fn(&str) + Sync),
) -> Result<(tempfile::TempDir, u64), FileError> {
    let staging = tempfile::Builder::new().prefix(".impasto-").tempdir_in(folder);
    let staging = staging.map_err(|error| CheckpointError::io(folder, error))?;
    for name in assets {
        atomic_write(staging.path(), name, &file.asset(name)?.unwrap_or_default())?;
    }
    let mut bytes = 0;
    for shard in shards {
        let path = join_inside(staging.path(), &shard.name)?;
        let specs = shard.tensors.iter().map(|name| {
            let meta = file.meta(name)?;
            Ok(TensorSpec { name: name.clone(), dtype: meta.dtype, shape: meta.dims.clone() })
        });
        let specs = specs.collect::<Result<Vec<_>, FileError>>()?;
        let metadata = [("format".to_owned(), "pt".to_owned())];
        let mut writer = match &shard.header {
            Some(header) => SafetensorsWriter::with_header(&path, header, &specs)?,
            None => SafetensorsWriter::create(&path, Some(&metadata), &specs)?,
        };
        let order: Vec<String> = writer.tensors().iter().map(|t| t.name.clone()).collect();
        for name in order {
            let tensor = file.tensor(&name)?;
            for (rows, columns) in tensor.bands(BAND_BYTES) {
                let band = tensor.band(rows, columns)?;
                writer.write(&band)?;
                bytes += band.len() as u64;
            }
            watch(&name);
        }
        writer.finish()?;
    }
    Ok((staging, bytes))
}
