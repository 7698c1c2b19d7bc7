//! Writing a safetensors file in one pass.

use std::io::{BufWriter, Write};
use std::path::Path;

use impasto_codec::DType;

use crate::atomic::AtomicFile;
use crate::error::{CheckpointError, one_line, shown};
use crate::header::{Header, TensorInfo, byte_count, encode_header, parse_header};
use crate::rules::TensorRule;

/// A tensor to write: everything but its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, unique in the file.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The extents, slowest first; empty for a scalar.
    pub shape: Vec<u64>,
}

impl From<&TensorInfo> for TensorSpec {
    fn from(info: &TensorInfo) -> TensorSpec {
        TensorSpec { name: info.name.clone(), dtype: info.dtype, shape: info.shape.clone() }
    }
}

/// A safetensors file being written: the header at once, then the data in chunks of any length.
///
/// The file stands under a temporary name until [`finish`](SafetensorsWriter::finish); if that is
/// not reached, nothing is left behind. A file of the same name is replaced, missing folders on the
/// way are created.
#[derive(Debug)]
pub struct SafetensorsWriter {
    file: BufWriter<AtomicFile>,
    tensors: Vec<TensorInfo>,
    declared: u64,
    written: u64,
}

impl SafetensorsWriter {
    /// Begins a file whose tensors follow each other in the given order.
    ///
    /// Sort them by element size, largest first, where readers want every tensor aligned.
    ///
    /// # Errors
    /// A name that comes twice, a size that overflows, a header over the limit, and what the
    /// operating system refuses.
    pub fn create(
        path: &Path,
        metadata: Option<&[(String, String)]>,
        tensors: &[TensorSpec],
    ) -> Result<SafetensorsWriter, CheckpointError> {
        let file_name = shown(path);
        let (raw, file_len) = encode_header(metadata, tensors, &file_name)?;
        let header = parse_header(&raw, file_len, &file_name)?;
        check_given(&header, tensors, &file_name)?;
        SafetensorsWriter::begin(path, &raw, header)
    }

    /// Begins a file with the raw header of another, [`Shard::header`](crate::Shard::header): given
    /// the same data, the file is the same byte for byte. The data is expected in the order of
    /// [`tensors`](SafetensorsWriter::tensors), whatever the order given here.
    ///
    /// # Errors
    /// Any rule that the raw header breaks, tensors that are not exactly those of the header, and
    /// what the operating system refuses.
    pub fn with_header(
        path: &Path,
        raw_header: &[u8],
        tensors: &[TensorSpec],
    ) -> Result<SafetensorsWriter, CheckpointError> {
        let file_name = shown(path);
        let mut file_len = raw_header.len() as u64;
        for tensor in tensors {
            file_len = byte_count(tensor.dtype, &tensor.shape)
                .and_then(|bytes| file_len.checked_add(bytes))
                .ok_or_else(|| CheckpointError::tensor(&file_name, &tensor.name, TensorRule::Overflow))?;
        }
        let header = parse_header(raw_header, file_len, &file_name)?;
        // With exactly these tensors the data fills the file, so no byte of the raw header can lie
        // behind its end.
        check_given(&header, tensors, &file_name)?;
        SafetensorsWriter::begin(path, raw_header, header)
    }

    /// The tensors in the order in which their bytes are expected.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Appends bytes of data. A chunk may end inside an element or hold several tensors.
    ///
    /// # Errors
    /// More bytes than the header declares, and what the operating system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > self.declared {
            return Err(CheckpointError::TooMuchData { file: self.file_name(), declared: self.declared });
        }
        self.file.write_all(bytes).map_err(|error| self.io(error))?;
        self.written = written;
        Ok(())
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// Fewer bytes than the header declares, and what the operating system refuses; then nothing is
    /// left behind.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        if self.written != self.declared {
            let incomplete = self.tensors.iter().find(|t| t.offsets.end > self.written);
            return Err(CheckpointError::TooLittleData {
                file: self.file_name(),
                tensor: incomplete.map_or(String::new(), |t| one_line(&t.name)),
                written: self.written,
                declared: self.declared,
            });
        }
        self.file.flush().map_err(|error| self.io(error))?;
        let destination = self.file.get_ref().destination().to_owned();
        let file = self.file.into_inner().map_err(|e| CheckpointError::io(&destination, e.into_error()))?;
        file.commit()
    }

    fn begin(path: &Path, raw_header: &[u8], header: Header) -> Result<SafetensorsWriter, CheckpointError> {
        let mut file = BufWriter::with_capacity(1 << 20, AtomicFile::create(path)?);
        file.write_all(raw_header).map_err(|error| CheckpointError::io(path, error))?;
        let declared = header.tensors.last().map_or(0, |t| t.offsets.end);
        Ok(SafetensorsWriter { file, tensors: header.tensors, declared, written: 0 })
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
/// Those of [`SafetensorsWriter`].
pub fn write_safetensors(
    path: &Path,
    metadata: Option<&[(String, String)]>,
    tensors: &[(TensorSpec, &[u8])],
) -> Result<(), CheckpointError> {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    for (spec, bytes) in tensors {
        let needed = byte_count(spec.dtype, &spec.shape);
        if needed != Some(bytes.len() as u64) {
            let rule = match needed {
                Some(needed) => TensorRule::Size { needed, held: bytes.len() as u64 },
                None => TensorRule::Overflow,
            };
            return Err(CheckpointError::tensor(&shown(path), &spec.name, rule));
        }
    }
    let mut writer = SafetensorsWriter::create(path, metadata, &specs)?;
    for (_, bytes) in tensors {
        writer.write(bytes)?;
    }
    writer.finish()
}

/// The tensors of a header are exactly those given, in any order.
fn check_given(header: &Header, given: &[TensorSpec], file_name: &str) -> Result<(), CheckpointError> {
    let broken = |name: &str, rule| Err(CheckpointError::tensor(file_name, name, rule));
    let mut in_header: Vec<&TensorInfo> = header.tensors.iter().collect();
    in_header.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut given: Vec<&TensorSpec> = given.iter().collect();
    given.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = given.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return broken(&pair[0].name, TensorRule::Duplicate);
    }
    for spec in &given {
        let Ok(place) = in_header.binary_search_by(|t| t.name.cmp(&spec.name)) else {
            return broken(&spec.name, TensorRule::NotInHeader);
        };
        let info = in_header[place];
        if (info.dtype, &info.shape) != (spec.dtype, &spec.shape) {
            let header = Box::new((info.dtype, info.shape.clone()));
            let given = Box::new((spec.dtype, spec.shape.clone()));
            return broken(&spec.name, TensorRule::Differs { header, given });
        }
    }
    for info in in_header {
        if given.binary_search_by(|spec| spec.name.cmp(&info.name)).is_err() {
            return broken(&info.name, TensorRule::NotGiven);
        }
    }
    Ok(())
}
