//! An open .impasto file: its tensors and its assets.

use std::path::Path;

use impasto_codec::CodecError;
use impasto_container::{Limits, MmapSource, Object, ObjectKind, Reader, Source, TensorMeta};
use impasto_core::{Isa, IsaError, Mode};

use crate::error::FileError;
use crate::tensor::Tensor;

/// Most bytes that one tensor may take in memory, unless [`File::set_memory_limit`] says otherwise: 16 GiB.
pub const MEMORY_LIMIT: u64 = 16 << 30;

/// An open .impasto file over any [`Source`] of bytes.
pub struct File<S = MmapSource> {
    pub(crate) reader: Reader<S>,
    pub(crate) isa: Isa,
    pub(crate) memory_limit: u64,
}

impl File<MmapSource> {
    /// Opens a file by memory map and checks its header and manifest.
    ///
    /// # Errors
    /// If it is not an .impasto file, or a broken one. A cut file opens: what is absent of its layers makes
    /// weights coarser, and only where the base is absent is it an error, when it is needed.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Ok(File::new(Reader::<MmapSource>::open_file(path, &Limits::default())?))
    }
}

impl<S: Source> File<S> {
    /// A file over a reader that is already open.
    pub fn new(reader: Reader<S>) -> Self {
        File { reader, isa: Isa::best(), memory_limit: MEMORY_LIMIT }
    }

    /// Sets how many bytes one tensor may take. (An asset may take 256 MiB at most, as when it is encoded.)
    pub fn set_memory_limit(&mut self, bytes: u64) {
        self.memory_limit = bytes;
    }

    /// Sets which instructions decode; [`Isa::best`] if this is not called. The bytes are the same with all of them.
    ///
    /// # Errors
    /// If this processor lacks them.
    pub fn set_isa(&mut self, isa: Isa) -> Result<(), IsaError> {
        if !isa.is_available() {
            return Err(IsaError::Lacking(isa));
        }
        self.isa = isa;
        Ok(())
    }

    /// The container: manifest, units, hashes.
    pub fn reader(&self) -> &Reader<S> {
        &self.reader
    }

    /// Names of the tensors, in the order of the file.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.reader.objects().iter().filter(|o| o.tensor().is_some()).map(|o| o.name.as_str())
    }

    /// Names of the assets, in the order of the file.
    pub fn asset_names(&self) -> impl Iterator<Item = &str> {
        let assets = self.reader.objects().iter().filter(|o| matches!(o.kind, ObjectKind::Asset { .. }));
        assets.map(|o| o.name.as_str())
    }

    /// What the manifest says of a tensor.
    ///
    /// # Errors
    /// If there is none.
    pub fn meta(&self, name: &str) -> Result<&TensorMeta, FileError> {
        let object = self.reader.find_tensor(name).and_then(|n| self.reader.objects().get(n as usize));
        object.and_then(Object::tensor).ok_or_else(|| self.missing(name))
    }

    /// Are the bits of a tensor those of the checkpoint, as far as the file is there? (Every row of tiles reaches an exact layer or has no
    /// tile in mode lattice.)
    pub fn is_exact(&self, name: &str) -> bool {
        let reader = &self.reader;
        let Some(object) = reader.find_tensor(name) else { return false };
        let (Some(units), Some(matrix)) = (reader.units_of(object), reader.matrix(object)) else { return false };
        let on_lattice = |&tile: &u32| reader.units().get(tile as usize).is_some_and(|unit| unit.mode == Mode::LATTICE);
        let across = matrix.tiles_across().max(1) as usize;
        (0..).zip(units.tiles.chunks(across)).all(|(row, tiles)| {
            let layer = || reader.layer_of(object, reader.level(object, row));
            !tiles.iter().any(on_lattice) || layer().is_some_and(|layer| layer.mode == Mode::EXACT)
        })
    }

    /// Weights of all tensors, tied ones counted once: what bits per weight are over.
    pub fn weights(&self) -> u64 {
        let own = self.reader.objects().iter().filter_map(Object::tensor).filter(|meta| meta.tied.is_none());
        own.fold(0, |sum, meta| sum.saturating_add(meta.weights()))
    }

    /// A tensor by name; tied ones have the units of their original. Reads and checks its tensor header in layer 0.
    ///
    /// # Errors
    /// If there is none, its tensor header is absent, damaged or broken, or a tile has an unknown mode.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_, S>, FileError> {
        self.object(self.reader.find_tensor(name).ok_or_else(|| self.missing(name))?)
    }

    /// An asset by name, whole; `None` if there is none.
    ///
    /// # Errors
    /// If a unit of it is absent, damaged or broken, or it is larger than 256 MiB.
    pub fn asset(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.reader.find_asset(name).map(|object| self.object(object)?.bytes()).transpose()
    }

    pub(crate) fn missing(&self, name: &str) -> FileError {
        FileError::NoTensor { file: self.reader.name().to_owned(), name: name.to_owned() }
    }

    /// An object by number.
    pub(crate) fn object(&self, number: u32) -> Result<Tensor<'_, S>, FileError> {
        Tensor::new(self, number)
    }

    pub(crate) fn broken(&self, unit: u32, error: CodecError) -> FileError {
        FileError::Codec { file: self.reader.name().to_owned(), unit: self.reader.unit_place(unit), error }
    }
}
