//! Writing a checkpoint file in one pass.

use std::io::{BufWriter, Write};
use std::path::Path;

use impasto_core::files::AtomicFile;

use crate::atomic;
use crate::error::{CheckpointError, one_line, shown};
#[cfg(feature = "gguf")]
use crate::gguf::{self, Metadata};
use crate::header::{encode_header, parse_header};
use crate::rules::TensorRule;
use crate::shard::Format;
use crate::tensor::{TensorInfo, TensorSpec, check_given};

/// A safetensors or GGUF file being written: the header at once, then the data in chunks of any length.
///
/// The file stands under a temporary name until [`finish`](TensorWriter::finish); if that is not reached, nothing is
/// left behind. A file of the same name is replaced, missing folders on the way are created.
#[derive(Debug)]
pub struct TensorWriter {
    file: BufWriter<AtomicFile>,
    tensors: Vec<TensorInfo>,
    /// The tensor whose bytes come next.
    current: usize,
    /// Bytes after the header so far, padding between tensors included.
    position: u64,
    /// Where `position` is to end.
    end: u64,
    /// Bytes of tensors, all and so far.
    declared: u64,
    written: u64,
}

impl TensorWriter {
    /// Begins a safetensors file whose tensors follow each other in the given order.
    ///
    /// Sort them by element size, largest first, where readers want every tensor aligned.
    ///
    /// # Errors
    /// A name that comes twice, a block dtype, a size that overflows, a header over the limit, and what the operating
    /// system refuses.
    pub fn safetensors(
        path: &Path,
        metadata: Option<&[(String, String)]>,
        tensors: &[TensorSpec],
    ) -> Result<TensorWriter, CheckpointError> {
        let file_name = shown(path);
        let (raw, file_len) = encode_header(metadata, tensors, &file_name)?;
        let header = parse_header(&raw, file_len, &file_name)?;
        check_given(&header.tensors, tensors, &file_name)?;
        TensorWriter::begin(path, &raw, header.tensors, 1)
    }

    /// Begins a GGUF file of version 3 whose tensors follow each other in the given order, aligned to
    /// `general.alignment` of the metadata, else to 32 bytes.
    ///
    /// # Errors
    /// A name that comes twice or is longer than ggml allows, a type that ggml does not have, more than 4 dimensions, a
    /// size that overflows, a header over the limit, and what the operating system refuses.
    #[cfg(feature = "gguf")]
    pub fn gguf(path: &Path, metadata: &Metadata, tensors: &[TensorSpec]) -> Result<TensorWriter, CheckpointError> {
        let raw = gguf::encode_header(metadata, tensors, &shown(path))?;
        TensorWriter::with_header(path, &raw, tensors)
    }

    /// Begins a file with the raw header of another, [`Shard::header`](crate::Shard::header), of either format: given the
    /// same data, the file is the same byte for byte, if that one [is canonical](crate::Shard::is_canonical). The data is
    /// expected in the order of [`tensors`](TensorWriter::tensors), whatever the order given here.
    ///
    /// # Errors
    /// Any rule that the raw header breaks, tensors that are not exactly those of the header, and what the operating
    /// system refuses.
    pub fn with_header(path: &Path, raw: &[u8], tensors: &[TensorSpec]) -> Result<TensorWriter, CheckpointError> {
        let file_name = shown(path);
        let (header, alignment) = match Format::of(raw) {
            #[cfg(not(feature = "gguf"))]
            Format::Gguf => return Err(CheckpointError::NoGguf { file: file_name }),
            #[cfg(feature = "gguf")]
            Format::Gguf => {
                let header = gguf::parse_header_for(raw, tensors, &file_name)?;
                (header.tensors, header.alignment)
            }
            Format::Safetensors => {
                let mut file_len = raw.len() as u64;
                for tensor in tensors {
                    let broken = |rule| CheckpointError::tensor(&file_name, &tensor.name, rule);
                    let bytes = tensor.checked_len().map_err(broken)?;
                    file_len = file_len.checked_add(bytes).ok_or_else(|| broken(TensorRule::Overflow))?;
                }
                // With exactly these tensors the data fills the file, so no byte of the raw header can lie behind its end.
                (parse_header(raw, file_len, &file_name)?.tensors, 1)
            }
        };
        check_given(&header, tensors, &file_name)?;
        TensorWriter::begin(path, raw, header, alignment)
    }

    /// The tensors in the order in which their bytes are expected.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Appends bytes of data. A chunk may end inside an element or hold several tensors; what a format wants between
    /// tensors is put there.
    ///
    /// # Errors
    /// More bytes than the header declares, and what the operating system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > self.declared {
            return Err(CheckpointError::TooMuchData { file: self.file_name(), declared: self.declared });
        }
        let mut rest = bytes;
        while !rest.is_empty()
            && let Some(tensor) = self.tensors.get(self.current)
        {
            let range = tensor.offsets();
            self.pad_to(range.start)?;
            let left = range.end - self.position;
            let (piece, after) = rest.split_at(rest.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            self.put(piece)?;
            self.current += usize::from(self.position == range.end);
            rest = after;
        }
        self.written = written;
        Ok(())
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// Fewer bytes than the header declares, and what the operating system refuses; then nothing is left behind.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        if self.written != self.declared {
            let incomplete = self.tensors.iter().find(|t| t.offsets.end > self.position);
            return Err(CheckpointError::TooLittleData {
                file: self.file_name(),
                tensor: incomplete.map_or(String::new(), |t| one_line(&t.name)),
                written: self.written,
                declared: self.declared,
            });
        }
        self.pad_to(self.end)?;
        self.file.flush().map_err(|error| self.io(error))?;
        let destination = self.file.get_ref().destination().to_owned();
        let file = self.file.into_inner().map_err(|e| CheckpointError::io(&destination, e.into_error()))?;
        file.commit().map_err(|error| CheckpointError::io(&destination, error))
    }

    /// Begins a file of a header that was checked; its tensors are in the order of their bytes.
    fn begin(
        path: &Path,
        raw_header: &[u8],
        tensors: Vec<TensorInfo>,
        alignment: u64,
    ) -> Result<TensorWriter, CheckpointError> {
        let mut file = BufWriter::with_capacity(1 << 20, atomic::begin(path)?);
        file.write_all(raw_header).map_err(|error| CheckpointError::io(path, error))?;
        let end = tensors.last().map_or(0, |t| t.offsets.end).next_multiple_of(alignment);
        let declared = tensors.iter().map(TensorInfo::byte_len).sum();
        Ok(TensorWriter { file, tensors, current: 0, position: 0, end, declared, written: 0 })
    }

    /// Zeros up to a place that an alignment made, so not far.
    fn pad_to(&mut self, place: u64) -> Result<(), CheckpointError> {
        const ZEROS: [u8; 64] = [0; 64];
        while self.position < place {
            self.put(&ZEROS[..(place - self.position).min(ZEROS.len() as u64) as usize])?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all(bytes).map_err(|error| self.io(error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn file_name(&self) -> String {
        shown(self.file.get_ref().destination())
    }

    fn io(&self, error: std::io::Error) -> CheckpointError {
        CheckpointError::io(self.file.get_ref().destination(), error)
    }
}

/// Writes a safetensors file of tensors that are in memory, in the given order.
///
/// # Errors
/// Those of [`TensorWriter`].
pub fn write_safetensors(
    path: &Path,
    metadata: Option<&[(String, String)]>,
    tensors: &[(TensorSpec, &[u8])],
) -> Result<(), CheckpointError> {
    write_all(path, tensors, |specs| TensorWriter::safetensors(path, metadata, specs))
}

/// Writes a GGUF file of tensors that are in memory, in the given order.
///
/// # Errors
/// Those of [`TensorWriter`].
#[cfg(feature = "gguf")]
pub fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[(TensorSpec, &[u8])]) -> Result<(), CheckpointError> {
    write_all(path, tensors, |specs| TensorWriter::gguf(path, metadata, specs))
}

fn write_all(
    path: &Path,
    tensors: &[(TensorSpec, &[u8])],
    begin: impl FnOnce(&[TensorSpec]) -> Result<TensorWriter, CheckpointError>,
) -> Result<(), CheckpointError> {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    for (spec, bytes) in tensors {
        let held = bytes.len() as u64;
        let rule = match spec.checked_len() {
            Ok(needed) if needed == held => continue,
            Ok(needed) => TensorRule::Size { needed, held },
            Err(rule) => rule,
        };
        return Err(CheckpointError::tensor(&shown(path), &spec.name, rule));
    }
    let mut writer = begin(&specs)?;
    for (_, bytes) in tensors {
        writer.write(bytes)?;
    }
    writer.finish()
}
