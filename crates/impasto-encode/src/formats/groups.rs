//! The scales of groups, which are chosen before anything is rounded (as in GPTQ with static groups).

use impasto_codec::{Groups, IndexArray};
use impasto_core::format::{ScaleForm, Values, nearest};
use impasto_core::{Format, Isa};
use rayon::prelude::*;

use crate::matrix::MatrixView;

/// Group widths of int4, of which the first that divides the columns is taken.
const INT4_WIDTHS: [u64; 3] = [128, 64, 32];
/// The largest E4M3 number.
const MOST_E4M3: f32 = 448.0;
/// Candidates of scales in E4M3, in steps from the one that reaches the largest weight: from about 0.7 to 1.7 times it.
const E4M3_STEPS: std::ops::RangeInclusive<i32> = -4..=6;
/// Candidates in bfloat16, in 16ths of an octave below the one that reaches the largest weight.
const INT4_SIXTEENTHS: u8 = 14;
const OTHER_SIXTEENTHS: u8 = 7;

/// Returns the columns of a group: what the format fixes; otherwise 128 in int4 (64 or 32 if the columns are no multiple of
/// that), and 0, a whole row, in the others.
fn width(format: Format, columns: usize) -> u64 {
    let of_int4 = || INT4_WIDTHS.into_iter().find(|&width| (columns as u64).is_multiple_of(width));
    let chosen = if format == Format::Int4 { of_int4() } else { None };
    format.group().or(chosen).unwrap_or(0)
}

/// Chooses the scales of a matrix. `importance` weighs the squared error of each column.
///
/// Of some candidates for each group, the one with the least error of plain rounding is taken.
pub fn groups(format: Format, matrix: &MatrixView, importance: &[f64]) -> Groups {
    let width = width(format, matrix.columns);
    let step = if format.has_tensor_scale() { tensor_scale(format, largest(matrix)) } else { 1.0 };
    let search = Search { format, values: Values::of(format), isa: Isa::best(), step, importance };
    let of_row = |r: usize| {
        let mut weights = Vec::new();
        matrix.weights(r, &mut weights);
        let columns = if width == 0 { matrix.columns.max(1) } else { width as usize };
        let mut last = 0;
        let mut scales = Vec::with_capacity(matrix.columns.div_ceil(columns));
        for (group, weights) in weights.chunks(columns).enumerate() {
            let from = group * columns;
            // A group of zeros is the same under any scale; that of the one before it costs least.
            last = search.best(weights, from).unwrap_or(last);
            scales.push(last);
        }
        scales
    };
    let scales = (0..matrix.rows).into_par_iter().flat_map_iter(of_row).collect();
    Groups::new(format, step, width, matrix.columns as u64, IndexArray::new(scales))
}

/// Returns the largest magnitude of a matrix.
fn largest(matrix: &MatrixView) -> f32 {
    let of_row = |r: usize| {
        let mut weights = Vec::new();
        matrix.weights(r, &mut weights);
        magnitude(&weights)
    };
    (0..matrix.rows).into_par_iter().map(of_row).reduce(|| 0.0, f32::max)
}

fn magnitude(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |most, weight| weight.abs().max(most))
}

/// Returns the least power of two under which scales reach the largest weight. With a power of two, engines that multiply in
/// another order have the same weights.
fn tensor_scale(format: Format, largest: f32) -> f32 {
    let least = largest / (format.largest() * MOST_E4M3);
    ScaleForm::E8M0.scale((i32::from(ScaleForm::E8M0.index_below(least)) + 1).clamp(1, 254))
}

/// The choice of a group's scale.
struct Search<'a> {
    format: Format,
    values: Values,
    isa: Isa,
    step: f32,
    importance: &'a [f64],
}

impl Search<'_> {
    /// Returns the index of the best scale of a group that begins at column `from`; `None` if all weights are 0.
    fn best(&self, weights: &[f32], from: usize) -> Option<i16> {
        let most = magnitude(weights);
        if most == 0.0 {
            return None;
        }
        let mut candidates = self.candidates(most);
        candidates.dedup();
        let form = self.format.scale_form();
        let (mut x, mut z) = (vec![0.0; weights.len()], vec![0; weights.len()]);
        let mut error = |index: i16| {
            let scale = form.scale(index.into()) * self.step;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            // An infinite quotient is far beyond the range; a NaN is one of 0.
            x.iter_mut().zip(weights).for_each(|(x, weight)| *x = weight * inverse);
            nearest(self.isa, self.format, &x, &mut z);
            let of = |((weight, z), importance): ((&f32, &i32), &f64)| {
                f64::from(weight - self.values.get(*z) * scale).powi(2) * importance
            };
            weights.iter().zip(&z).zip(&self.importance[from..]).map(of).sum::<f64>()
        };
        let errors: Vec<(f64, i16)> = candidates.into_iter().map(|index| (error(index), index)).collect();
        errors.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, index)| index)
    }

    /// Returns indices of scales that may be best if the largest weight is `most`.
    fn candidates(&self, most: f32) -> Vec<i16> {
        let form = self.format.scale_form();
        let reach = most / (self.format.largest() * self.step);
        let middle = i32::from(form.index_below(reach));
        let last = i32::from(form.last());
        match form {
            ScaleForm::E8M0 => (middle - 1..=middle + 1).map(|i| i.clamp(0, last) as i16).collect(),
            ScaleForm::E4M3 => E4M3_STEPS.map(|i| (middle + i).clamp(0, last) as i16).collect(),
            ScaleForm::Bf16 => {
                let sixteenths = if self.format == Format::Int4 { INT4_SIXTEENTHS } else { OTHER_SIXTEENTHS };
                let at = |i: u8| reach * impasto_core::lattice::scale(-i32::from(i));
                // The first is the next one above, which reaches the largest weight.
                let below = (0..=sixteenths).map(|i| form.index_below(at(i)));
                std::iter::once((middle + 1).min(last) as i16).chain(below).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use impasto_core::DType;

    use super::*;

    fn of(format: Format, rows: usize, weights: &[f32], importance: &[f64]) -> Groups {
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        groups(format, &MatrixView::plain(&bytes, DType::F32, rows, weights.len() / rows), importance)
    }

    fn noise(n: usize) -> Vec<f32> {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next() + next() + next()).collect()
    }

    /// What is a multiple of values of the format is kept as it is.
    #[test]
    fn weights_that_the_format_has_are_exact() {
        for format in Format::ALL {
            let columns = 128;
            let (least, most) = format.range();
            let scale = 0.375; // in every form but E8M0, where it is 0.25
            let scale = if format.scale_form() == ScaleForm::E8M0 { 0.25 } else { scale };
            // The least integer of an int is no mirror of the largest.
            let z = |i: usize| least + 1 + (i * 37) as i32 % (most - least);
            let value = |i: usize| if i.is_multiple_of(16) { format.largest() } else { format.value(z(i)) };
            let value = |i: usize| value(i) * scale;
            let weights: Vec<f32> = (0..2 * columns).map(value).collect();
            let groups = of(format, 2, &weights, &vec![1.0; columns]);
            groups.check().expect("valid");
            let values = Values::of(format);
            for (r, row) in weights.chunks_exact(columns).enumerate() {
                let indices = groups.row(r);
                let width = columns / indices.len();
                for (c, &w) in row.iter().enumerate() {
                    let scale = format.scale_form().scale(indices[c / width]) * groups.step;
                    let mut z = [0];
                    nearest(Isa::Scalar, format, &[w / scale], &mut z);
                    assert_eq!(values.get(z[0]) * scale, w, "{format:?} {r} {c}");
                }
            }
        }
    }

    /// The search is no worse than the scale that just reaches the largest weight, and clips an outlier of no importance.
    #[test]
    fn the_best_candidate_wins() {
        let mut weights = noise(32);
        weights[3] = 30.0;
        let mut importance = vec![1.0; 32];
        let scale = |importance: &[f64]| {
            let groups = of(Format::Mxfp4, 1, &weights, importance);
            ScaleForm::E8M0.scale(groups.row(0)[0])
        };
        assert_eq!(scale(&importance), 8.0, "30 becomes 4 x 8");
        importance[3] = 0.0;
        assert_eq!(scale(&importance), 2.0);
    }

    #[test]
    fn groups_of_zeros_and_extremes_are_valid() {
        for format in Format::ALL {
            for most in [0.0, 1e-45, 1e-38, 1e38, f32::MAX] {
                let mut weights = vec![0.0; 128];
                weights[70] = most;
                weights[100] = -most;
                let groups = of(format, 2, &weights, &[1.0; 64]);
                groups.check().expect("valid");
                assert!(groups.step.is_finite() && groups.step > 0.0);
            }
        }
        assert_eq!([576, 1536, 100, 96].map(|columns| width(Format::Int4, columns)), [64, 128, 0, 32]);
    }
}
