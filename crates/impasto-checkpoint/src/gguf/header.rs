//! Reads and checks the header of a GGUF file, version 2 or 3.
//!
//! Layout (gguf.md of ggml): magic, version, number of tensors, number of pairs; key-value pairs; for each tensor, its
//! name, dimensions (fastest first), type and offset; padding to the alignment; data.

use std::ops::Range;

use impasto_core::FileKind;

use super::cursor::Cursor;
use super::metadata::Metadata;
use super::rules::GgufRule;
use super::types::GgmlType;
use super::value::Value;
use crate::error::{CheckpointError, one_line};
use crate::header::MAX_HEADER_BYTES;
use crate::rules::{HeaderRule, TensorRule};
use crate::shard::MAGIC;
use crate::tensor::{TensorInfo, TensorSpec, check_layout, check_names};

/// The key of the data alignment.
pub(super) const ALIGNMENT: &str = "general.alignment";

/// The alignment if the file does not specify one.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;

/// Largest alignment in bytes; bounds the padding of a tensor.
const MAX_ALIGNMENT: u64 = 1 << 16;

/// Largest length of a key in bytes, from the specification.
const MAX_KEY: usize = 65535;

/// Largest length of a tensor name in bytes. (ggml allows 63.)
const MAX_NAME: usize = 4096;

/// Most dimensions of a tensor. (ggml allows 4.)
const MAX_DIMS: usize = 16;

/// A valid header: the tensors cover the data without overlap, with only padding between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// The key-value pairs in file order.
    pub metadata: Metadata,
    /// The tensors in the order of their data. `shard` is 0.
    pub tensors: Vec<TensorInfo>,
    /// Every tensor starts at a multiple of this many bytes from the start of the data.
    pub alignment: u64,
    /// Offset of the data in the file: the length of the header, including padding.
    pub data_start: u64,
}

/// Parses and checks the header of a GGUF file.
///
/// `bytes` is a prefix of the file that contains the header, `file_len` is the length of the whole file in bytes, and
/// `file_name` is for error messages. Memory is bounded by a small multiple of the bytes that the header actually has.
///
/// A tensor of unknown type ends where the next one starts; the last one ends at the end of the file.
///
/// # Errors
/// If the header violates a rule.
pub fn parse_header(bytes: &[u8], file_len: u64, file_name: &str) -> Result<Header, CheckpointError> {
    let file = &bytes[..bytes.len().min(usize::try_from(file_len).unwrap_or(usize::MAX))];
    let raw = RawHeader::read(file, file_name)?;
    let data_start = raw.data_start();
    let held = file_len.saturating_sub(data_start);
    let mut header = raw.check(held, held, file_name)?;
    let covered = header.covered();
    // There may be padding at the end.
    if held > covered.next_multiple_of(header.alignment) {
        return Err(CheckpointError::header(file_name, HeaderRule::Uncovered { covered, held }));
    }
    // The padding of the header may be missing if there is no data.
    header.data_start = data_start.min(file_len);
    Ok(header)
}

/// Parses a raw header, [`Shard::header`](crate::Shard::header), without the data: its length follows from the tensors.
/// A last tensor of unknown type is taken to be empty.
///
/// # Errors
/// As for [`parse_header`], and if bytes follow the header.
pub fn parse_detached_header(bytes: &[u8], file_name: &str) -> Result<Header, CheckpointError> {
    parse_header_for(bytes, &[], file_name)
}

/// Like [`parse_detached_header`], but takes the length of a last tensor of unknown type from `given`.
pub(crate) fn parse_header_for(bytes: &[u8], given: &[TensorSpec], file_name: &str) -> Result<Header, CheckpointError> {
    let raw = RawHeader::read(bytes, file_name)?;
    let last = raw.entries.iter().filter(|entry| entry.kind.is_open()).max_by_key(|entry| entry.offset);
    let spec = last.and_then(|last| given.iter().find(|spec| spec.name == last.name));
    let len = spec.and_then(TensorSpec::byte_len).unwrap_or(0);
    let open_end = last.map_or(0, |last| last.offset.saturating_add(len));

    let (data_start, available) = (raw.data_start(), bytes.len() as u64);
    let mut header = raw.check(u64::MAX, open_end, file_name)?;
    let covered = header.covered();
    if available > data_start {
        let held = available - data_start;
        return Err(CheckpointError::header(file_name, HeaderRule::Uncovered { covered, held }));
    }
    if available < data_start && covered > 0 {
        let rule = GgufRule::CutShort { part: "the header", needed: data_start, left: available };
        return Err(CheckpointError::header(file_name, rule.into()));
    }
    header.data_start = available;
    Ok(header)
}

impl Header {
    /// Returns the bytes of data up to the end of the last tensor.
    fn covered(&self) -> u64 {
        self.tensors.last().map_or(0, |t| t.offsets.end)
    }
}

/// The entry of a tensor, with only its syntax checked.
struct RawEntry {
    name: String,
    /// Slowest dimension first.
    shape: Vec<u64>,
    kind: GgmlType,
    offset: u64,
}

impl RawEntry {
    /// Returns its byte range, which must end at or before `held`. A tensor of unknown type extends to `end`.
    fn range(&self, end: u64, held: u64) -> Result<Range<u64>, TensorRule> {
        let begin = self.offset;
        let end = match self.kind.byte_len(&self.shape)? {
            Some(len) => begin.checked_add(len).ok_or(TensorRule::Overflow)?,
            None => end.max(begin),
        };
        if end > held { Err(TensorRule::PastEnd { end, held }) } else { Ok(begin..end) }
    }
}

/// A header whose tensors are not checked yet.
struct RawHeader {
    version: u32,
    metadata: Metadata,
    entries: Vec<RawEntry>,
    alignment: u64,
    /// Length without padding.
    end: u64,
}

impl RawHeader {
    fn read(bytes: &[u8], file_name: &str) -> Result<RawHeader, CheckpointError> {
        if bytes.is_empty() {
            return Err(CheckpointError::header(file_name, HeaderRule::Empty));
        }
        HeaderRule::check_kind(bytes, FileKind::Gguf).map_err(|rule| CheckpointError::header(file_name, rule))?;
        let limit = bytes.len().min(MAX_HEADER_BYTES as usize);
        RawHeader::parse(&mut Cursor::new(&bytes[..limit])).map_err(|(tensor, rule)| {
            let over = limit < bytes.len() && rule.is_cut();
            let rule = if over { GgufRule::TooLong { max: MAX_HEADER_BYTES } } else { rule };
            match tensor {
                Some(name) => CheckpointError::tensor(file_name, &name, rule.into()),
                None => CheckpointError::header(file_name, rule.into()),
            }
        })
    }

    /// On error, also returns the tensor whose entry is invalid.
    fn parse(cursor: &mut Cursor) -> Result<RawHeader, (Option<String>, GgufRule)> {
        let start = |cursor: &mut Cursor| {
            let version = version(cursor)?;
            let tensors = cursor.u64("the count of tensors")?;
            let metadata = metadata(cursor)?;
            let alignment = alignment(&metadata)?;
            // The smallest entry has a name of one byte and no dimensions.
            Ok((version, metadata, alignment, cursor.fitting("tensors", tensors, 25)?))
        };
        let (version, metadata, alignment, tensors) = start(cursor).map_err(|rule| (None, rule))?;
        let mut entries = Vec::with_capacity(tensors);
        for index in 0..tensors as u64 {
            let nameless = |rule| (None, GgufRule::Entry { index, rule: Box::new(rule) });
            let name = cursor.text("name", MAX_NAME).map_err(nameless)?;
            entries.push(entry(cursor, name).map_err(|rule| (Some(name.to_owned()), rule))?);
        }
        Ok(RawHeader { version, metadata, entries, alignment, end: cursor.position() })
    }

    fn data_start(&self) -> u64 {
        // This cannot overflow: `end` is a length in memory, and the alignment is small.
        self.end.next_multiple_of(self.alignment)
    }

    /// Checks the tensors, which must end at or before `held`. A last tensor of unknown type extends to `open_end`.
    fn check(self, held: u64, open_end: u64, file_name: &str) -> Result<Header, CheckpointError> {
        let data_start = self.data_start();
        let mut begins: Vec<u64> = self.entries.iter().map(|entry| entry.offset).collect();
        begins.sort_unstable();
        let tensor = |entry: RawEntry| {
            let next = begins.get(begins.partition_point(|&begin| begin <= entry.offset)).copied();
            let offsets = entry.range(next.unwrap_or(open_end), held);
            let offsets = offsets.map_err(|rule| CheckpointError::tensor(file_name, &entry.name, rule))?;
            let GgmlType { dtype, name: type_name, .. } = entry.kind;
            Ok(TensorInfo { name: entry.name, dtype, type_name, shape: entry.shape, shard: 0, offsets })
        };
        let mut tensors = self.entries.into_iter().map(tensor).collect::<Result<Vec<_>, CheckpointError>>()?;
        check_names(&mut tensors, file_name)?;
        check_layout(&mut tensors, self.alignment, file_name)?;
        Ok(Header { version: self.version, metadata: self.metadata, tensors, alignment: self.alignment, data_start })
    }
}

fn version(cursor: &mut Cursor) -> Result<u32, GgufRule> {
    let magic = cursor.u32("the magic").map(u32::to_le_bytes);
    if magic.as_ref() != Ok(MAGIC) {
        return Err(GgufRule::NoMagic);
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        version if version & 0xFFFF == 0 && version != 0 => Err(GgufRule::BigEndian),
        version => Err(GgufRule::Version(version)),
    }
}

fn metadata(cursor: &mut Cursor) -> Result<Metadata, GgufRule> {
    // The smallest pair has a key of one byte, a type, and a value of one byte.
    let count = cursor.count("pairs of metadata", 14)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let key = cursor.text("key", MAX_KEY)?;
        let value = cursor.value().map_err(|rule| GgufRule::Key { key: one_line(key), rule: Box::new(rule) })?;
        pairs.push((key.to_owned(), value));
    }
    let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(GgufRule::DuplicateKey(one_line(pair[0]))),
        None => Ok(Metadata::from_unique(pairs)),
    }
}

/// Returns the alignment in the metadata, or the default.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, GgufRule> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() && u64::from(alignment) <= MAX_ALIGNMENT => {
            Ok(alignment.into())
        }
        Some(_) => Err(GgufRule::Alignment { max: MAX_ALIGNMENT }),
    }
}

fn entry(cursor: &mut Cursor, name: &str) -> Result<RawEntry, GgufRule> {
    let dims = cursor.u32("the count of dimensions")?;
    if dims as usize > MAX_DIMS {
        return Err(GgufRule::Dims { dims: dims.into(), max: MAX_DIMS as u64 });
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        shape.push(cursor.u64("a dimension")?);
    }
    shape.reverse();
    let kind = GgmlType::of(cursor.u32("the type of a tensor")?);
    let offset = cursor.u64("the offset of a tensor")?;
    Ok(RawEntry { name: name.to_owned(), shape, kind, offset })
}
