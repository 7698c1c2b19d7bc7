//! A checkpoint as a GGUF in the block types of llama.cpp, rounded with error feedback.
//!
//! Types and sizes are those of `llama-quantize` under the same name ([`GgufMix`]), but for some of the architecture falcon. What differs are the numbers in the blocks:
//! they are chosen under the covariance of the inputs, block by block, and each block makes up for the errors of the others (`ggml`).

mod mix;
mod plan;

use std::path::Path;

use half::f16;
use impasto_checkpoint::{Change, Checkpoint, TensorInfo, TensorSpec, TensorWriter};
use impasto_core::blocks::apart::Form;
use impasto_core::{DType, values};
use rayon::prelude::*;

use crate::calibrate::model_hash;
use crate::error::{EncodeError, heard};
use crate::feedback::WIDTH;
use crate::ggml::{BlockMetric, BlockRounder};
use crate::job::is_input;
use crate::metric::ROUNDED;
use crate::options::{Progress, Watch};
use crate::statistics::Statistics;
pub use mix::GgufMix;
use plan::{Content, Plan, Planned, plan};

/// Rows that are rounded before they are written.
const BAND: usize = 64 * WIDTH;
/// Bytes per column that a thread works with while it rounds 16 rows: the parts of blocks, targets, errors.
const PER_COLUMN: u64 = 1024;

/// Options of [`quantize`].
#[derive(Clone, Copy, Debug)]
pub struct QuantizeOptions {
    /// The types of the matrices.
    pub mix: GgufMix,
    /// Number of threads; 0 means one per core. The file does not depend on it.
    pub threads: usize,
    /// Approximate limit on memory, in bytes, without mapped files; `None` for no limit.
    pub memory_limit: Option<u64>,
}

/// A tensor of a GGUF that was written.
#[derive(Clone, Debug)]
pub struct QuantizedTensor {
    /// Its name in the GGUF.
    pub name: String,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Its type.
    pub dtype: DType,
    /// Its bytes.
    pub bytes: u64,
    /// The mean square error of its outputs, given the inputs of the calibration text; of its weights if it was not calibrated; `None` if
    /// it was not rounded to blocks.
    pub error: Option<f64>,
    /// Whether the covariance of its inputs is known.
    pub is_calibrated: bool,
}

/// The result of [`quantize`].
#[derive(Clone, Debug)]
pub struct QuantizeReport {
    /// The tensors, in the order of the file.
    pub tensors: Vec<QuantizedTensor>,
    /// Number of weights.
    pub weights: u64,
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

/// Writes a checkpoint as a GGUF of a mix of block types to `path`, atomically.
///
/// With statistics, errors are placed where they matter least for the text that these were measured on; without, every weight of a
/// block counts the same. `watch` is called before each tensor and can cancel with [`EncodeError::Cancelled`].
///
/// ```
/// use std::ops::ControlFlow;
///
/// use impasto_checkpoint::Checkpoint;
/// use impasto_encode::{GgufMix, QuantizeOptions, quantize};
///
/// let folder = tempfile::tempdir()?;
/// let model = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny").as_ref())?;
/// let options = QuantizeOptions { mix: GgufMix::Q4KM, threads: 0, memory_limit: None };
/// let path = folder.path().join("tiny-q4_k_m.gguf");
/// let report = quantize(&model, &path, &options, None, &|_progress| ControlFlow::Continue(()))?;
/// assert_eq!(report.bytes, std::fs::metadata(&path)?.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`EncodeError`]: if a GGUF cannot express the model, a matrix contains NaN, infinity or a weight above 65504, or memory would exceed
/// its limit. What was at `path` then stays.
pub fn quantize(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &QuantizeOptions,
    statistics: Option<&Statistics>,
    watch: Watch<'_>,
) -> Result<QuantizeReport, EncodeError> {
    if is_input(checkpoint, path) {
        return Err(EncodeError::OverInput(path.display().to_string()));
    }
    if let Some(statistics) = statistics
        && statistics.info().model != model_hash(checkpoint)?.to_hex().as_str()
    {
        return Err(EncodeError::OtherModel { file: statistics.name().to_owned() });
    }
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or("model");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|error| EncodeError::Threads(error.to_string()))?;
    pool.install(|| {
        let plan = plan(checkpoint, name, options.mix, statistics)?;
        let mut job = Job { checkpoint, statistics, metric: None };
        job.check_memory(&plan, options.memory_limit)?;
        job.write(plan, path, watch)
    })
}

/// A group of inputs: its name, the damping and the columns of a block.
type Key = (String, u64, usize);

struct Job<'a> {
    checkpoint: &'a Checkpoint,
    statistics: Option<&'a Statistics>,
    /// That of the last tensor with a covariance.
    metric: Option<(Key, BlockMetric)>,
}

impl Job<'_> {
    /// # Errors
    /// If a tensor takes more than the limit.
    fn check_memory(&self, plan: &Plan, limit: Option<u64>) -> Result<(), EncodeError> {
        let threads = rayon::current_num_threads() as u64;
        for tensor in &plan.tensors {
            let columns = tensor.dims().last().copied().unwrap_or(1);
            let squares = if input(self.statistics, tensor).is_some() {
                columns.saturating_mul(columns).saturating_mul(16)
            } else {
                0
            };
            let rows = columns.saturating_mul(threads * PER_COLUMN + 4 * BAND as u64);
            let needed = squares.saturating_add(rows);
            if let Some(limit) = limit.filter(|&limit| needed > limit && tensor.dtype.is_block()) {
                return Err(EncodeError::TensorMemory { tensor: tensor.name.clone(), needed, limit });
            }
        }
        Ok(())
    }

    fn write(&mut self, plan: Plan, path: &Path, watch: Watch<'_>) -> Result<QuantizeReport, EncodeError> {
        let spec = |tensor: &Planned| TensorSpec::new(tensor.name.clone(), tensor.dtype, tensor.dims());
        let specs: Vec<TensorSpec> = plan.tensors.iter().map(spec).collect();
        let mut writer = TensorWriter::gguf(path, &plan.metadata, &specs)?;
        let mut report = QuantizeReport { tensors: vec![], weights: 0, bytes: 0, notes: plan.notes };
        for (i, (tensor, spec)) in plan.tensors.iter().zip(&specs).enumerate() {
            heard(watch(Progress::Coding(&tensor.name, i, specs.len())))?;
            let (error, is_calibrated) = self.write_tensor(tensor, &mut writer)?;
            let (shape, bytes) = (spec.shape.clone(), spec.byte_len().unwrap_or(0));
            report.weights += shape.iter().product::<u64>();
            let (name, dtype) = (tensor.name.clone(), tensor.dtype);
            report.tensors.push(QuantizedTensor { name, shape, dtype, bytes, error, is_calibrated });
        }
        self.checkpoint.check()?;
        self.statistics.map_or(Ok(()), Statistics::check)?;
        writer.finish()?;
        let length = std::fs::metadata(path).map(|found| found.len());
        report.bytes = length.unwrap_or_else(|_| report.tensors.iter().map(|tensor| tensor.bytes).sum());
        Ok(report)
    }

    /// Writes a tensor. Returns its error, if it was rounded to blocks, and whether a covariance was used.
    fn write_tensor(
        &mut self,
        tensor: &Planned,
        writer: &mut TensorWriter,
    ) -> Result<(Option<f64>, bool), EncodeError> {
        let (info, change) = match &tensor.content {
            Content::Values(values) => {
                writer.write(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
                return Ok((None, false));
            }
            Content::Tensor { info, change, .. } => (*info, *change),
        };
        let source = Source::new(self.checkpoint, tensor, info, change);
        if tensor.dtype == info.dtype && change == Change::None {
            writer.write(source.bytes)?;
            self.checkpoint.release(info);
            return Ok((None, false));
        }
        if !tensor.dtype.is_block() {
            for r in 0..source.rows {
                writer.write(&to_bytes(tensor, &source.row(r)?)?)?;
            }
            self.checkpoint.release(info);
            return Ok((None, false));
        }
        let made;
        let (metric, is_calibrated) = match self.metric_of(tensor, source.columns)? {
            Some(metric) => (metric, true),
            None => {
                made = BlockMetric::identity(source.columns, tensor.dtype.weights());
                (&made, false)
            }
        };
        let unknown = || EncodeError::Tensor { tensor: tensor.name.clone(), rule: "no blocks of its type are written" };
        let rounder = BlockRounder::new(tensor.dtype, metric).ok_or_else(unknown)?;
        let mut sum = 0.0;
        for first in (0..source.rows).step_by(BAND) {
            let end = source.rows.min(first + BAND);
            let round = |from: usize| {
                let mut weights = Vec::with_capacity(WIDTH * source.columns);
                for r in from..end.min(from + WIDTH) {
                    let row = source.row(r)?;
                    check(tensor, &row)?;
                    weights.extend(row);
                }
                Ok(rounder.round(&weights))
            };
            let starts: Vec<usize> = (first..end).step_by(WIDTH).collect();
            let rounded: Result<Vec<(Vec<u8>, f64)>, EncodeError> = starts.into_par_iter().map(round).collect();
            for (bytes, error) in rounded? {
                writer.write(&bytes)?;
                sum += error;
            }
        }
        self.checkpoint.release(info);
        Ok((Some(sum / source.rows.max(1) as f64), is_calibrated))
    }

    /// Returns the metric of a tensor, if its inputs were measured.
    fn metric_of(&mut self, tensor: &Planned, columns: usize) -> Result<Option<&BlockMetric>, EncodeError> {
        let Some((statistics, (group, damping))) = self.statistics.zip(input(self.statistics, tensor)) else {
            return Ok(None);
        };
        let width = tensor.dtype.weights();
        let key: Key = (group.to_owned(), damping.to_bits(), width);
        if self.metric.as_ref().is_none_or(|(kept, _)| *kept != key) {
            let broken = |rule: &str| EncodeError::Statistics {
                file: statistics.name().to_owned(),
                rule: format!("covariance of {group:?}: {rule}"),
            };
            if statistics.inputs(group) != Some(columns) {
                return Err(broken("a tensor with this input has a different number of columns"));
            }
            // Room is made first.
            self.metric = None;
            let damped = |more: &f64| {
                let (n, covariance) = statistics.covariance(group)?;
                BlockMetric::new(covariance, n, damping + more, width)
            };
            let found = ROUNDED.iter().find_map(damped).ok_or_else(|| broken("it is not positive definite"))?;
            self.metric = Some((key, found));
        }
        Ok(self.metric.as_ref().map(|(_, metric)| metric))
    }
}

/// Returns the group of the inputs of a tensor and its damping, if they were measured.
fn input<'s>(statistics: Option<&'s Statistics>, tensor: &Planned) -> Option<(&'s str, f64)> {
    let Content::Tensor { measured_as, .. } = &tensor.content else { return None };
    let linear = statistics?.info().linears.get(measured_as)?;
    Some((linear.input.as_deref()?, linear.damping))
}

/// A tensor of the checkpoint as the rows of a GGUF.
struct Source<'a> {
    name: &'a str,
    dtype: DType,
    bytes: &'a [u8],
    change: Change,
    rows: usize,
    columns: usize,
    row_bytes: usize,
}

impl<'a> Source<'a> {
    fn new(checkpoint: &'a Checkpoint, tensor: &'a Planned, info: &TensorInfo, change: Change) -> Source<'a> {
        let columns = info.shape.last().copied().unwrap_or(1) as usize;
        let rows = info.shape.split_last().map_or(1, |(_, rows)| rows.iter().product::<u64>()) as usize;
        let row_bytes = columns / info.dtype.weights() * info.dtype.size();
        let bytes = checkpoint.bytes(info);
        Source { name: &tensor.name, dtype: info.dtype, bytes, change, rows, columns, row_bytes }
    }

    /// Returns the weights of a row.
    fn row(&self, row: usize) -> Result<Vec<f32>, EncodeError> {
        let own = self.change.hf_row(row as u64) as usize;
        let bytes = own.checked_mul(self.row_bytes).and_then(|from| self.bytes.get(from..from + self.row_bytes));
        let mut weights = Vec::with_capacity(self.columns);
        if !bytes.is_some_and(|bytes| values::to_f32(self.dtype, bytes, &mut weights)) {
            return Err(EncodeError::Tensor { tensor: self.name.to_owned(), rule: "its elements are not weights" });
        }
        self.change.values_to_gguf(&mut weights);
        Ok(weights)
    }
}

/// # Errors
/// If blocks cannot hold a weight.
fn check(tensor: &Planned, weights: &[f32]) -> Result<(), EncodeError> {
    let broken = |rule| Err(EncodeError::Tensor { tensor: tensor.name.clone(), rule });
    match weights.iter().find(|w| w.is_nan() || w.abs() > f16::MAX.to_f32()) {
        None => Ok(()),
        Some(w) if w.is_finite() => broken("it has a weight above 65504, the largest number of 16 bits"),
        Some(_) => broken("it contains NaN or infinity, which blocks cannot hold"),
    }
}

/// Converts weights to plain floats.
///
/// # Errors
/// If one is too large for 16 bits.
fn to_bytes(tensor: &Planned, weights: &[f32]) -> Result<Vec<u8>, EncodeError> {
    if tensor.dtype == DType::F16 {
        check(tensor, weights)?;
        return Ok(weights.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect());
    }
    debug_assert!(tensor.dtype == DType::F32 && Form::of(tensor.dtype).is_none(), "{:?}", tensor.dtype);
    Ok(weights.iter().flat_map(|w| w.to_le_bytes()).collect())
}
