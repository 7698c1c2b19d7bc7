//! An open .impasto file: its tensors and assets.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use impasto_codec::CodecError;
use impasto_container::{Limits, MmapSource, Object, ObjectKind, Reader, Source, TensorMeta};
use impasto_core::{FileKind, Isa, IsaError, Mode};

use crate::error::FileError;
use crate::tensor::Tensor;

/// Default limit on the memory of a tensor, in bytes (16 GiB); see [`File::set_memory_limit`].
pub const MEMORY_LIMIT: u64 = 16 << 30;

/// An open .impasto file over any [`Source`] of bytes.
pub struct File<S = MmapSource> {
    pub(crate) reader: Reader<S>,
    pub(crate) isa: Isa,
    pub(crate) memory_limit: u64,
    /// The file that this one is a delta of, once it is attached.
    pub(crate) base: Option<Arc<File<S>>>,
}

/// Returns whether there is a file at `path` that begins like an .impasto file. (A folder does not.)
///
/// # Errors
/// Those of the system, also if there is nothing.
pub fn is_impasto(path: &Path) -> std::io::Result<bool> {
    if std::fs::metadata(path)?.is_dir() {
        return Ok(false);
    }
    let mut first = [0; FileKind::IMPASTO_MAGIC.len()];
    match std::fs::File::open(path)?.read_exact(&mut first) {
        Ok(()) => Ok(first == FileKind::IMPASTO_MAGIC),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

impl File<MmapSource> {
    /// Maps a file and checks its header and manifest.
    ///
    /// A cut file can be opened: absent layers only make weights coarser, and an absent unit of the base is an error
    /// when it is needed.
    ///
    /// # Errors
    /// If it is not a valid .impasto file, or exceeds the default [`Limits`].
    pub fn open(path: &Path) -> Result<Self, FileError> {
        File::open_within(path, &Limits::default())
    }

    /// Opens a file like [`File::open`], with limits to what opening may take and to what its units may expand to.
    ///
    /// # Errors
    /// If it is not a valid .impasto file, or exceeds `limits`.
    pub fn open_within(path: &Path, limits: &Limits) -> Result<Self, FileError> {
        Ok(File::new(Reader::<MmapSource>::open_file(path, limits)?))
    }
}

impl<S: Source> File<S> {
    /// Creates a file over an open reader.
    pub fn new(reader: Reader<S>) -> Self {
        File { reader, isa: Isa::best(), memory_limit: MEMORY_LIMIT, base: None }
    }

    /// Sets the limit on the memory that reading a tensor or an asset takes, in bytes: its elements, its tensor headers and
    /// working memory. Fewer tiles are decoded at once if the limit requires it. (Assets are also limited to 256 MiB, as in
    /// encoding.)
    pub fn set_memory_limit(&mut self, bytes: u64) {
        self.memory_limit = bytes;
    }

    /// Sets the instruction set for decoding; the default is [`Isa::best`]. Results do not depend on it.
    ///
    /// # Errors
    /// If this processor does not support it.
    pub fn set_isa(&mut self, isa: Isa) -> Result<(), IsaError> {
        if !isa.is_available() {
            return Err(IsaError::Lacking(isa));
        }
        self.isa = isa;
        Ok(())
    }

    /// Returns the container: manifest, units, hashes.
    pub fn reader(&self) -> &Reader<S> {
        &self.reader
    }

    /// Returns the names of the tensors, in the order of the file.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.reader.objects().iter().filter(|o| o.tensor().is_some()).map(|o| o.name.as_str())
    }

    /// Returns the names of the assets, in the order of the file.
    pub fn asset_names(&self) -> impl Iterator<Item = &str> {
        let assets = self.reader.objects().iter().filter(|o| matches!(o.kind, ObjectKind::Asset { .. }));
        assets.map(|o| o.name.as_str())
    }

    /// Returns the description of a tensor in the manifest.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn meta(&self, name: &str) -> Result<&TensorMeta, FileError> {
        let object = self.reader.find_tensor(name).and_then(|n| self.reader.objects().get(n as usize));
        object.and_then(Object::tensor).ok_or_else(|| self.missing(name))
    }

    /// Returns whether a tensor has the bits of the checkpoint, given the units that are present: whether every tile
    /// row reaches an exact layer or has no tile in mode lattice or transform. One that is identical to a tensor of the base
    /// has them, even if the base was coded with loss: they are what the checkpoint had.
    pub fn is_exact(&self, name: &str) -> bool {
        let reader = &self.reader;
        let Some(object) = reader.find_tensor(name) else { return false };
        let (Some(units), Some(matrix)) = (reader.units_of(object), reader.matrix(object)) else { return false };
        let mode = |tile: u32| reader.units().get(tile as usize).map(|unit| unit.mode);
        let is_lossy = |&tile: &u32| matches!(mode(tile), Some(Mode::LATTICE | Mode::TRANSFORM));
        let across = matrix.tiles_across().max(1) as usize;
        (0..).zip(units.tiles.chunks(across)).all(|(row, tiles)| {
            let layer = || reader.layer_of(object, reader.level(object, row));
            !tiles.iter().any(is_lossy) || layer().is_some_and(|layer| layer.mode.is_exact_layer())
        })
    }

    /// Returns the number of weights of all tensors, which bits per weight refer to. Tied tensors count once.
    pub fn weights(&self) -> u64 {
        self.reader.weights()
    }

    /// Opens a tensor by name, and reads and checks its tensor header in layer 0. A tied tensor has the units of its
    /// original.
    ///
    /// # Errors
    /// If there is no such tensor, its tensor header is absent, damaged or invalid, or a tile has an unknown mode.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_, S>, FileError> {
        self.object(self.reader.find_tensor(name).ok_or_else(|| self.missing(name))?)
    }

    /// Reads an asset by name; `None` if there is none.
    ///
    /// # Errors
    /// If one of its units is absent, damaged or invalid, or it is larger than 256 MiB.
    pub fn asset(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.reader.find_asset(name).map(|object| self.object(object)?.bytes()).transpose()
    }

    pub(crate) fn missing(&self, name: &str) -> FileError {
        FileError::NoTensor { file: self.reader.name().to_owned(), name: name.to_owned() }
    }

    /// Opens an object by number.
    pub(crate) fn object(&self, number: u32) -> Result<Tensor<'_, S>, FileError> {
        Tensor::new(self, number)
    }

    /// Passes on a result, unless the file cannot stand by the bytes that it was made from.
    pub(crate) fn settled<T>(&self, result: Result<T, FileError>) -> Result<T, FileError> {
        self.reader.check_source()?;
        result
    }

    /// Returns an error if `bytes` bytes for an object are more than the limit.
    pub(crate) fn within_memory(&self, number: u32, bytes: u64, limit: u64) -> Result<(), FileError> {
        if bytes <= limit {
            return Ok(());
        }
        let name = self.reader.objects().get(number as usize).map_or(String::new(), |object| object.name.clone());
        Err(FileError::MemoryLimit { file: self.reader.name().to_owned(), name, bytes, limit })
    }

    /// The error that the system does not have the memory for an object.
    pub(crate) fn no_memory(&self, object: &Object, bytes: u64) -> FileError {
        FileError::NoMemory { file: self.reader.name().to_owned(), name: object.name.clone(), bytes }
    }

    pub(crate) fn broken(&self, unit: u32, error: CodecError) -> FileError {
        FileError::Codec { file: self.reader.name().to_owned(), unit: self.reader.unit_place(unit), error }
    }
}
