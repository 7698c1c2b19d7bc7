//! A file of tensors, mapped into memory.

use std::fs::{self, File};
use std::io::Read;
use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};

use impasto_core::files::Map;

use crate::error::{CheckpointError, shown};
use crate::gguf::Metadata;
use crate::header::parse_header;
use crate::rules::HeaderRule;
use crate::tensor::TensorInfo;

/// The first bytes of a GGUF file.
pub(crate) const MAGIC: &[u8; 4] = &impasto_core::FileKind::GGUF_MAGIC;

/// The format of a file of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// safetensors.
    Safetensors,
    /// GGUF, version 2 or 3.
    Gguf,
}

impl Format {
    /// Returns the format of a file with this beginning: if it is not GGUF, it can only be safetensors.
    ///
    /// No safetensors file starts like a GGUF, since its header would be longer than a gigabyte.
    pub fn of(begin: &[u8]) -> Format {
        if begin.starts_with(MAGIC) { Format::Gguf } else { Format::Safetensors }
    }

    /// Returns the format of a file. The extension `.gguf` takes precedence, so that a damaged GGUF gives a suitable
    /// error.
    pub(crate) fn of_file(path: &Path) -> Result<Format, CheckpointError> {
        let mut begin = Vec::new();
        let read = open_regular(path)?.take(MAGIC.len() as u64).read_to_end(&mut begin);
        read.map_err(|error| CheckpointError::io(path, error))?;
        let named = path.extension().is_some_and(|extension| extension == "gguf");
        Ok(if named { Format::Gguf } else { Format::of(&begin) })
    }
}

/// A file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    name: String,
    path: PathBuf,
    format: Format,
    map: Map,
    data_start: usize,
    /// The ranges of the data that belong to no tensor.
    padding: Vec<Range<u64>>,
    /// Whether the file ends with the padding of its last tensor.
    padded: bool,
}

/// The contents of a shard's header.
pub(crate) struct Contents {
    /// In the order of their data.
    pub tensors: Vec<TensorInfo>,
    /// `Some` for a GGUF.
    pub metadata: Option<Metadata>,
}

impl Shard {
    /// Maps a file and checks its header.
    pub(crate) fn open(path: &Path, name: &str, format: Format) -> Result<(Shard, Contents), CheckpointError> {
        let io = |error| CheckpointError::io(path, error);
        let file = open_regular(path)?;
        // Some systems cannot map an empty file.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(CheckpointError::header(&shown(path), HeaderRule::Empty));
        }
        let map = Map::new(&file, path).map_err(io)?;
        let file_len = map.len() as u64;
        let parsed = parse(&map, format, &shown(path));
        map.check().map_err(io)?;
        let (contents, data_start, alignment) = parsed?;
        let held = file_len - data_start;
        let mut shard = Shard {
            name: name.to_owned(),
            path: path.to_owned(),
            format,
            map,
            data_start: data_start as usize,
            padding: Vec::new(),
            padded: held.is_multiple_of(alignment),
        };
        let mut end = 0;
        for next in contents.tensors.iter().map(TensorInfo::offsets).chain(iter::once(held..held)) {
            if next.start > end {
                shard.padding.push(end..next.start);
            }
            end = next.end;
        }
        Ok((shard, contents))
    }

    /// Returns the path relative to the checkpoint's folder, such as `model-00001-of-00002.safetensors`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the format of the file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the bytes before the data, including padding: the length and the JSON of safetensors, or the metadata
    /// and the entries of a GGUF.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.data_start]
    }

    /// Returns whether header and tensors determine every byte of the file. If so,
    /// [`TensorWriter::with_header`](crate::TensorWriter::with_header) restores the same file; otherwise only tensors
    /// and metadata are the same.
    ///
    /// This is true for every safetensors file. The padding of a GGUF must be zeros, also after the last tensor.
    pub fn is_canonical(&self) -> bool {
        let data = self.data();
        let padding = |range: &Range<u64>| &data[range.start as usize..range.end as usize];
        self.padded && self.padding.iter().all(|range| padding(range).iter().all(|&byte| byte == 0))
    }

    /// Returns the length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.map.len() as u64
    }

    fn data(&self) -> &[u8] {
        &self.map[self.data_start..]
    }

    /// Returns the bytes of one of its tensors. The header was checked against the length of the map, so the range is
    /// valid.
    pub(crate) fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.data()[tensor.offsets.start as usize..tensor.offsets.end as usize]
    }

    /// Returns an error if the file became shorter, so that bytes of it may have been read as zeros.
    pub(crate) fn check(&self) -> Result<(), CheckpointError> {
        self.map.check().map_err(|error| CheckpointError::io(&self.path, error))
    }

    /// Advises the operating system that the pages of a tensor are not needed.
    pub(crate) fn release(&self, tensor: &TensorInfo) {
        let start = self.data_start as u64;
        self.map.release(start + tensor.offsets.start..start + tensor.offsets.end);
    }
}

/// Parses the header of a whole file. Also returns the start of the data, and the alignment of its end.
fn parse(bytes: &[u8], format: Format, name: &str) -> Result<(Contents, u64, u64), CheckpointError> {
    match format {
        Format::Safetensors => {
            let header = parse_header(bytes, bytes.len() as u64, name)?;
            Ok((Contents { tensors: header.tensors, metadata: None }, header.data_start, 1))
        }
        #[cfg(not(feature = "gguf"))]
        Format::Gguf => Err(CheckpointError::NoGguf { file: name.to_owned() }),
        #[cfg(feature = "gguf")]
        Format::Gguf => {
            let header = crate::gguf::parse_header(bytes, bytes.len() as u64, name)?;
            let contents = Contents { tensors: header.tensors, metadata: Some(header.metadata) };
            Ok((contents, header.data_start, header.alignment))
        }
    }
}

/// Opens a regular file for reading. Others are refused before they are opened, since opening a pipe would block.
pub(crate) fn open_regular(path: &Path) -> Result<File, CheckpointError> {
    let io = |error| CheckpointError::io(path, error);
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(CheckpointError::NotAFile { path: shown(path) });
    }
    File::open(path).map_err(io)
}
