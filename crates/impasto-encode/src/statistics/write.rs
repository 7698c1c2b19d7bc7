//! Writes a file of statistics.

use std::collections::BTreeMap;
use std::path::Path;

use impasto_checkpoint::{CheckpointError, TensorSpec, TensorWriter};
use impasto_core::DType;

use super::{INFO, Info, WHOLE, correlations_name, rows_name, squares_name};
use crate::error::EncodeError;

/// A function that takes bytes.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), CheckpointError> + 'a;

/// The lower triangle of a covariance, on its way to correlations.
#[derive(Default)]
struct Triangle {
    /// The row that is not complete yet.
    row: Vec<f32>,
    /// The diagonal, as it is stored, and its roots.
    squares: Vec<u8>,
    deviations: Vec<f64>,
}

impl Triangle {
    /// Takes whole values; passes on the correlations of each complete row.
    fn push(&mut self, bytes: &[u8], out: &mut Sink) -> Result<(), CheckpointError> {
        for &value in bytes.as_chunks().0 {
            self.row.push(f32::from_le_bytes(value));
            if self.row.len() > self.deviations.len() {
                let own = self.row.pop().unwrap_or(0.0);
                let deviation = f64::from(own).sqrt();
                let correlation = |(&x, other): (&f32, &f64)| {
                    let most = deviation * other;
                    let ratio = if most > 0.0 { f64::from(x) / most } else { 0.0 };
                    (ratio.clamp(-1.0, 1.0) * WHOLE).round_ties_even() as i16
                };
                let row = self.row.iter().zip(&self.deviations).map(correlation);
                out(&row.flat_map(i16::to_le_bytes).collect::<Vec<u8>>())?;
                self.row.clear();
                self.squares.extend(own.to_le_bytes());
                self.deviations.push(deviation);
            }
        }
        Ok(())
    }
}

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
    let below = |inputs: u64| inputs.saturating_mul(inputs.saturating_sub(1)) / 2;
    let covariances = info.groups.iter().flat_map(|(name, group)| {
        [
            TensorSpec::new(correlations_name(name), DType::I16, [below(group.inputs)]),
            TensorSpec::new(squares_name(name), DType::F32, [group.inputs]),
        ]
    });
    let rows_of = rows.iter().map(|(name, rows)| TensorSpec::new(rows_name(name), DType::F32, [rows.len() as u64]));
    let specs: Vec<TensorSpec> =
        covariances.chain(rows_of).chain([TensorSpec::new(INFO, DType::U8, [json.len() as u64])]).collect();
    let mut writer = TensorWriter::safetensors(path, None, &specs)?;
    for name in info.groups.keys() {
        let mut triangle = Triangle::default();
        covariance(name, &mut |bytes| triangle.push(bytes, &mut |row| writer.write(row)))?;
        writer.write(&triangle.squares)?;
    }
    for rows in rows.values() {
        writer.write(&rows.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    writer.write(&json)?;
    Ok(writer.finish()?)
}
