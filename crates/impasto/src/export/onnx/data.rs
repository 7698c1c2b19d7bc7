//! The file of weights next to ONNX models: the bytes of tensors, one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use impasto_checkpoint::{CheckpointError, TensorSpec};
use impasto_container::Source;
use impasto_core::DType;

use super::proto::Type;
use crate::error::FileError;
use crate::export::part::{Content, Part};
use crate::file::File;

/// Where tensors begin: at multiples of this, in bytes.
const ALIGN: u64 = 64;

/// Where a tensor is.
pub struct Place {
    pub ty: Type,
    pub dims: Vec<u64>,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// The tensors of a file.
pub struct Data {
    file: &'static str,
    parts: Vec<Part>,
    places: BTreeMap<String, Place>,
    length: u64,
}

impl Data {
    pub fn new(file: &'static str) -> Data {
        Data { file, parts: vec![], places: BTreeMap::new(), length: 0 }
    }

    pub fn file(&self) -> &'static str {
        self.file
    }

    /// Appends a tensor, unless there is one with its name. Returns whether ONNX has its dtype.
    pub fn add(&mut self, part: Part) -> bool {
        let Some((ty, length)) = Type::of(part.spec.dtype).zip(part.spec.byte_len()) else { return false };
        if self.places.contains_key(&part.spec.name) {
            return true;
        }
        let offset = self.length.next_multiple_of(ALIGN);
        let place = Place { ty, dims: part.spec.shape.clone(), offset, length };
        self.length = offset.saturating_add(length);
        self.places.insert(part.spec.name.clone(), place);
        self.parts.push(part);
        true
    }

    /// Appends a tensor of floats.
    pub fn add_values(&mut self, name: &str, dims: &[u64], values: Vec<f32>) {
        let spec = TensorSpec::new(name, DType::F32, dims.to_vec());
        self.add(Part { spec, content: Content::Values(values) });
    }

    pub fn place(&self, name: &str) -> Option<&Place> {
        self.places.get(name)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Takes away all tensors but the first ones.
    pub fn truncate(&mut self, count: usize) {
        for part in self.parts.drain(count.min(self.parts.len())..) {
            self.places.remove(&part.spec.name);
        }
    }

    pub fn into_parts(self) -> Vec<Part> {
        self.parts
    }
}

/// Writes a file of these tensors. Returns the bytes of tensors.
pub fn write<S: Source>(
    file: &File<S>,
    path: &Path,
    parts: &[Part],
    watch: &(dyn Fn(&str) + Sync),
) -> Result<u64, FileError> {
    let io = |error| CheckpointError::io(path, error);
    let mut out = BufWriter::new(fs::File::create(path).map_err(io)?);
    let (mut position, mut bytes) = (0u64, 0u64);
    for part in parts {
        let filling = position.next_multiple_of(ALIGN) - position;
        out.write_all(&[0; ALIGN as usize][..filling as usize]).map_err(io)?;
        let mut length = 0;
        part.write(file, &mut |piece| {
            length += piece.len() as u64;
            Ok(out.write_all(piece).map_err(io)?)
        })?;
        // Graphs say where each tensor begins.
        if part.spec.byte_len() != Some(length) {
            return Err(
                io(std::io::Error::other(format!("{}: {length} bytes are not its size", part.spec.name))).into()
            );
        }
        bytes += length;
        position += filling + length;
        watch(&part.spec.name);
    }
    let file = out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    Ok(bytes)
}
