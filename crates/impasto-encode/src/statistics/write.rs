//! Writes a file of statistics.

use std::collections::BTreeMap;
use std::path::Path;

use impasto_checkpoint::{CheckpointError, TensorSpec, TensorWriter};
use impasto_core::DType;

use super::{INFO, Info, covariance_name, rows_name};
use crate::error::EncodeError;

/// A function that takes bytes.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), CheckpointError> + 'a;

/// Writes statistics to `path`. `rows` has the row weights by tensor. `covariance` is called for each group of `info`
/// and writes the lower triangle to its sink: F32, row-major, little-endian.
///
/// # Errors
/// If the file cannot be written. What was at `path` then stays.
pub fn write(
    path: &Path,
    info: &Info,
    rows: &BTreeMap<String, Vec<f32>>,
    mut covariance: impl FnMut(&str, &mut Sink) -> Result<(), CheckpointError>,
) -> Result<(), EncodeError> {
    let json = serde_json::to_vec(info).map_err(|e| EncodeError::Layout(e.to_string()))?;
    let triangle = |inputs: u64| inputs.saturating_mul(inputs.saturating_add(1)) / 2;
    let covariances = info
        .groups
        .iter()
        .map(|(name, group)| TensorSpec::new(covariance_name(name), DType::F32, [triangle(group.inputs)]));
    let rows_of = rows.iter().map(|(name, rows)| TensorSpec::new(rows_name(name), DType::F32, [rows.len() as u64]));
    let specs: Vec<TensorSpec> =
        covariances.chain(rows_of).chain([TensorSpec::new(INFO, DType::U8, [json.len() as u64])]).collect();
    let mut writer = TensorWriter::safetensors(path, None, &specs)?;
    for name in info.groups.keys() {
        covariance(name, &mut |bytes| writer.write(bytes))?;
    }
    for rows in rows.values() {
        writer.write(&rows.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    writer.write(&json)?;
    Ok(writer.finish()?)
}
