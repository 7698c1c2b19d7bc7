//! The memory of encoding with loss or over a base: what it needs, and what a limit leaves for factored covariances.
//!
//! Estimates are upper bounds of what is allocated. They leave out the assets, such as the tokenizer, and mapped files,
//! whose pages the system can take back. Among these is the file that the elements of a base are decoded to; decoding them takes
//! less than what is counted for tiles, and is done before.

use crate::code::{BATCH, MOST_ROWS};
use crate::error::EncodeError;
use crate::feedback::WIDTH;
use crate::low_rank::MOST_WEIGHTS;
use crate::metric::{Metric, factor_bytes};
use crate::model::Tensor;
use crate::options::Options;
use crate::scales::Scales;
use crate::tiles::TARGET_BYTES;

/// Largest total size of factored covariances that are kept, in bytes.
const MOST_KEPT: u64 = 1 << 29;
/// Bytes that a thread works with while it codes a tile.
const TILE_WORK: u64 = 16 << 20;
/// Bytes per row, and per column for each thread: classes, steps, sums of costs, rows that are rounded together.
const PER_ROW: u64 = 64;
const PER_COLUMN: u64 = 512;
/// Times that on a trellis, where a thread rounds the rows of a segment together.
const TOGETHER: u64 = (MOST_ROWS / WIDTH) as u64;
/// Bytes per row and column while a low-rank part is sought: up to 64 vectors in binary64, twice. Nothing else of the tensor is
/// in memory then.
const PER_VECTORS: u64 = 1024;
/// Bytes per weight of the error of rounding, whitened, and of the decoded weights, while it is approximated.
const ERROR: u64 = 8;

/// Bytes per weight of the intervals that a merged adapter is sought in, and of their weights in the equations of its factors.
const INTERVALS: u64 = 12;
/// Bytes per row and column of these equations, for 16 terms: matrices and gradients in binary64, and products of factors.
const PER_EQUATION: u64 = 6144;

/// A tensor that is coded with loss, or kept exactly (without a metric).
pub type Entry<'a> = (&'a Tensor<'a>, Option<&'a Scales>, Option<&'a Metric>);

/// Returns how many bytes of factored covariances may be kept.
///
/// Everything else is the scales of all tensors, and what the tensor that takes most takes. That is, for n inputs, the most of:
/// 16 n^2 bytes while its covariance is factored; 4 n^2 bytes for the factor, 4 bytes per weight and layer for its integers, and
/// the tiles that are being coded, or the error that is being approximated; the vectors of a low-rank part. The units of the last
/// tensor that is coded with loss are held, too. A tensor that is kept over a base takes what the search for a merged adapter
/// does, unless other tensors are coded with loss.
///
/// # Errors
/// [`EncodeError::TensorMemory`] if all this is more than the limit.
pub fn room(tensors: &[Entry], options: &Options) -> Result<u64, EncodeError> {
    let limit = options.memory_limit.unwrap_or(u64::MAX);
    let sides = |(_, scales, _): &Entry| scales.map_or((0, 0), |s| (s.rows.len() as u64, s.columns.len() as u64));
    let base: u64 = tensors.iter().map(sides).map(|(rows, columns)| 8 * (rows + columns)).sum();
    let lossless = tensors.iter().all(|(_, _, metric)| metric.is_none());
    let search = |entry: &Entry| if lossless { adapter(entry.0) } else { 0 };
    // The units of the last tensor are held until the file has its size (`pace`).
    let last = tensors.iter().rposition(|(_, _, metric)| metric.is_some()).filter(|_| !options.layers.any());
    let held = |i: usize, entry: &Entry| if last == Some(i) { entry.0.raw_bytes() } else { 0 };
    let bytes = |i: usize, entry: &Entry| (one(entry, sides(entry), options) + held(i, entry)).max(search(entry));
    let most = tensors.iter().enumerate().map(|(i, entry)| (bytes(i, entry), &entry.0.name)).max();
    let (largest, name) = most.map_or((0, ""), |(bytes, name)| (bytes, name.as_str()));
    let needed = base.saturating_add(largest);
    match limit.checked_sub(needed) {
        Some(left) => Ok(left.min(MOST_KEPT)),
        None => Err(EncodeError::TensorMemory { tensor: name.to_owned(), needed, limit }),
    }
}

/// The bytes that a tensor takes while it is coded.
fn one(&(tensor, _, metric): &Entry, (rows, columns): (u64, u64), options: &Options) -> u64 {
    let threads = rayon::current_num_threads() as u64;
    let (raw, weights) = (tensor.raw_bytes(), tensor.weights());
    let tiles = (BATCH as u64 * 2 * TARGET_BYTES + threads * TILE_WORK).min(32 * weights.max(raw));
    let Some(metric) = metric else { return tiles };
    let together = if options.trellis.is_some() { TOGETHER } else { 1 };
    let layers = 1 + options.layers.below.len() as u64;
    let exact = if options.layers.exact { raw } else { 0 };
    let factor = metric.input.as_ref().map_or(0, |_| factor_bytes(columns as usize));
    // The scales of groups of 16 weights, as indices and as floats.
    let scales = if options.formats.is_empty() { 0 } else { weights.div_ceil(16) * 6 };
    let integers = weights.saturating_mul(4 * layers)
        + scales
        + exact
        + PER_ROW * rows
        + PER_COLUMN * threads * columns * together;
    let residual = options.residual.rank().map_or(0, |_| weights.saturating_mul(ERROR));
    let vectors = PER_VECTORS * (rows + columns);
    (4 * factor).max(factor + integers + residual.max(tiles)).max(vectors)
}

/// The bytes that the search for an adapter that was merged into a tensor takes.
fn adapter(tensor: &Tensor) -> u64 {
    if tensor.over_elements().is_none() || tensor.weights() > MOST_WEIGHTS as u64 {
        return 0;
    }
    let columns = tensor.info.shape[tensor.split..].iter().product::<u64>().max(1);
    tensor.weights() * INTERVALS + (tensor.weights() / columns + columns) * PER_EQUATION
}
