//! Writes the header of a GGUF file, version 3.

use super::header::alignment;
use super::metadata::Metadata;
use super::rules::GgufRule;
use super::types::number;
use super::value::{Array, Value};
use crate::error::CheckpointError;
use crate::rules::TensorRule;
use crate::shard::MAGIC;
use crate::tensor::TensorSpec;

/// The version that is written.
const VERSION: u32 = 3;

/// Limits of ggml: dimensions of a tensor, and bytes of its name.
const GGML_DIMS: u64 = 4;
const GGML_NAME: u64 = 63;

/// Encodes a header, including its padding, for tensors that are stored in the given order. `file_name` is for error
/// messages.
///
/// # Errors
/// If ggml would refuse the file: invalid alignment, unknown type, too many dimensions, a name that is too long, or a
/// size that overflows. Duplicate keys and names are left for [`parse_header`](super::parse_header) to find.
pub fn encode_header(metadata: &Metadata, tensors: &[TensorSpec], file_name: &str) -> Result<Vec<u8>, CheckpointError> {
    let alignment = alignment(metadata).map_err(|rule| CheckpointError::header(file_name, rule.into()))?;
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut out, key.as_bytes());
        out.extend((value.value_type() as u32).to_le_bytes());
        put_value(&mut out, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        let broken = |rule| CheckpointError::tensor(file_name, &tensor.name, rule);
        put_entry(&mut out, tensor, offset).map_err(broken)?;
        let end = offset.checked_add(tensor.checked_len().map_err(broken)?);
        offset =
            end.and_then(|end| end.checked_next_multiple_of(alignment)).ok_or_else(|| broken(TensorRule::Overflow))?;
    }
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
    Ok(out)
}

fn put_entry(out: &mut Vec<u8>, tensor: &TensorSpec, offset: u64) -> Result<(), TensorRule> {
    let (name, dims) = (tensor.name.len() as u64, tensor.shape.len() as u64);
    if name > GGML_NAME {
        return Err(GgufRule::Length { part: "name", len: name, max: GGML_NAME }.into());
    }
    if dims > GGML_DIMS {
        return Err(GgufRule::Dims { dims, max: GGML_DIMS }.into());
    }
    put_string(out, tensor.name.as_bytes());
    out.extend((dims as u32).to_le_bytes());
    out.extend(tensor.shape.iter().rev().flat_map(|extent| extent.to_le_bytes()));
    out.extend(number(tensor)?.to_le_bytes());
    out.extend(offset.to_le_bytes());
    Ok(())
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(n) => out.extend(n.to_le_bytes()),
        Value::I8(n) => out.extend(n.to_le_bytes()),
        Value::U16(n) => out.extend(n.to_le_bytes()),
        Value::I16(n) => out.extend(n.to_le_bytes()),
        Value::U32(n) => out.extend(n.to_le_bytes()),
        Value::I32(n) => out.extend(n.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::U64(n) => out.extend(n.to_le_bytes()),
        Value::I64(n) => out.extend(n.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
        Value::Bool(truth) => out.push((*truth).into()),
        Value::String(bytes) => put_string(out, bytes),
        Value::Array(array) => put_array(out, array),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend((array.element_type() as u32).to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(list) => out.extend(list),
        Array::I8(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
        Array::U16(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
        Array::I16(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
        Array::U32(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
        Array::I32(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
        Array::F32(list) => out.extend(list.iter().flat_map(|x| x.to_le_bytes())),
        Array::U64(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
        Array::I64(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
        Array::F64(list) => out.extend(list.iter().flat_map(|x| x.to_le_bytes())),
        Array::Bool(list) => out.extend(list.iter().map(|&truth| u8::from(truth))),
        Array::String(list) => list.iter().for_each(|bytes| put_string(out, bytes)),
        Array::Array(list) => list.iter().for_each(|array| put_array(out, array)),
    }
}
