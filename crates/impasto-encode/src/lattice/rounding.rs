//! Rounds targets to integers, by distance and cost.

use std::sync::Arc;

use impasto_codec::{Body, IndexArray, LowRank, Shape, Steps, TensorHeader, Trellis};
use impasto_core::{
    DType, Isa, at_each_isa,
    lattice::{self, scale},
};

use super::cells::Cells;
use super::costs::CLASSES;
use super::trellis::STEP as TRELLIS_STEP;
use crate::code::plain_header;
use crate::feedback::Rounding;

/// A column of rows that are rounded together.
pub type Row<T> = [T; 16];

/// The steps of a matrix: `step * scale(rows[r]) * scale(columns[c])` in row `r` and column `c` (SPEC 10.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Finite and positive.
    pub step: f32,
    /// Empty if all rows have the same step.
    pub rows: Vec<i16>,
    /// Empty if all columns have the same step.
    pub columns: Vec<i16>,
    /// What the tensor header adds to the weights; it is taken away from the matrix that is rounded.
    pub low_rank: Option<Arc<LowRank>>,
    /// What the integers of a column follow, if they are not free.
    pub trellis: Option<Trellis>,
}

/// The steps of a [`Grid`], multiplied out: `rows[r] * columns[c]` in row `r` and column `c`.
pub struct Factors {
    pub rows: Vec<f32>,
    pub columns: Vec<f32>,
}

impl Grid {
    /// Returns the grid with the same step everywhere.
    pub fn new(step: f32) -> Grid {
        Grid { step, rows: vec![], columns: vec![], low_rank: None, trellis: None }
    }

    /// Returns the grid with paths through a trellis, at which the slope is the same. The steps stay finite.
    pub fn on(self, trellis: Option<Trellis>) -> Grid {
        match trellis {
            None => self,
            Some(_) => Grid { step: (self.step * TRELLIS_STEP as f32).max(f32::MIN_POSITIVE), trellis, ..self },
        }
    }

    /// Returns a tensor header with these steps, without classes: for tiles in mode transform.
    pub fn header(&self) -> TensorHeader {
        plain_header(Shape::Parametric(0), self.body())
    }

    /// Returns its fields of a tensor header.
    pub fn body(&self) -> Body {
        Body::Lattice(self.steps())
    }

    /// Returns its steps as in a tensor header.
    pub fn steps(&self) -> Steps {
        let steps = |indices: &[i16]| (!indices.is_empty()).then(|| IndexArray::new(indices.to_vec()));
        let low_rank = self.low_rank.as_deref().cloned();
        Steps {
            rows: steps(&self.rows),
            columns: steps(&self.columns),
            low_rank,
            trellis: self.trellis,
            ..Steps::new(self.step)
        }
    }

    /// Returns the steps of a `rows` x `columns` matrix.
    pub fn factors(&self, rows: usize, columns: usize) -> Factors {
        let factors = |indices: &[i16], n: usize| match indices {
            [] => vec![1.0; n],
            indices => indices.iter().map(|&i| scale(i.into())).collect(),
        };
        let mut rows = factors(&self.rows, rows);
        rows.iter_mut().for_each(|row| *row *= self.step);
        Factors { rows, columns: factors(&self.columns, columns) }
    }
}

/// Rounds to the nearest integer or the next smaller magnitude, whichever has the least `distance^2 + lambda * bits`, or to the
/// end of the range of its cell.
pub struct Rounder<'a> {
    dtype: DType,
    /// Factors of the step by row and by column.
    rows: Vec<f32>,
    columns: Vec<f32>,
    /// The largest finite weight of `dtype`.
    largest: f32,
    /// `None` rounds to nearest.
    thresholds: Option<Thresholds<'a>>,
}

/// The thresholds at which a [`Rounder`] prefers the smaller magnitude.
pub struct Thresholds<'a> {
    /// By class and magnitude: the fraction, from -0.5 to 0, below which the smaller magnitude is better.
    pub table: &'a [Vec<f32>],
    /// The widths that integers are kept within, if they are.
    pub cells: Option<&'a Cells>,
    /// Classes of the rows and of the columns.
    pub rows: &'a [i16],
    pub columns: &'a [i16],
}

/// Computes thresholds by class and magnitude. `lambda` is in squared steps per bit.
pub fn thresholds(savings: &[[f32; 256]], lambda: f32) -> Vec<Vec<f32>> {
    // Let f be the fraction above the nearest integer. The squared distance to the next smaller one is larger by (1 +
    // f)^2 - f^2 = 1 + 2 f. The limit of 0 keeps every weight within one step of its target.
    let limit = |&bits: &f32| ((lambda * bits - 1.0) / 2.0).min(0.0);
    savings.iter().map(|by_size| by_size.iter().map(limit).collect()).collect()
}

impl<'a> Rounder<'a> {
    /// Creates a rounder for a `rows` x `columns` matrix of `dtype` (F32, F16 or BF16).
    pub fn new(dtype: DType, grid: &Grid, rows: usize, columns: usize, thresholds: Option<Thresholds<'a>>) -> Self {
        let Factors { rows, columns } = grid.factors(rows, columns);
        let largest = match dtype {
            DType::F16 => 65504.0,
            DType::Bf16 => f32::from_bits(0x7F7F_0000),
            _ => f32::MAX,
        };
        Rounder { dtype, rows, columns, largest, thresholds }
    }

    /// Returns the weight that a decoder makes of `z` in a row and column.
    pub fn weight_at(&self, row: usize, column: usize, z: i32) -> f32 {
        self.weight(z, self.columns[column], self.rows[row])
    }

    /// Returns the dtype of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the largest finite weight.
    pub fn largest(&self) -> f32 {
        self.largest
    }

    /// Returns the factor of a row: the step is this times that of the column.
    pub fn row(&self, row: usize) -> f32 {
        self.rows[row]
    }

    /// Returns the factor of a column.
    pub fn column(&self, column: usize) -> f32 {
        self.columns[column]
    }

    /// Returns the step in a row and column.
    pub fn step_at(&self, row: usize, column: usize) -> f32 {
        self.columns[column] * self.rows[row]
    }

    /// Returns the weight that a decoder makes of `z` (SPEC 10.3).
    fn weight(&self, z: i32, column: f32, row: f32) -> f32 {
        lattice::round(self.dtype, lattice::weight(z, 0.0, column, row))
    }
}

at_each_isa! {
    /// Divides targets by their steps, which are `column` times those of the rows, and rounds to the nearest integers.
    /// `fraction` becomes the distance from these, positive away from zero.
    fn nearest(
        targets: &Row<f32>, column: f32, rows: &Row<f32>, largest: f32, z: &mut Row<i32>, fraction: &mut Row<f32>,
    ) {
        for lane in 0..16 {
            let x = targets[lane].clamp(-largest, largest) / (column * rows[lane]);
            let whole = x.round_ties_even();
            z[lane] = whole as i32;
            fraction[lane] = (x - whole) * whole.signum();
        }
    }
}

at_each_isa! {
    /// The weights that a decoder makes of integers.
    pub fn reconstruct(dtype: DType, z: &Row<i32>, column: f32, rows: &Row<f32>, weights: &mut Row<f32>) {
        for lane in 0..16 {
            weights[lane] = lattice::round(dtype, lattice::weight(z[lane], 0.0, column, rows[lane]));
        }
    }
}

impl Rounding for Rounder<'_> {
    fn round(&self, column: usize, first: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>) {
        let factor = self.columns[column];
        let count = (self.rows.len() - first).min(16);
        let mut row = [1.0; 16];
        row[..count].copy_from_slice(&self.rows[first..first + count]);
        let (isa, mut fraction) = (Isa::best(), [0.0; 16]);
        nearest(isa, targets, factor, &row, self.largest, z, &mut fraction);
        if let Some(thresholds) = &self.thresholds {
            let class = i32::from(thresholds.columns[column]);
            for lane in 0..count {
                let t = (class + i32::from(thresholds.rows[first + lane])).clamp(0, CLASSES as i32 - 1);
                let size = z[lane].unsigned_abs() as usize;
                if size > 0 && thresholds.table[t as usize].get(size).is_some_and(|&limit| fraction[lane] < limit) {
                    z[lane] -= z[lane].signum();
                    fraction[lane] += 1.0;
                }
                if let Some(cells) = thresholds.cells {
                    z[lane] = cells.limit(first + lane, column, z[lane], fraction[lane]);
                }
            }
        }
        reconstruct(isa, self.dtype, z, factor, &row, weights);
        for lane in 0..16 {
            // Rounding up must not turn a large weight into infinity.
            while !weights[lane].is_finite() && z[lane] != 0 {
                z[lane] -= z[lane].signum();
                weights[lane] = self.weight(z[lane], factor, row[lane]);
            }
        }
    }
}
