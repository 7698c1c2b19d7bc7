//! Reads, checks and writes safetensors headers.

use impasto_core::{DType, FileKind};

use crate::error::{CheckpointError, one_line};
use crate::json::{METADATA, Place, RawEntry, parse_raw_header};
use crate::rules::{HeaderRule, TensorRule};
use crate::tensor::{TensorInfo, TensorSpec, byte_count, check_layout, check_names, check_type_name};

/// Largest length of a header in bytes, as in the reference implementation of safetensors.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the length field before the header.
const LENGTH_BYTES: usize = 8;

/// A valid header: the tensors cover the data without overlap or gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The pairs of `__metadata__` in file order, if present.
    pub metadata: Option<Vec<(String, String)>>,
    /// The tensors in the order of their data. `shard` is 0.
    pub tensors: Vec<TensorInfo>,
    /// Offset of the data in the file: the length field and the header, including padding.
    pub data_start: u64,
}

/// Parses and checks the header of a safetensors file.
///
/// `bytes` is a prefix of the file that contains the header, `file_len` is the length of the whole file in bytes, and
/// `file_name` is for error messages. Memory is bounded by a small multiple of the bytes that the header actually has.
///
/// # Errors
/// If the header violates a rule.
pub fn parse_header(bytes: &[u8], file_len: u64, file_name: &str) -> Result<Header, CheckpointError> {
    let (header, covered) = parse(bytes, file_len, file_name)?;
    let held = file_len.saturating_sub(header.data_start);
    if covered != held {
        let rule = HeaderRule::Uncovered { covered, held };
        return Err(CheckpointError::header(file_name, rule));
    }
    Ok(header)
}

/// Parses a raw header, [`Shard::header`](crate::Shard::header), without the data: its length follows from the tensors.
///
/// # Errors
/// As for [`parse_header`], and if bytes follow the header.
pub fn parse_detached_header(bytes: &[u8], file_name: &str) -> Result<Header, CheckpointError> {
    let (header, covered) = parse(bytes, u64::MAX, file_name)?;
    let held = (bytes.len() as u64).saturating_sub(header.data_start);
    if held != 0 {
        let rule = HeaderRule::Uncovered { covered, held };
        return Err(CheckpointError::header(file_name, rule));
    }
    Ok(header)
}

/// Returns the header, and the number of bytes that its tensors cover.
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
    let covered = check_layout(&mut tensors, 1, file_name)?;
    let metadata = raw.metadata.map(|m| m.0);
    Ok((Header { metadata, tensors, data_start }, covered))
}

/// Returns the JSON text between the length field and the data.
fn header_text(bytes: &[u8], file_len: u64) -> Result<&str, HeaderRule> {
    HeaderRule::check_kind(bytes, FileKind::Safetensors)?;
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

/// Checks an entry on its own: its range is within the data, and equals the size of its shape if the dtype is known.
fn check_tensor(name: String, entry: RawEntry, held: u64) -> Result<TensorInfo, (String, TensorRule)> {
    match check_entry(&entry, held) {
        Ok(dtype) => {
            let [begin, end] = entry.data_offsets;
            let type_name = (dtype == DType::Opaque).then_some(entry.dtype);
            Ok(TensorInfo { name, dtype, type_name, shape: entry.shape, shard: 0, offsets: begin..end })
        }
        Err(rule) => Err((name, rule)),
    }
}

fn check_entry(entry: &RawEntry, held: u64) -> Result<DType, TensorRule> {
    let dtype = DType::from_name(&entry.dtype).unwrap_or(DType::Opaque);
    let [begin, end] = entry.data_offsets;
    if begin > end {
        return Err(TensorRule::Backwards { begin, end });
    }
    let needed = byte_count(&entry.shape, 1, dtype.size() as u64)?;
    if dtype == DType::Opaque {
        // Elements of an unknown dtype may have any size, such as 4 or 6 bits.
        check_type_name(&entry.dtype)?;
    } else if needed != end - begin {
        return Err(TensorRule::Size { needed, held: end - begin });
    }
    if end > held {
        return Err(TensorRule::PastEnd { end, held });
    }
    Ok(dtype)
}

/// Encodes a header for tensors that are stored in the given order: length field and JSON, padded with spaces to a
/// multiple of 8 bytes. Also returns the length of the whole file.
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
        let broken = |rule| CheckpointError::tensor(file_name, &tensor.name, rule);
        let dtype = dtype_name(tensor).map_err(broken)?;
        let begin = end;
        let bytes = tensor.checked_len().map_err(broken)?;
        end = begin.checked_add(bytes).ok_or_else(|| broken(TensorRule::Overflow))?;
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        entries.push(format!(
            r#"{}:{{"dtype":{},"shape":[{}],"data_offsets":[{begin},{end}]}}"#,
            quoted(&tensor.name),
            quoted(dtype),
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

/// Returns the name of a tensor's type in safetensors.
fn dtype_name(tensor: &TensorSpec) -> Result<&str, TensorRule> {
    match &tensor.opaque {
        Some(opaque) => Ok(&opaque.name),
        None if DType::PLAIN.contains(&tensor.dtype) => Ok(tensor.dtype.name()),
        None => Err(TensorRule::NoSuchType { format: "safetensors", dtype: tensor.dtype.name().to_owned() }),
    }
}

/// Returns text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
