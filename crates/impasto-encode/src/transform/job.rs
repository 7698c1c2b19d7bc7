//! Mode transform in an encoding job: on which tensors it may gain, what it would gain at a step, and the unit of a tile.

use impasto_codec::transform::basis::{Kind, LEAST_LOG};
use impasto_codec::transform::learned::Bases;
use impasto_codec::transform::{Reference, needs_reference, progressive};
use impasto_core::Place;
use impasto_core::lattice::{self, scale};

use super::candidates::estimate;
use super::forward;
use super::references::Forecast;
use super::tile::{Effort, MOST, Request, code, decoded_values};
use super::tools::{Tools, TransformTool};
use crate::lattice::{Factors, Grid, LAMBDA};
use crate::matrix::MatrixView;
use crate::rate::{Rate, Transformed};

/// Blocks that a tensor is probed at, and the logarithm of their largest side.
const BLOCKS: usize = 32;
const BLOCK_LOG: u32 = 5;
/// Bits per weight that blocks must seem to gain. On noise, the best of several transforms seems to gain half of this.
const LEAST_GAIN: f32 = 0.08;
/// Largest number of weights of a tensor: the search takes microseconds for each.
pub const MOST_WEIGHTS: usize = 1 << 22;
/// Bits per weight that mode transform must gain to be worth its time. Dependent quantization alone gains 0.12 on any tensor,
/// which is not.
pub const LEAST_MEASURED: f64 = 0.2;
/// Standard deviation of the weights of a probe, in steps.
const DEVIATION: f32 = 4.0;
/// Weights of the part of a tensor that is coded to measure a gain.
const SAMPLE: usize = 1 << 15;
/// Fewest rows and most columns of that part.
const SAMPLE_ROWS: usize = 64;
const SAMPLE_COLUMNS: usize = 1024;
/// Bytes of the tensor header of a tensor without classes, about.
const HEADER_BYTES: f64 = 24.0;

/// Returns whether transforms or predictions seem to gain on some blocks of a matrix: a fast test that linear layers do
/// not pass.
pub fn may_gain(matrix: &MatrixView, mean_square: f64) -> bool {
    let log = |side: usize| side.checked_ilog2().unwrap_or(0).min(BLOCK_LOG);
    let logs = [log(matrix.rows), log(matrix.columns)];
    let [height, width] = logs.map(|log| 1usize << log);
    if logs.iter().any(|&log| log < LEAST_LOG) || matrix.len() > MOST_WEIGHTS {
        return false;
    }
    let scale = DEVIATION / mean_square.sqrt().max(f64::from(f32::MIN_POSITIVE)) as f32;
    let across = matrix.columns / width;
    let blocks = matrix.rows / height * across;
    let (mut row, mut values) = (Vec::new(), Vec::new());
    let chosen = blocks.min(BLOCKS);
    let gains = (0..chosen).map(|i| {
        let block = i * blocks / chosen;
        let (top, left) = (block / across * height, block % across * width);
        values.clear();
        for r in top..top + height {
            matrix.weights(r, &mut row);
            values.extend(row[left..left + width].iter().map(|weight| weight * scale));
        }
        gain(logs, &values)
    });
    let sum: f32 = gains.sum();
    sum > LEAST_GAIN * (chosen * height * width) as f32
}

/// Returns about the bits of a block, if its coefficients have the variance of their cell of 4 x 4. (The logarithm of each
/// would depend on the shape of their distribution, which a transform makes normal.)
fn bits(logs: [u32; 2], coefficients: &[f32]) -> f32 {
    let width = 1usize << logs[1];
    let cells = coefficients.chunks_exact(4 * width).flat_map(|rows| (0..width).step_by(4).map(move |c| (rows, c)));
    let deviations = cells.map(|(rows, c)| {
        let square: f32 = (0..4).flat_map(|r| &rows[r * width + c..][..4]).map(|c| c * c).sum();
        (square / 16.0).sqrt()
    });
    16.0 * estimate(&deviations.collect::<Vec<_>>())
}

/// Returns about the bits that the best of some transforms and predictions gain on a block.
fn gain(logs: [u32; 2], values: &[f32]) -> f32 {
    let width = 1usize << logs[1];
    let (bases, mut between, mut out) = (Bases::default(), Vec::new(), Vec::new());
    let kinds = [[Kind::Dct, Kind::Dct], [Kind::Dct, Kind::Identity], [Kind::Identity, Kind::Dct]];
    let transformed = kinds.map(|kinds| {
        forward::columns(&bases, kinds[0], logs, values, &mut between);
        forward::rows(&bases, kinds[1], logs, &between, &mut out);
        bits(logs, &out)
    });
    // Differences from the row above, of all rows but the first; likewise of columns.
    let rows: Vec<f32> =
        values.iter().zip(&values[width..]).map(|(a, b)| b - a).chain(values[..width].to_vec()).collect();
    let columns: Vec<f32> = values
        .chunks_exact(width)
        .flat_map(|row| (0..width).map(|c| row[c] - if c > 0 { row[c - 1] } else { 0.0 }))
        .collect();
    let least = transformed.into_iter().chain([bits(logs, &rows), bits(logs, &columns)]).fold(f32::INFINITY, f32::min);
    (bits(logs, values) - least).max(0.0)
}

/// The weights of a place over their steps; `None` if mode transform cannot hold them.
pub fn scaled(matrix: &MatrixView, factors: &Factors, place: &Place) -> Option<Vec<f32>> {
    let (mut row, mut out) = (Vec::new(), Vec::with_capacity(place.elements()));
    for r in place.rows.clone() {
        matrix.weights(r, &mut row);
        out.extend(place.columns.clone().map(|c| row[c] / (factors.columns[c] * factors.rows[r])));
    }
    out.iter().all(|x| x.abs() <= MOST).then_some(out)
}

/// Measures the rate of a matrix with transforms, on a part of it, and what they gain over the same without. `None` if
/// mode transform cannot hold it; what it gains is counted from [`LEAST_MEASURED`] up. `reference` is what it may be predicted
/// from.
pub fn measure(matrix: &MatrixView, grid: &Grid, tools: Tools, reference: Option<&Forecast>) -> Option<Transformed> {
    let width = matrix.columns.min(SAMPLE_COLUMNS);
    let height = (SAMPLE / width.max(1)).max(SAMPLE_ROWS).min(matrix.rows);
    let (top, left) = ((matrix.rows - height) / 2, (matrix.columns - width) / 2);
    let place = Place { rows: top..top + height, columns: left..left + width };
    let values = scaled(matrix, &grid.factors(matrix.rows, matrix.columns), &place)?;
    let (elements, steps) = (reference.map(|reference| reference.elements(&place)), grid.steps());
    let dtype = matrix.dtype;
    let reference = elements.as_deref().map(|elements| Reference { elements, dtype, steps: &steps, place: &place });
    let cost = |tools: Tools| {
        let request = Request { effort: Effort::Fast, reference, ..Request::new(&values, width, tools) };
        let coded = code(&request).ok()?;
        let cost = request.cost(&coded) / f64::from(LAMBDA) / values.len() as f64;
        Some((coded.unit, cost))
    };
    let (_, plain) = cost(Tools::NONE.with(TransformTool::Rdoq, true))?;
    let with = |tools| {
        let (unit, cost) = cost(tools)?;
        let rate = rate(grid, &unit, values.len());
        Some(Transformed { rate, gain: plain - cost - LEAST_MEASURED, is_predicted: needs_reference(&unit) })
    };
    // Variants take most of the time. Where a tensor gains without them, the forecast can do without what they add.
    let found = with(tools.without(Tools::VARIANTS))?;
    if found.gain > 0.0 || tools.and(Tools::VARIANTS) == Tools::NONE { Some(found) } else { with(tools) }
}

/// Returns the rate of a tensor of which so many weights have this unit.
pub fn rate(grid: &Grid, unit: &[u8], weights: usize) -> Rate {
    let bits = unit.len() as f64 * 8.0 / weights.max(1) as f64;
    Rate { bits, header_bytes: HEADER_BYTES + 0.5 * (grid.rows.len() + grid.columns.len()) as f64 }
}

/// Codes a tile as `request` says, in which its values, its width and its reference are filled in; `reference` holds the
/// elements of that, row-major, if there is one. Returns its unit, and its error in squared steps; `None` if mode transform
/// cannot code it.
pub fn code_tile(
    matrix: &MatrixView,
    grid: &Grid,
    place: &Place,
    request: &Request,
    reference: Option<&[u8]>,
) -> Option<(Vec<u8>, f64)> {
    let factors = grid.factors(matrix.rows, matrix.columns);
    let values = scaled(matrix, &factors, place)?;
    let (dtype, width, steps) = (matrix.dtype, place.columns.len(), grid.steps());
    let reference = reference.map(|elements| Reference { elements, dtype, steps: &steps, place });
    let coded = code(&Request { values: &values, width, reference, ..*request }).ok()?;
    let distortion = error(matrix, &factors, place, &values, &coded.values, |_, step| step)?;
    Some((coded.unit, distortion))
}

/// Codes a tile in planes, in layers: the base and all layers but the last end so many planes before the top one. Returns
/// the unit of each, and the error of the weights up to it, those of each row times `row_weight`; `None` if planes cannot
/// code it.
pub fn code_layers(
    matrix: &MatrixView,
    grid: &Grid,
    place: &Place,
    tools: Tools,
    left_out: &[usize],
    row_weight: impl Fn(usize) -> f32,
) -> Option<Vec<(Vec<u8>, f64)>> {
    let factors = grid.factors(matrix.rows, matrix.columns);
    let (values, [height, width]) = (scaled(matrix, &factors, place)?, [place.rows.len(), place.columns.len()]);
    let coded = code(&Request::new(&values, width, tools.and(Tools::PLANES))).ok()?;
    let all = progressive::planes(&coded.unit, height, width).ok()??;
    let ends: Vec<usize> = left_out.iter().map(|&planes| all.saturating_sub(planes)).chain([all]).collect();
    let units = progressive::split(&coded.unit, height, width, &ends).ok()?;
    let errors = (1..=units.len()).map(|count| {
        let units: Vec<&[u8]> = units[..count].iter().map(Vec::as_slice).collect();
        let (form, samples) = progressive::decode(&units, height, width).ok()?;
        let decoded = decoded_values(&samples, [height, width], scale(form.step_index.into()));
        error(matrix, &factors, place, &values, &decoded, |r, _| 1.0 / row_weight(r))
    });
    let errors = errors.collect::<Option<Vec<f64>>>()?;
    Some(units.into_iter().zip(errors).collect())
}

/// Returns the squared error of the weights that a decoder makes of the values of a tile, each over a unit that may depend
/// on its row and its step; `None` if a weight is not finite.
fn error(
    matrix: &MatrixView,
    factors: &Factors,
    place: &Place,
    values: &[f32],
    coded: &[f32],
    unit: impl Fn(usize, f32) -> f32,
) -> Option<f64> {
    let width = place.columns.len();
    let mut sum = 0.0;
    for (i, (x, y)) in values.iter().zip(coded).enumerate() {
        let (r, c) = (place.rows.start + i / width, place.columns.start + i % width);
        let step = factors.columns[c] * factors.rows[r];
        let weight = lattice::round(matrix.dtype, y * step);
        if !weight.is_finite() {
            return None;
        }
        sum += f64::from((x - weight / step) * (step / unit(r, step))).powi(2);
    }
    Some(sum)
}

#[cfg(test)]
pub(super) mod tests {
    use impasto_core::DType;

    use super::*;

    fn matrix(weight: impl Fn(usize, usize) -> f32) -> Vec<u8> {
        (0..128 * 96).flat_map(|i| weight(i / 96, i % 96).to_le_bytes()).collect()
    }

    /// Numbers from -1 to 1 that look random.
    pub fn noise(i: usize) -> f32 {
        let mut x = i as u64;
        for _ in 0..4 {
            x = (x ^ x >> 29).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    #[test]
    fn smooth_matrices_gain_and_noise_does_not() {
        let wave = matrix(|r, c| (r as f32 / 9.0 + noise(c) * 3.0).sin() + 0.05 * noise(r * 96 + c));
        let noisy = matrix(|r, c| noise(r * 96 + c) * (1.0 + r as f32));
        let view = |bytes| MatrixView::plain(bytes, DType::F32, 128, 96);
        let square = |bytes: &[u8]| {
            let weights = bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b)).powi(2));
            weights.sum::<f64>() / (128.0 * 96.0)
        };
        assert!(may_gain(&view(&wave), square(&wave)));
        assert!(!may_gain(&view(&noisy), square(&noisy)));
        let grid = Grid::new(0.1);
        let gain = measure(&view(&wave), &grid, Tools::ALL, None).expect("measured").gain;
        assert!(gain > 1.0, "{gain}");
        let place = Place { rows: 0..128, columns: 0..96 };
        let all = &Request::new(&[], 0, Tools::ALL);
        let (unit, error) = code_tile(&view(&wave), &grid, &place, all, None).expect("coded");
        assert!(unit.len() < 128 * 96 / 4 && error / (128.0 * 96.0) < 0.15, "{} {error}", unit.len());
        let tiny = Grid::new(1e-9);
        assert!(code_tile(&view(&wave), &tiny, &place, all, None).is_none());
    }
}
