//! A file back to a checkpoint: the one that it was made of, a Hugging Face folder, or a GGUF.

#[cfg(feature = "gguf")]
mod gguf;
mod original;
pub(crate) mod part;
mod safetensors;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

#[cfg(feature = "gguf")]
use impasto_checkpoint::gguf::Metadata;
use impasto_checkpoint::{CheckpointError, TensorSpec, TensorWriter, atomic_write, join_inside};
use impasto_container::{HEADER_SUFFIX, Source};

#[cfg(feature = "gguf")]
pub use gguf::GgufType;
use part::Part;

use crate::error::FileError;
use crate::file::File;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The files that the checkpoint had, if the file keeps them exactly; else a Hugging Face folder.
    Original,
    /// A Hugging Face folder: tensors of a GGUF under the names, in the order and with the values of transformers. If the file keeps
    /// safetensors shards exactly, these.
    Safetensors,
    /// A GGUF, its matrices in this type; `None` for the type that most of them have. If none is given and the file keeps a GGUF exactly,
    /// that one.
    #[cfg(feature = "gguf")]
    Gguf(Option<GgufType>),
}

/// What an export wrote.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Files, in the order written.
    pub files: Vec<PathBuf>,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
    /// Do the weights' files have the headers and tensors of the checkpoint's, byte for byte?
    pub identical: bool,
    /// What the new form cannot say, one line each.
    pub notes: Vec<String>,
}

/// A file of tensors to be written.
struct Output {
    name: String,
    begin: Begin,
    parts: Vec<Part>,
}

/// What stands before the tensors.
enum Begin {
    /// A header as it was.
    Raw(Vec<u8>),
    /// A new safetensors header.
    Safetensors,
    /// A new GGUF header.
    #[cfg(feature = "gguf")]
    Gguf(Metadata),
}

/// Everything that an export writes.
struct Contents {
    outputs: Vec<Output>,
    assets: Vec<String>,
    identical: bool,
    notes: Vec<String>,
}

/// Writes a checkpoint of the wanted form into `folder`, which is created if it is not there; `name` is that of the file of a GGUF.
///
/// Everything is written to a temporary folder inside `folder` first, and moved when it is complete. Files that are there already are an
/// error unless `replace` is set. `watch` hears the name of each tensor.
///
/// # Errors
/// If a unit is absent, damaged or broken, the form cannot hold the model, two parts of the file claim the same path, or a file cannot be
/// written; then `folder` is as it was.
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
    let io = |error| CheckpointError::io(folder, error);
    let created = !folder.exists();
    fs::create_dir_all(folder).map_err(io)?;
    let staged = stage(file, folder, &contents, watch);
    let moved = staged.and_then(|(staging, tensor_bytes)| {
        let mut files = Vec::new();
        for &name in &names {
            let to = join_inside(folder, name)?;
            let parent = to.parent().unwrap_or(folder);
            let moved = fs::create_dir_all(parent).and_then(|()| fs::rename(staging.path().join(name), &to));
            moved.map_err(|error| CheckpointError::io(&to, error))?;
            files.push(to);
        }
        Ok((files, tensor_bytes))
    });
    if moved.is_err() && created {
        // Only if it is empty; the error that led here is the one to tell.
        let _ = fs::remove_dir(folder);
    }
    let (files, tensor_bytes) = moved?;
    Ok(Exported { files, tensor_bytes, identical: contents.identical, notes: contents.notes })
}

fn contents<S: Source>(file: &File<S>, name: Option<&str>, form: Form) -> Result<Contents, FileError> {
    let original = match form {
        #[cfg(feature = "gguf")]
        Form::Gguf(Some(_)) => None,
        _ => original::original(file)?,
    };
    let fits = |original: &original::Original| match form {
        Form::Original => true,
        Form::Safetensors => !original.is_gguf,
        #[cfg(feature = "gguf")]
        Form::Gguf(_) => original.is_gguf,
    };
    if let Some(original) = original.filter(fits) {
        // The assets of a GGUF were made of its header.
        let assets = if original.is_gguf { vec![] } else { assets(file) };
        let mut outputs = original.outputs;
        if let (Some(name), [only]) = (name, &mut outputs[..]) {
            only.name = name.to_owned();
        }
        return Ok(Contents { outputs, assets, identical: true, notes: vec![] });
    }
    match form {
        #[cfg(feature = "gguf")]
        Form::Gguf(wanted) => gguf::contents(file, name, wanted),
        _ => Ok(Contents {
            outputs: vec![safetensors::output(file)?],
            assets: assets(file),
            identical: false,
            notes: vec![],
        }),
    }
}

/// The assets that are files of a folder.
fn assets<S: Source>(file: &File<S>) -> Vec<String> {
    file.asset_names().filter(|name| !name.ends_with(HEADER_SUFFIX)).map(String::from).collect()
}

/// Writes everything into a temporary folder. Returns it, and the bytes of tensors.
fn stage<S: Source>(
    file: &File<S>,
    folder: &Path,
    contents: &Contents,
    watch: &(dyn Fn(&str) + Sync),
) -> Result<(tempfile::TempDir, u64), FileError> {
    let staging = tempfile::Builder::new().prefix(".impasto-").tempdir_in(folder);
    let staging = staging.map_err(|error| CheckpointError::io(folder, error))?;
    for name in &contents.assets {
        atomic_write(staging.path(), name, &file.asset(name)?.unwrap_or_default())?;
    }
    let mut bytes = 0;
    for output in &contents.outputs {
        let path = join_inside(staging.path(), &output.name)?;
        let specs: Vec<TensorSpec> = output.parts.iter().map(|part| part.spec.clone()).collect();
        let format = [("format".to_owned(), "pt".to_owned())];
        let mut writer = match &output.begin {
            Begin::Raw(header) => TensorWriter::with_header(&path, header, &specs)?,
            Begin::Safetensors => TensorWriter::safetensors(&path, Some(&format), &specs)?,
            #[cfg(feature = "gguf")]
            Begin::Gguf(metadata) => TensorWriter::gguf(&path, metadata, &specs)?,
        };
        let order: Vec<String> = writer.tensors().iter().map(|t| t.name.clone()).collect();
        for name in order {
            let Some(part) = output.parts.iter().find(|part| part.spec.name == name) else { continue };
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
