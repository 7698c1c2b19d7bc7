//! Tensors as they are in a Hugging Face folder, for files and checkpoints in any format.
//!
//! A file or checkpoint from a GGUF has the GGUF's names, row order and blocks. This view gives the names, rows and
//! values of transformers; other tensors are unchanged.

use std::collections::BTreeMap;

#[cfg(feature = "gguf")]
use impasto_checkpoint::gguf::{self, Metadata, hf::NameMap};
use impasto_checkpoint::{Change, Checkpoint, Format};
use impasto_container::{HEADER_SUFFIX, Source};

use crate::error::FileError;
use crate::file::File;

/// The source of a tensor of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name in the file or checkpoint.
    pub name: String,
    /// How its rows or values differ from the view.
    pub change: Change,
}

/// The tensors of a file or checkpoint, by their Hugging Face names.
#[derive(Clone, Debug, Default)]
pub struct View {
    origins: BTreeMap<String, Origin>,
}

impl View {
    /// Creates the view of a checkpoint.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> View {
        let tensors = checkpoint.tensors().iter().map(|t| (t.name.as_str(), &t.shape[..]));
        #[cfg(feature = "gguf")]
        if let Some(names) = checkpoint.metadata().and_then(NameMap::of_gguf) {
            return View::translated(tensors, &names);
        }
        View::plain(tensors)
    }

    /// Creates the view of a file. A file that keeps a GGUF exactly has the GGUF's metadata in an asset, its header.
    ///
    /// # Errors
    /// If that asset cannot be read or is not a GGUF header, or if it is one but the feature `gguf` is off.
    pub fn of_file<S: Source>(file: &File<S>) -> Result<View, FileError> {
        let tensors = file.reader().objects().iter().filter_map(|o| Some((o.name.as_str(), &o.tensor()?.dims[..])));
        #[cfg(feature = "gguf")]
        if let Some(names) = gguf_metadata(file)?.as_ref().and_then(NameMap::of_gguf) {
            return Ok(View::translated(tensors, &names));
        }
        #[cfg(not(feature = "gguf"))]
        if let Some((name, _)) = gguf_header(file)? {
            return Err(impasto_checkpoint::CheckpointError::NoGguf { file: name.to_owned() }.into());
        }
        Ok(View::plain(tensors))
    }

    /// Returns all tensors unchanged.
    fn plain<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u64])>) -> View {
        let origin = |(own, _): (&str, _)| (own.to_owned(), Origin { name: own.to_owned(), change: Change::None });
        View { origins: tensors.map(origin).collect() }
    }

    /// Returns the tensors of a GGUF, translated.
    #[cfg(feature = "gguf")]
    fn translated<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u64])>, names: &NameMap) -> View {
        let origin = |(own, shape): (&str, &[u64])| {
            let mapped = names.hf_tensor(own, shape)?;
            Some((mapped.name, Origin { name: own.to_owned(), change: mapped.change }))
        };
        View { origins: tensors.filter_map(origin).collect() }
    }

    /// Returns the source of the tensor with a Hugging Face name.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.origins.get(name)
    }

    /// Returns names and sources, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.origins.iter().map(|(name, origin)| (name.as_str(), origin))
    }

    /// Returns the names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.origins.keys().cloned().collect()
    }

    /// Returns whether all tensors are unchanged, names included.
    pub fn is_plain(&self) -> bool {
        self.origins.iter().all(|(name, origin)| *name == origin.name && origin.change == Change::None)
    }
}

/// Returns the metadata of the GGUF that a file keeps exactly (of the first part, if it was split); `None` if it keeps
/// none.
///
/// # Errors
/// If the header cannot be read.
#[cfg(feature = "gguf")]
pub fn gguf_metadata<S: Source>(file: &File<S>) -> Result<Option<Metadata>, FileError> {
    let Some((name, header)) = gguf_header(file)? else { return Ok(None) };
    Ok(Some(gguf::parse_detached_header(&header, name)?.metadata))
}

/// Returns the first asset that is a GGUF header, and its bytes.
fn gguf_header<S: Source>(file: &File<S>) -> Result<Option<(&str, Vec<u8>)>, FileError> {
    // Parts are numbered, so the first name in the file's order, which is sorted, is the first part.
    for name in file.asset_names().filter(|name| name.ends_with(HEADER_SUFFIX)) {
        if let Some(header) = file.asset(name)?.filter(|header| Format::of(header) == Format::Gguf) {
            return Ok(Some((name, header)));
        }
    }
    Ok(None)
}
