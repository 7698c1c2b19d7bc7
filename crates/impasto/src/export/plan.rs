//! An export that is read instead of written.

use impasto_checkpoint::TensorSpec;
use impasto_container::Source;

use super::part::Part;
use super::{Contents, Form};
use crate::error::FileError;
use crate::file::File;

/// An export whose tensors and assets are read one at a time, for programs that load them and need no folder.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("tiny.impasto");
/// # let tiny = impasto::Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny").as_ref())?;
/// # let options = impasto::encode::Options::new(impasto::encode::Target::Lossless);
/// # impasto::encode::encode(&tiny, &path, &options, &|_| std::ops::ControlFlow::Continue(()))?;
/// use impasto::File;
/// use impasto::export::{Export, Form};
///
/// let file = File::open(&path)?;
/// let export = Export::plan(&file, Form::Safetensors)?;
/// assert!(export.tensors().any(|tensor| tensor.name == "model.norm.weight"));
/// assert_eq!(export.tensor(&file, "model.norm.weight")?.len(), 192 * 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Export {
    contents: Contents,
}

impl Export {
    /// Plans an export of a file.
    ///
    /// # Errors
    /// If the format cannot hold the model.
    pub fn plan<S: Source>(file: &File<S>, form: Form) -> Result<Export, FileError> {
        Ok(Export { contents: super::contents(file, None, form)? })
    }

    /// Returns the tensors, in the order of the export.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorSpec> {
        self.parts().map(|part| &part.spec)
    }

    /// Returns what the format cannot express, one line each.
    pub fn notes(&self) -> &[String] {
        &self.contents.notes
    }

    /// Reads a tensor of the export of `file`: its elements, little-endian, row-major.
    ///
    /// # Errors
    /// [`FileError::NoTensor`] if there is no such tensor, [`FileError::MemoryLimit`] if it does not fit, else as for the tensor of
    /// the file that it is made of.
    pub fn tensor<S: Source>(&self, file: &File<S>, name: &str) -> Result<Vec<u8>, FileError> {
        let part = self.parts().find(|part| part.spec.name == name);
        let Some(part) = part else {
            return Err(FileError::NoTensor { file: file.reader().name().to_owned(), name: name.to_owned() });
        };
        let mut bytes = Vec::new();
        part.write(file, &mut |piece| {
            let (taken, limit) = (bytes.len().saturating_add(piece.len()) as u64, file.memory_limit);
            if taken > limit {
                let (file, name) = (file.reader().name().to_owned(), name.to_owned());
                return Err(FileError::MemoryLimit { file, name, bytes: taken, limit });
            }
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Returns the names of the assets.
    pub fn assets(&self) -> &[String] {
        &self.contents.assets
    }

    /// Reads an asset of the export of `file`; `None` if there is none.
    ///
    /// # Errors
    /// As for [`File::asset`].
    pub fn asset<S: Source>(&self, file: &File<S>, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        if !self.contents.assets.iter().any(|asset| asset == name) {
            return Ok(None);
        }
        match self.contents.changed.get(name) {
            Some(changed) => Ok(Some(changed.clone())),
            None => file.asset(name),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.contents.outputs.iter().flat_map(|output| &output.parts)
    }
}
