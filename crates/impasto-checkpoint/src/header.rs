//! The safetensors header: checked reading, and writing.

use std::ops::Range;

use impasto_codec::DType;

use crate::error::{CheckpointError, one_line};
use crate::json::{METADATA, Place, RawEntry, parse_raw_header};
use crate::rules::{HeaderRule, TensorRule};
use crate::writer::TensorSpec;

/// The longest header in bytes, as in the reference implementation of safetensors.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the field that holds the length of the header.
const LENGTH_BYTES: usize = 8;

/// A tensor of a checkpoint: what it is and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the checkpoint.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The extents, slowest first; empty for a scalar.
    pub shape: Vec<u64>,
    /// The place of its file in [`Checkpoint::shards`](crate::Checkpoint::shards).
    pub shard: usize,
    /// Its bytes, counted from the begin of the file's data.
    pub(crate) offsets: Range<u64>,
}

impl TensorInfo {
    /// Its bytes in the file, counted from the begin of the data.
    pub fn offsets(&self) -> Range<u64> {
        self.offsets.clone()
    }

    /// How many bytes it has.
    pub fn byte_len(&self) -> u64 {
        self.offsets.end - self.offsets.start
    }

    /// How many elements it has.
    pub fn elements(&self) -> u64 {
        self.byte_len() / self.dtype.size() as u64
    }
}

/// A header that keeps every rule: the tensors fill the data without overlap or hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The pairs of `__metadata__` in file order, if the header has it.
    pub metadata: Option<Vec<(String, String)>>,
    /// The tensors in the order of their bytes, `shard` being 0.
    pub tensors: Vec<TensorInfo>,
    /// Where the data begins in the file: the length field and the header, padding included.
    pub data_start: u64,
}

/// Parses and checks the header of a safetensors file.
///
/// `bytes` is the file or any part of it that begins at its begin and holds the header; `file_len`
/// is the length of the whole file in bytes; `file_name` goes into the messages. Memory is bounded
/// by a small multiple of the header's bytes that are really there.
///
/// # Errors
/// The first rule that the header breaks.
pub fn parse_header(bytes: &[u8], file_len: u64, file_name: &str) -> Result<Header, CheckpointError> {
    let (header, covered) = parse(bytes, file_len, file_name)?;
    let held = file_len.saturating_sub(header.data_start);
    if covered != held {
        let rule = HeaderRule::Uncovered { covered, held };
        return Err(CheckpointError::header(file_name, rule));
    }
    Ok(header)
}

/// Parses the raw header of a file whose data is elsewhere, [`Shard::header`](crate::Shard::header): the data is as long as the
/// tensors say.
///
/// # Errors
/// As [`parse_header`]; bytes after the header are one too.
pub fn parse_detached_header(bytes: &[u8], file_name: &str) -> Result<Header, CheckpointError> {
    let (header, covered) = parse(bytes, u64::MAX, file_name)?;
    let held = (bytes.len() as u64).saturating_sub(header.data_start);
    if held != 0 {
        let rule = HeaderRule::Uncovered { covered, held };
        return Err(CheckpointError::header(file_name, rule));
    }
    Ok(header)
}

/// The header, and the bytes of data that its tensors cover.
fn parse(bytes: &[u8], file_len: u64, file_name: &str) -> Result<(Header, u64), CheckpointError> {
    let broken = |rule| CheckpointError::header(file_name, rule);
    let json = header_text(bytes, file_len).map_err(broken)?;
    let raw = parse_raw_header(json).map_err(|(place, error)| {
        let error = one_line(&error.to_string());
        match place {
            Place::Header => broken(HeaderRule::Json(error)),
            Place::Metadata => broken(HeaderRule::Metadata(error)),
            Place::Tensor(name) => CheckpointError::tensor(file_name, &name, TensorRule::Entry(error)),
        }
    })?;
    if let Some(key) = raw.metadata.as_ref().and_then(|m| m.duplicate()) {
        return Err(broken(HeaderRule::DuplicateMetadata(one_line(key))));
    }

    let data_start = (LENGTH_BYTES + json.len()) as u64;
    let held = file_len.saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        let tensor =
            check_tensor(name, entry, held).map_err(|(name, rule)| CheckpointError::tensor(file_name, &name, rule))?;
        tensors.push(tensor);
    }
    check_names(&mut tensors, file_name)?;
    let covered = check_layout(&mut tensors, file_name)?;
    let metadata = raw.metadata.map(|m| m.0);
    Ok((Header { metadata, tensors, data_start }, covered))
}

/// The JSON text between the length field and the data.
fn header_text(bytes: &[u8], file_len: u64) -> Result<&str, HeaderRule> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(match bytes.len() {
            0 => HeaderRule::Empty,
            len => HeaderRule::Short { len: len as u64 },
        });
    };
    let len = u64::from_le_bytes(*length);
    if len > MAX_HEADER_BYTES {
        return Err(HeaderRule::TooLong { len, max: MAX_HEADER_BYTES });
    }
    let available = (rest.len() as u64).min(file_len.saturating_sub(LENGTH_BYTES as u64));
    if len > available {
        return Err(HeaderRule::PastEnd { len, available });
    }
    let text = &rest[..len as usize];
    if text.first() != Some(&b'{') {
        return Err(HeaderRule::NotAnObject);
    }
    std::str::from_utf8(text).map_err(|error| HeaderRule::Utf8(error.to_string()))
}

/// One entry by itself: a known dtype, a range inside the data, a shape that fills it.
fn check_tensor(name: String, entry: RawEntry, held: u64) -> Result<TensorInfo, (String, TensorRule)> {
    match checked_entry(entry, held) {
        Ok((dtype, shape, offsets)) => Ok(TensorInfo { name, dtype, shape, shard: 0, offsets }),
        Err(rule) => Err((name, rule)),
    }
}

fn checked_entry(entry: RawEntry, held: u64) -> Result<(DType, Vec<u64>, Range<u64>), TensorRule> {
    let dtype = DType::from_name(&entry.dtype).ok_or_else(|| TensorRule::UnknownDtype(one_line(&entry.dtype)))?;
    let [begin, end] = entry.data_offsets;
    if begin > end {
        return Err(TensorRule::Backwards { begin, end });
    }
    let needed = byte_count(dtype, &entry.shape).ok_or(TensorRule::Overflow)?;
    if needed != end - begin {
        return Err(TensorRule::Size { needed, held: end - begin });
    }
    if end > held {
        return Err(TensorRule::PastEnd { end, held });
    }
    Ok((dtype, entry.shape, begin..end))
}

/// Bytes of a tensor; `None` if they, or a product on the way from the first extent, overflow.
pub(crate) fn byte_count(dtype: DType, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent))?;
    elements.checked_mul(dtype.size() as u64)
}

/// No name comes twice. Leaves the tensors sorted by name.
fn check_names(tensors: &mut [TensorInfo], file_name: &str) -> Result<(), CheckpointError> {
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(CheckpointError::tensor(file_name, &pair[0].name, TensorRule::Duplicate)),
        None => Ok(()),
    }
}

/// Each tensor begins where the one before it ends. Leaves the tensors in the order of their bytes
/// (those of no bytes before the one that begins at the same place) and returns the last end.
fn check_layout(tensors: &mut [TensorInfo], file_name: &str) -> Result<u64, CheckpointError> {
    // A stable sort: equal ranges stay sorted by name.
    tensors.sort_by_key(|t| (t.offsets.start, t.offsets.end));
    let mut previous = 0;
    for tensor in tensors.iter() {
        let begin = tensor.offsets.start;
        if begin != previous {
            let rule = if begin < previous {
                TensorRule::Overlap { begin, previous }
            } else {
                TensorRule::Hole { begin, previous }
            };
            return Err(CheckpointError::tensor(file_name, &tensor.name, rule));
        }
        previous = tensor.offsets.end;
    }
    Ok(previous)
}

/// The header for tensors that follow each other in the given order: length field and JSON, padded
/// with spaces to a multiple of 8 bytes. Returns it with the total length of the file.
///
/// Only sizes are checked here; [`parse_header`] checks the rest.
pub(crate) fn encode_header(
    metadata: Option<&[(String, String)]>,
    tensors: &[TensorSpec],
    file_name: &str,
) -> Result<(Vec<u8>, u64), CheckpointError> {
    let mut entries = Vec::with_capacity(tensors.len() + 1);
    if let Some(metadata) = metadata {
        let pairs: Vec<String> = metadata.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
        entries.push(format!("{}:{{{}}}", quoted(METADATA), pairs.join(",")));
    }
    let mut end = 0u64;
    for tensor in tensors {
        let begin = end;
        end = byte_count(tensor.dtype, &tensor.shape)
            .and_then(|bytes| begin.checked_add(bytes))
            .ok_or_else(|| CheckpointError::tensor(file_name, &tensor.name, TensorRule::Overflow))?;
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        entries.push(format!(
            r#"{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
            quoted(&tensor.name),
            tensor.dtype.name(),
            shape.join(","),
        ));
    }
    let mut json = format!("{{{}}}", entries.join(","));
    while json.len() % 8 != 0 {
        json.push(' ');
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    let file_len = end.saturating_add(header.len() as u64);
    Ok((header, file_len))
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
