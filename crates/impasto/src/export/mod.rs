//! Exports a file as a checkpoint: the original one, a Hugging Face folder (of floats, or of formats of engines), a GGUF, or a
//! folder of MLX or ONNX.

mod compressed;
mod config;
#[cfg(feature = "gguf")]
pub(crate) mod gguf;
mod mlx;
#[cfg(feature = "onnx")]
mod onnx;
mod original;
pub(crate) mod part;
mod pieces;
mod plan;
mod safetensors;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

#[cfg(feature = "gguf")]
use impasto_checkpoint::gguf::Metadata;
use impasto_checkpoint::{CheckpointError, TensorSpec, TensorWriter, atomic_write, join_inside};
use impasto_container::{COMPILED_SUFFIX, HEADER_SUFFIX, Source};
use impasto_core::files::TemporaryFolder;

pub use compressed::Inputs;
#[cfg(feature = "gguf")]
pub use gguf::GgufType;
use part::Part;
pub use plan::Export;

use crate::error::FileError;
use crate::file::File;

/// The format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The files of the original checkpoint if they are kept exactly, else a Hugging Face folder.
    Original,
    /// A Hugging Face folder, in which tensors of a GGUF have the names, row order and values of transformers. If
    /// safetensors shards are kept exactly, these are restored.
    Safetensors,
    /// A Hugging Face folder in which linear layers with a format (SPEC 20) are in the layout of the library compressed-tensors,
    /// as they are: what an engine computes from codes and scales are the weights of this file.
    CompressedTensors(Inputs),
    /// A folder for the library mlx-lm, in which tensors with a format (SPEC 20) are quantized as in MLX, as they are: what MLX
    /// computes from codes, scales and biases are the weights of this file, before they are rounded to its dtype.
    Mlx,
    /// A folder for ONNX Runtime: the linear layers with a format (SPEC 20), as they are, in `linear.onnx`, and the whole network
    /// in `model.onnx`, if it is a known one.
    #[cfg(feature = "onnx")]
    Onnx,
    /// A GGUF with matrices of this type. With `None`, the original GGUF is restored if it is kept exactly; otherwise,
    /// matrices get the type of most weights.
    #[cfg(feature = "gguf")]
    Gguf(Option<GgufType>),
}

/// The result of an export.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// The files, in the order in which they were written.
    pub files: Vec<PathBuf>,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
    /// Whether the weight files have the original headers and tensors, byte for byte.
    pub identical: bool,
    /// What the new format cannot express, one line each.
    pub notes: Vec<String>,
}

/// A file of tensors to be written.
struct Output {
    name: String,
    begin: Begin,
    parts: Vec<Part>,
}

/// The header of a file.
enum Begin {
    /// The original header.
    Raw(Vec<u8>),
    /// A new safetensors header.
    Safetensors,
    /// None: tensors alone, each at a multiple of 64 bytes.
    #[cfg(feature = "onnx")]
    Plain,
    /// A new GGUF header.
    #[cfg(feature = "gguf")]
    Gguf(Metadata),
}

/// Everything that an export writes.
struct Contents {
    outputs: Vec<Output>,
    assets: Vec<String>,
    /// New contents of assets.
    changed: BTreeMap<String, Vec<u8>>,
    identical: bool,
    notes: Vec<String>,
}

/// Writes a checkpoint in the given format to `folder`, which is created if it does not exist. `name` is the file name
/// of a GGUF.
///
/// Everything is first written to a temporary folder inside `folder`, and moved when it is complete. Existing files are
/// an error unless `replace` is set. `watch` is called with the name of each tensor after it is written.
///
/// # Errors
/// If a unit is absent, damaged or invalid, the format cannot hold the model, two files would have the same path, or on
/// an I/O error. `folder` is then unchanged, unless moving the files fails halfway.
pub fn export<S: Source>(
    file: &File<S>,
    folder: &Path,
    name: Option<&str>,
    form: Form,
    replace: bool,
    watch: &(dyn Fn(&str) + Sync),
) -> Result<Exported, FileError> {
    let contents = contents(file, name, form)?;
    let outputs = contents.outputs.iter().map(|output| output.name.as_str());
    let names: Vec<&str> = outputs.chain(contents.assets.iter().map(String::as_str)).collect();
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
    let (staging, tensor_bytes) = stage(file, folder, &contents, watch)?;
    let mut files = Vec::new();
    for &name in &names {
        let to = join_inside(folder, name)?;
        let parent = to.parent().unwrap_or(folder);
        let moved = fs::create_dir_all(parent).and_then(|()| fs::rename(staging.path().join(name), &to));
        moved.map_err(|error| CheckpointError::io(&to, error))?;
        files.push(to);
    }
    Ok(Exported { files, tensor_bytes, identical: contents.identical, notes: contents.notes })
}

fn contents<S: Source>(file: &File<S>, name: Option<&str>, form: Form) -> Result<Contents, FileError> {
    let original = match form {
        Form::CompressedTensors(inputs) => return compressed::contents(file, inputs),
        Form::Mlx => return mlx::contents(file),
        #[cfg(feature = "onnx")]
        Form::Onnx => return onnx::contents(file),
        #[cfg(feature = "gguf")]
        Form::Gguf(Some(_)) => None,
        _ => original::original(file)?,
    };
    let fits = |original: &original::Original| match form {
        Form::Original => true,
        Form::Safetensors => !original.is_gguf,
        Form::CompressedTensors(_) | Form::Mlx => false,
        #[cfg(feature = "onnx")]
        Form::Onnx => false,
        #[cfg(feature = "gguf")]
        Form::Gguf(_) => original.is_gguf,
    };
    if let Some(original) = original.filter(fits) {
        // The assets of a GGUF are derived from its header, so they are not files.
        let assets = if original.is_gguf { vec![] } else { assets(file) };
        let mut outputs = original.outputs;
        if let (Some(name), [only]) = (name, &mut outputs[..]) {
            only.name = name.to_owned();
        }
        return Ok(Contents { outputs, assets, changed: BTreeMap::new(), identical: true, notes: vec![] });
    }
    match form {
        #[cfg(feature = "gguf")]
        Form::Gguf(wanted) => gguf::contents(file, name, wanted),
        _ => Ok(Contents {
            outputs: vec![safetensors::output(file)?],
            assets: assets(file),
            changed: BTreeMap::new(),
            identical: false,
            notes: vec![],
        }),
    }
}

/// Returns the assets that are files of a folder.
fn assets<S: Source>(file: &File<S>) -> Vec<String> {
    let is_file = |name: &&str| ![HEADER_SUFFIX, COMPILED_SUFFIX].iter().any(|suffix| name.ends_with(suffix));
    file.asset_names().filter(is_file).map(String::from).collect()
}

/// Writes everything to a temporary folder. Returns the folder and the bytes of tensors.
fn stage<S: Source>(
    file: &File<S>,
    folder: &Path,
    contents: &Contents,
    watch: &(dyn Fn(&str) + Sync),
) -> Result<(TemporaryFolder, u64), FileError> {
    let staging = TemporaryFolder::create_in(folder).map_err(|error| CheckpointError::io(folder, error))?;
    for name in &contents.assets {
        let changed = contents.changed.get(name).cloned();
        let bytes = changed.map_or_else(|| file.asset(name), |bytes| Ok(Some(bytes)))?.unwrap_or_default();
        atomic_write(staging.path(), name, &bytes)?;
    }
    let mut bytes = 0;
    for output in &contents.outputs {
        let path = join_inside(staging.path(), &output.name)?;
        let specs: Vec<TensorSpec> = output.parts.iter().map(|part| part.spec.clone()).collect();
        let format = [("format".to_owned(), "pt".to_owned())];
        let mut writer = match &output.begin {
            Begin::Raw(header) => TensorWriter::with_header(&path, header, &specs)?,
            #[cfg(feature = "onnx")]
            Begin::Plain => {
                bytes += onnx::write(file, &path, &output.parts, watch)?;
                continue;
            }
            Begin::Safetensors => TensorWriter::safetensors(&path, Some(&format), &specs)?,
            #[cfg(feature = "gguf")]
            Begin::Gguf(metadata) => TensorWriter::gguf(&path, metadata, &specs)?,
        };
        let parts: HashMap<&str, &Part> = output.parts.iter().map(|part| (part.spec.name.as_str(), part)).collect();
        let order: Vec<String> = writer.tensors().iter().map(|t| t.name.clone()).collect();
        for name in order {
            let Some(part) = parts.get(name.as_str()) else { continue };
            part.write(file, &mut |piece| {
                bytes += piece.len() as u64;
                Ok(writer.write(piece)?)
            })?;
            watch(&name);
        }
        writer.finish()?;
    }
    Ok((staging, bytes))
}
