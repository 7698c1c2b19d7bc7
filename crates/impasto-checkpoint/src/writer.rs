//! Writes a checkpoint file in one pass.

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

/// A writer of a safetensors or GGUF file: first the header, then the data in chunks of any length.
///
/// The file has a temporary name until [`finish`](TensorWriter::finish). Without that, nothing remains. An existing
/// file is replaced, and missing folders are created.
#[derive(Debug)]
pub struct TensorWriter {
    file: BufWriter<AtomicFile>,
    tensors: Vec<TensorInfo>,
    /// Index of the tensor whose bytes come next.
    current: usize,
    /// Bytes written after the header, including padding between tensors.
    position: u64,
    /// Final value of `position`.
    end: u64,
    /// Bytes of all tensors, and how many of them are written.
    declared: u64,
    written: u64,
}

impl TensorWriter {
    /// Starts a safetensors file with the tensors in the given order.
    ///
    /// To align every tensor, sort them by element size, largest first.
    ///
    /// # Errors
    /// If a name occurs twice, a dtype is a block dtype, a size overflows, the header exceeds the limit, or on an I/O
    /// error.
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

    /// Starts a GGUF file, version 3, with the tensors in the given order. They are aligned to `general.alignment` in
    /// the metadata, or else to 32 bytes.
    ///
    /// # Errors
    /// If a name occurs twice or is too long for ggml, a type is unknown to ggml, a tensor has more than 4 dimensions,
    /// a size overflows, the header exceeds the limit, or on an I/O error.
    #[cfg(feature = "gguf")]
    pub fn gguf(path: &Path, metadata: &Metadata, tensors: &[TensorSpec]) -> Result<TensorWriter, CheckpointError> {
        let raw = gguf::encode_header(metadata, tensors, &shown(path))?;
        TensorWriter::with_header(path, &raw, tensors)
    }

    /// Starts a file of either format with the raw header of another file, [`Shard::header`](crate::Shard::header).
    ///
    /// With the same data, the result is identical to a file that [is canonical](crate::Shard::is_canonical). Data must
    /// be written in the order of [`tensors`](TensorWriter::tensors), which may differ from the order given here.
    ///
    /// # Errors
    /// If the raw header violates a rule, its tensors are not exactly the given ones, or on an I/O error.
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
                // The data of exactly these tensors fills the file, so the raw header cannot extend past its end.
                (parse_header(raw, file_len, &file_name)?.tensors, 1)
            }
        };
        check_given(&header, tensors, &file_name)?;
        TensorWriter::begin(path, raw, header, alignment)
    }

    /// Returns the tensors in the order in which their data must be written.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Appends data. A chunk may end inside an element or span several tensors. Padding between tensors is added.
    ///
    /// # Errors
    /// If there are more bytes than the header declares, or on an I/O error.
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
    /// If there are fewer bytes than the header declares, or on an I/O error. Nothing remains then.
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

    /// Starts a file with a checked header; `tensors` are in the order of their data.
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

    /// Writes zeros up to a position, which is less than one alignment away.
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

/// Writes a safetensors file of tensors in memory, in the given order.
///
/// # Errors
/// Those of [`TensorWriter`], and if a tensor's bytes do not match its shape.
pub fn write_safetensors(
    path: &Path,
    metadata: Option<&[(String, String)]>,
    tensors: &[(TensorSpec, &[u8])],
) -> Result<(), CheckpointError> {
    write_all(path, tensors, |specs| TensorWriter::safetensors(path, metadata, specs))
}

/// Writes a GGUF file of tensors in memory, in the given order.
///
/// # Errors
/// Those of [`TensorWriter`], and if a tensor's bytes do not match its shape.
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
