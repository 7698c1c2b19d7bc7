//! Tensors as a Hugging Face folder has them, whatever holds them.
//!
//! A file or checkpoint made of a GGUF has the GGUF's names, the order of its rows and its blocks. This view gives the
//! names, rows and values of transformers; of everything else it gives what is there.

use std::collections::BTreeMap;

use impasto_checkpoint::Checkpoint;
use impasto_checkpoint::gguf::hf::{Change, NameMap};
use impasto_checkpoint::gguf::{self, Metadata};
use impasto_container::Source;
use impasto_core::{DType, values};
use impasto_encode::{HEADER_SUFFIX, hf_tensor};

use crate::error::FileError;
use crate::export::part::{Way, translate};
use crate::file::File;

/// Where a tensor of the view comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name in the file or checkpoint.
    pub name: String,
    /// What it goes through.
    pub change: Change,
}

/// The tensors of a file or checkpoint by their Hugging Face names.
#[derive(Clone, Debug, Default)]
pub struct View {
    origins: BTreeMap<String, Origin>,
}

impl View {
    /// Of a checkpoint.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> View {
        let names = checkpoint.metadata().and_then(NameMap::of_gguf);
        View::new(checkpoint.tensors().iter().map(|t| (t.name.as_str(), &t.shape[..])), names.as_ref())
    }

    /// Of a file. One that keeps a GGUF exactly has the GGUF's metadata in the asset of its header.
    ///
    /// # Errors
    /// If that asset cannot be read, or is no header of a GGUF.
    pub fn of_file<S: Source>(file: &File<S>) -> Result<View, FileError> {
        let names = gguf_metadata(file)?.as_ref().and_then(NameMap::of_gguf);
        let tensors = file.reader().objects().iter().filter_map(|o| Some((o.name.as_str(), &o.tensor()?.dims[..])));
        Ok(View::new(tensors, names.as_ref()))
    }

    fn new<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u64])>, names: Option<&NameMap>) -> View {
        let origin = |(own, shape): (&str, &[u64])| {
            let (name, change) = hf_tensor(names, own, shape)?;
            Some((name, Origin { name: own.to_owned(), change }))
        };
        View { origins: tensors.filter_map(origin).collect() }
    }

    /// Where the tensor of a Hugging Face name comes from.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.origins.get(name)
    }

    /// Names and origins, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Origin)> {
        self.origins.iter().map(|(name, origin)| (name.as_str(), origin))
    }

    /// Is every tensor what is there, under its own name?
    pub fn is_plain(&self) -> bool {
        self.origins.iter().all(|(name, origin)| *name == origin.name && origin.change == Change::None)
    }
}

/// The metadata of the GGUF that a file keeps exactly, of a split one those of its first part; `None` if it keeps none.
///
/// # Errors
/// If the header cannot be read.
pub fn gguf_metadata<S: Source>(file: &File<S>) -> Result<Option<Metadata>, FileError> {
    // Parts are numbered, so the first of the sorted names is the first part.
    for name in file.asset_names().filter(|name| name.ends_with(HEADER_SUFFIX)) {
        let Some(header) = file.asset(name)? else { continue };
        if header.starts_with(b"GGUF") {
            return Ok(Some(gguf::parse_detached_header(&header, name)?.metadata));
        }
    }
    Ok(None)
}

/// The values of elements, as many rows of `columns` weights as there are, in transformers' order. `None` for dtypes that are no floats.
pub fn hf_values(dtype: DType, bytes: &[u8], columns: usize, change: Change) -> Option<Vec<f32>> {
    let mut own = Vec::new();
    if !values::to_f32(dtype, bytes, &mut own) {
        return None;
    }
    Some(translate(own, columns, Way::ToHf(change)))
}
