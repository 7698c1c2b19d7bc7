//! One safetensors file, mapped into memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{CheckpointError, shown};
use crate::header::{TensorInfo, parse_header};
use crate::rules::HeaderRule;

/// A safetensors file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    name: String,
    path: PathBuf,
    map: Mmap,
    data_start: usize,
}

impl Shard {
    /// Maps a file and checks its header. The tensors come in the order of their bytes.
    pub(crate) fn open(path: &Path, name: &str) -> Result<(Shard, Vec<TensorInfo>), CheckpointError> {
        let io = |error| CheckpointError::io(path, error);
        let file = open_regular(path)?;
        // An empty file cannot be mapped everywhere.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(CheckpointError::header(&shown(path), HeaderRule::Empty));
        }
        // SAFETY: the map is read-only, and bytes are all that is ever made of it, so any content is
        // valid. The usual caveat of mapped files remains: if another process writes the file
        // meanwhile, the bytes change under us, and if it shortens the file, an access beyond the
        // new end ends the process. Checkpoints are not edited in place.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let header = parse_header(&map, map.len() as u64, &shown(path))?;
        let shard = Shard { name: name.to_owned(), path: path.to_owned(), data_start: header.data_start as usize, map };
        Ok((shard, header.tensors))
    }

    /// The file name relative to the checkpoint's folder, e.g. `model-00001-of-00002.safetensors`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes before the data: the 8-byte length and the JSON with its padding.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.data_start]
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.map.len() as u64
    }

    /// The bytes of one of its tensors. The header was checked against the length of the map, so the
    /// sums below fit.
    pub(crate) fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let data = &self.map[self.data_start..];
        &data[tensor.offsets.start as usize..tensor.offsets.end as usize]
    }

    /// Tells the operating system that the pages of a tensor may go.
    #[cfg(unix)]
    pub(crate) fn release(&self, tensor: &TensorInfo) {
        let begin = self.data_start + tensor.offsets.start as usize;
        let len = self.bytes(tensor).len();
        // SAFETY: the map is shared, read-only and backed by a file: a page that is dropped is read
        // again from the file at the next access, with the same bytes, exactly as when the system
        // evicts it by itself. References into the map stay valid.
        let advised = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, begin, len) };
        // Only an advice: where it is refused, the pages stay until memory is short.
        drop(advised);
    }

    /// There is no such advice here; the system evicts pages when memory is short.
    #[cfg(not(unix))]
    pub(crate) fn release(&self, _tensor: &TensorInfo) {}
}

/// Opens a regular file for reading. Anything else is refused before it is opened: a pipe would block.
pub(crate) fn open_regular(path: &Path) -> Result<File, CheckpointError> {
    let io = |error| CheckpointError::io(path, error);
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(CheckpointError::NotAFile { path: shown(path) });
    }
    File::open(path).map_err(io)
}
