//! The integers of a matrix.

use std::ops::Range;

use impasto_codec::sink::Counts;
use impasto_codec::tile::syntax::{Sums, lattice_row, trellis_row};
use impasto_codec::{Body, IndexArray, Kind, Steps, TensorHeader, Trellis};
use impasto_core::{DType, Isa, Place, lattice};
use rayon::prelude::*;

use super::trellis::PathRounder;
use super::{Cells, Classes, Costs, Grid, PathCosts, Rounder, Thresholds, fit_classes, thresholds};
use crate::arithmetic::log2_fixed;
use crate::feedback::{Feedback, Pruner, Rounding, round_columns, round_rows};
use crate::formats::FormatRounder;
use crate::matrix::MatrixView;
use crate::rate::Rate;
use crate::scales::Scales;
use crate::shapes::best_shape;

/// The class in which the standard deviation is one step.
pub const ONE_STEP: i32 = 15;
/// Rows that are rounded together.
const SIDE_BY_SIDE: usize = 16;
/// A sample has one in this many rows, but at least [`LEAST_SAMPLE`]. Rate control makes up for what it does not say.
const SAMPLED: usize = 16;
const LEAST_SAMPLE: usize = 128;
/// `lambda` over the square of the step, at equal slopes and high rate. Halving the step costs one bit and divides the
/// error `step^2 / 12` by 4, so the slope is `2 ln 2 / 12`.
pub const LAMBDA: f32 = 0.1155;

/// Share of zeros from which classes are also tried that are narrower than the integers. The low bits of a wide class are
/// raw, which costs most where one value is frequent; explicit tables fit any class.
const MANY_ZEROS: f64 = 0.2;
/// Most octaves by which they are narrower.
const NARROWER: i16 = 3;

/// Rows of each part of a sample on a trellis.
const PART: usize = 128;

/// The rows to round.
#[derive(Clone, Copy, PartialEq)]
pub enum Rows {
    All,
    /// Some rows, evenly spread.
    Sample,
}

/// The parts of the rows to round, one for each segment: paths begin in its first row.
pub enum Parts {
    /// These, which are all rows.
    All(Vec<Range<usize>>),
    /// Some parts, evenly spread.
    Sample,
}

impl Parts {
    /// Returns parts of all rows that are as high as those of a sample.
    pub fn whole(rows: usize) -> Parts {
        Parts::All((0..rows).step_by(PART).map(|first| first..(first + PART).min(rows)).collect())
    }
}

/// Integers of all rows of a matrix or of a sample.
pub struct Integers {
    /// Row-major.
    pub z: Vec<i32>,
    /// Share of the rows that was rounded.
    pub share: f64,
    columns: usize,
    /// Their classes, if others are not wanted.
    classes: Option<Classes>,
}

/// Rounds a matrix to a grid with feedback; integers are chosen by error and cost, within the widths of `cells` if there are any,
/// and are 0 where a pruner says so.
pub fn round(
    matrix: &MatrixView,
    scales: &Scales,
    feedback: &Feedback,
    grid: &Grid,
    (costs, cells): (&Costs, Option<&Cells>),
    pruner: Option<&dyn Pruner>,
    rows: Rows,
) -> Integers {
    let (row_classes, column_classes) = classes(scales, grid, ONE_STEP);
    let table = thresholds(&costs.savings(), LAMBDA);
    let thresholds = Thresholds { table: &table, cells, rows: &row_classes, columns: &column_classes };
    let rounder = Rounder::new(matrix.dtype, grid, matrix.rows, matrix.columns, Some(thresholds));
    round_with(matrix, feedback, &rounder, pruner, rows)
}

/// Returns classes of rows and of columns from scales and steps, four per octave. `one_step` is that in which the standard deviation
/// is one step.
pub fn classes(scales: &Scales, grid: &Grid, one_step: i32) -> (Vec<i16>, Vec<i16>) {
    let log_step = log2_fixed(f64::from(grid.step)).unwrap_or(0);
    let classes = |logs: &[i32], steps: &[i16], offset: i32| -> Vec<i16> {
        let class = |(i, &log): (usize, &i32)| {
            let step = steps.get(i).map_or(0, |&s| i32::from(s) << 12);
            ((log - step + offset + (1 << 13)) >> 14) as i16
        };
        logs.iter().enumerate().map(class).collect()
    };
    (classes(&scales.rows, &grid.rows, (one_step << 14) - log_step), classes(&scales.columns, &grid.columns, 0))
}

/// Rounds parts of a matrix to paths through the trellis of a grid, with feedback.
pub fn round_on_trellis(
    matrix: &MatrixView,
    scales: &Scales,
    feedback: &Feedback,
    grid: &Grid,
    trellis: (Trellis, &PathCosts),
    rows: Parts,
) -> Integers {
    let paths = PathRounder::new(matrix.dtype, scales, grid, trellis);
    let parts = match rows {
        Parts::All(parts) => parts,
        Parts::Sample => {
            let chunks = matrix.rows.div_ceil(PART);
            let wanted = chunks.min((chunks / 8).max(LEAST_SAMPLE / PART));
            let chunk = |i: usize| i * chunks / wanted.max(1) * PART;
            (0..wanted).map(|i| chunk(i)..(chunk(i) + PART).min(matrix.rows)).collect()
        }
    };
    round_parts(matrix, parts, |first, w, z| round_columns(feedback, w, first, 1.0, &paths, z))
}

/// Rounds a matrix with feedback.
pub fn round_with(
    matrix: &MatrixView,
    feedback: &Feedback,
    rounder: &impl Rounding,
    pruner: Option<&dyn Pruner>,
    rows: Rows,
) -> Integers {
    let m = matrix.rows;
    let chunks = m.div_ceil(SIDE_BY_SIDE);
    let wanted = match rows {
        Rows::All => chunks,
        Rows::Sample => chunks.min((chunks / SAMPLED).max(LEAST_SAMPLE / SIDE_BY_SIDE)),
    };
    let first = |i: usize| i * chunks / wanted.max(1) * SIDE_BY_SIDE;
    let parts = (0..wanted).map(|i| first(i)..(first(i) + SIDE_BY_SIDE).min(m)).collect();
    round_parts(matrix, parts, |first, w, z| round_rows(feedback, w, first, 1.0, rounder, pruner, z))
}

/// Cuts room for integers, `n` to a row, between parts of a matrix, in their order.
///
/// # Panics
/// If `z` has fewer integers than the parts.
pub fn with_room(parts: Vec<Range<usize>>, n: usize, mut z: &mut [i32]) -> Vec<(Range<usize>, &mut [i32])> {
    let cut = |rows: Range<usize>| {
        let (part, rest) = std::mem::take(&mut z).split_at_mut(rows.len() * n);
        z = rest;
        (rows, part)
    };
    parts.into_iter().map(cut).collect()
}

/// Rounds parts of a matrix, which are ranges of its rows, in order. `round` receives the first row of a part, its weights, and room
/// for its integers.
fn round_parts(
    matrix: &MatrixView,
    parts: Vec<Range<usize>>,
    round: impl Fn(usize, &[f32], &mut [i32]) + Sync,
) -> Integers {
    let n = matrix.columns;
    let total: usize = parts.iter().map(Range::len).sum();
    let mut z = vec![0; total * n];
    with_room(parts, n, &mut z).into_par_iter().for_each(|(rows, z)| {
        let mut w = Vec::with_capacity(z.len());
        let first = rows.start;
        rows.for_each(|r| matrix.append_weights(r, &mut w));
        round(first, &w, z);
    });
    Integers { z, share: total as f64 / matrix.rows.max(1) as f64, columns: n, classes: None }
}

impl Integers {
    /// Wraps the integers of all rows of a matrix, row-major.
    pub fn whole(z: Vec<i32>, columns: usize) -> Integers {
        Integers { z, share: 1.0, columns, classes: None }
    }

    /// Returns the tensor header with a body at which the integers cost least, and their cost in bits, including the tables.
    pub fn header(&self, body: &Body, costs: &Costs) -> (TensorHeader, u64) {
        let on_trellis = matches!(body, Body::Lattice(Steps { trellis: Some(_), .. }));
        let header = |classes: Classes| {
            // Indices are half of the integers, so an octave narrower.
            let classes = if on_trellis { classes.narrower(1) } else { classes };
            let (shape, bits) = best_shape(&self.count(&classes, on_trellis));
            let header = TensorHeader {
                shape,
                plane: classes.plane,
                row_classes: IndexArray::new(classes.rows),
                column_classes: IndexArray::new(classes.columns),
                body: body.clone(),
            };
            (header, bits)
        };
        if let Some(classes) = &self.classes {
            return header(classes.narrower(0));
        }
        let mut classes = fit_classes(costs, &self.z, self.columns);
        if self.zeros() > MANY_ZEROS {
            let narrower = |classes: &Classes| (1..=NARROWER).map(|n| classes.narrower(n)).collect::<Vec<_>>();
            let wide = classes.iter().filter(|classes| classes.is_wide());
            let found: Vec<Classes> = wide.flat_map(narrower).collect();
            classes.extend(found);
        }
        let headers = classes.into_iter().map(header);
        headers.min_by_key(|(_, bits)| *bits).expect("there is always a plane of 0 bits or more")
    }

    /// Chooses widths for the integers, which must be those of all rows, when `tile_rows` rows are packed together. The second
    /// result is the classes by which rows and columns are sorted then.
    pub fn cells(&self, body: &Body, costs: &Costs, tile_rows: usize) -> (Cells, Classes) {
        let (header, _) = self.header(body, costs);
        let rows = header.row_classes.slice(0..self.z.len() / self.columns.max(1));
        let columns = header.column_classes.slice(0..self.columns);
        let cells = Cells::new(&self.z, &rows, &columns, tile_rows);
        let narrow = |classes: Vec<i32>| classes.into_iter().map(|class| class as i16).collect();
        (cells, Classes { plane: header.plane, rows: narrow(rows), columns: narrow(columns) })
    }

    /// Gives the integers these classes, instead of those that fit best.
    pub fn with(self, classes: Classes) -> Integers {
        Integers { classes: Some(classes), ..self }
    }

    /// Returns the share of integers that are 0.
    pub fn zeros(&self) -> f64 {
        let zeros = self.z.par_iter().filter(|&&z| z == 0).count();
        zeros as f64 / self.z.len().max(1) as f64
    }

    /// Counts the symbols under classes.
    fn count(&self, classes: &Classes, on_trellis: bool) -> Counts {
        let columns: Vec<i32> = classes.columns.iter().map(|&c| i32::from(c)).collect();
        let rows = self.z.par_chunks(self.columns.max(1)).zip(&classes.rows);
        let count = |mut counts: Counts, (z, &row): (&[i32], &i16)| {
            let sums = Sums { row: row.into(), columns: &columns };
            if on_trellis {
                trellis_row(&mut counts, classes.plane, sums, z);
            } else {
                lattice_row(&mut counts, classes.plane, sums, z);
            }
            counts
        };
        let empty = || Counts::new(if on_trellis { Kind::Trellis } else { Kind::Lattice });
        rows.fold(empty, count).reduce(empty, Counts::merged)
    }

    /// Returns the rate of the whole matrix, assuming that its other rows are like those that were rounded.
    pub fn rate(&self, body: &Body, costs: &Costs) -> Rate {
        let (header, bits) = self.header(body, costs);
        let bits = bits as f64 / self.z.len().max(1) as f64;
        // Row arrays grow with the rows, by about half a byte each.
        let rows = self.z.len() as f64 / self.columns.max(1) as f64;
        Rate { bits, header_bytes: header.to_bytes().len() as f64 + 0.5 * rows * (1.0 / self.share.max(1e-9) - 1.0) }
    }

    /// Returns the weights that a decoder makes of the integers, which must be those of all rows.
    pub fn weights(&self, dtype: DType, grid: &Grid) -> Vec<f32> {
        let n = self.columns.max(1);
        let factors = grid.factors(self.z.len() / n, n);
        let row = |(r, z): (usize, &[i32])| {
            let mut added = vec![0.0; z.len()];
            grid.low_rank.iter().for_each(|part| part.row(Isa::best(), r, 0..z.len(), &mut added));
            let weight = |c: usize| lattice::weight(z[c], 0.0, factors.columns[c], factors.rows[r]) + added[c];
            (0..z.len()).map(|c| lattice::round(dtype, weight(c))).collect::<Vec<f32>>()
        };
        self.z.par_chunks(n).enumerate().flat_map_iter(row).collect()
    }

    /// Returns the weights that a decoder makes of the integers of a format, which must be those of all rows.
    pub fn weights_of(&self, rounder: &FormatRounder) -> Vec<f32> {
        let n = self.columns.max(1);
        let row = |(r, z): (usize, &[i32])| (0..z.len()).map(|c| rounder.weight_at(r, c, z[c])).collect::<Vec<f32>>();
        self.z.par_chunks(n).enumerate().flat_map_iter(row).collect()
    }

    /// Returns the squared error of the weights of a tile, in units of squared steps (the unit of [`LAMBDA`]).
    pub fn distortion(&self, matrix: &MatrixView, grid: &Grid, place: &Place) -> f64 {
        let rounder = Rounder::new(matrix.dtype, grid, matrix.rows, self.columns, None);
        let mut weights = Vec::new();
        let mut sum = 0.0;
        for r in place.rows.clone() {
            matrix.weights(r, &mut weights);
            for c in place.columns.clone() {
                let error = weights[c] - rounder.weight_at(r, c, self.z[r * self.columns + c]);
                sum += f64::from(error / rounder.step_at(r, c)).powi(2);
            }
        }
        sum
    }

    /// Returns the integers of a tile, row-major.
    pub fn tile(&self, place: &Place) -> Vec<i32> {
        let row = |r: usize| &self.z[r * self.columns..][place.columns.clone()];
        place.rows.clone().flat_map(row).copied().collect()
    }
}
