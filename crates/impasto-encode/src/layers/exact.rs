//! The tensor header of an exact layer, which codes how far the weights are from those of the layer below.

use impasto_codec::sink::Counts;
use impasto_codec::tile::syntax::{ExactRow, Sums, blocks_row, exact_row};
use impasto_codec::{Body, IndexArray, Kind, TensorHeader};
use impasto_core::{DType, FloatLayout, lattice::scale, values};
use rayon::prelude::*;

use crate::arithmetic::log2_fixed;
use crate::lattice::Grid;
use crate::shapes::best_shape;

/// Mantissa bits that are coded under classes; further ones are raw.
const MANTISSA: u32 = 7;
/// Rows that are summed together.
const CHUNK: usize = 64;
/// Width of a class, a quarter of an octave, in units of 2^-16 octave.
const CLASS: i32 = 1 << 14;
/// Class in which the standard deviation is one unit in the last place.
const UNIT_CLASS: i32 = 4;

/// A matrix with its prediction by the layer below.
pub struct Predicted<'a> {
    /// The dtype of the elements, which has a float layout.
    pub dtype: DType,
    pub layout: FloatLayout,
    /// Steps of the layer below, which give the scales of rows.
    pub grid: &'a Grid,
    /// Integers of the layer below, row-major.
    pub z: &'a [i32],
    pub columns: usize,
    /// Elements as decoded from the layer below, and the original ones: little-endian, row-major.
    pub predicted: &'a [u8],
    pub elements: &'a [u8],
}

impl Predicted<'_> {
    fn rows(&self) -> usize {
        self.z.len() / self.columns.max(1)
    }

    fn row(&self, r: usize) -> ExactRow<'_> {
        let (n, size) = (self.columns, self.layout.size());
        let bytes = r * n * size..(r + 1) * n * size;
        let (predicted, elements) = (&self.predicted[bytes.clone()], &self.elements[bytes]);
        ExactRow { z: &self.z[r * n..(r + 1) * n], predicted, elements }
    }

    /// Returns the tensor header of the exact layer.
    pub fn header(&self) -> TensorHeader {
        let plane = exact_plane(self.layout);
        let (row_classes, column_classes) = self.classes(exact_class(self.layout, plane));
        let count =
            |counts: &mut Counts, sums: Sums, r: usize| exact_row(counts, self.layout, plane, sums, self.row(r));
        header(plane, row_classes, column_classes, Body::Exact, count).0
    }

    /// Returns the tensor header of a layer of blocks, of which the elements are made. `row` returns those of a row.
    pub fn header_of_blocks<'b>(&self, dtype: DType, row: impl Fn(usize) -> &'b [u8] + Sync) -> TensorHeader {
        // For a scale with exponent field `e`, a deviation `s` is `s 2^(127 - e)` steps.
        let (row_classes, column_classes) = self.classes(4 * 127 + UNIT_CLASS);
        let count = |counts: &mut Counts, sums: Sums, r: usize| {
            blocks_row(counts, dtype, sums, &floats(self.row(r).predicted), row(r));
        };
        header(0, row_classes, column_classes, Body::Blocks(dtype), count).0
    }

    /// Returns the classes of rows and columns; `base` is that of a column with deviations of 1.
    fn classes(&self, base: i32) -> (Vec<i16>, Vec<i16>) {
        let row_steps = if self.grid.rows.is_empty() { vec![0; self.rows()] } else { self.grid.rows.clone() };
        let row_classes: Vec<i16> = row_steps.iter().map(|&step| (step + 2) >> 2).collect();
        let column = |&square: &f64| match log2_fixed(square) {
            // Half of the logarithm of the square, rounded.
            Some(log) => base + (log / 2 + CLASS / 2).div_euclid(CLASS),
            None => 0,
        };
        let narrow = |class: i32| class.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
        let column_classes = self.deviations(&row_steps).iter().map(|d| narrow(column(d))).collect();
        (row_classes, column_classes)
    }

    /// Returns the mean square of each column's deviations, relative to the row steps. Sums have a fixed order.
    fn deviations(&self, row_steps: &[i16]) -> Vec<f64> {
        let rows = self.rows();
        let chunk = |chunk: usize| {
            let mut sums = vec![0.0; self.columns];
            let (mut p, mut w) = (Vec::new(), Vec::new());
            for (r, &step) in row_steps.iter().enumerate().skip(chunk * CHUNK).take(CHUNK) {
                let ExactRow { predicted, elements, .. } = self.row(r);
                p.clear();
                w.clear();
                values::to_f32(self.dtype, predicted, &mut p);
                values::to_f32(self.dtype, elements, &mut w);
                let inverse = f64::from(scale(-i32::from(step)));
                for (sum, (&p, &w)) in sums.iter_mut().zip(p.iter().zip(&w)) {
                    let e = (f64::from(w) - f64::from(p)) * inverse;
                    *sum += e * e;
                }
            }
            sums
        };
        let parts: Vec<Vec<f64>> = (0..rows.div_ceil(CHUNK)).into_par_iter().map(chunk).collect();
        let mut squares = vec![0.0; self.columns];
        for part in &parts {
            squares.iter_mut().zip(part).for_each(|(sum, part)| *sum += part / rows.max(1) as f64);
        }
        squares
    }
}

/// Returns the raw bits of an element in mode exact.
pub fn exact_plane(layout: FloatLayout) -> u8 {
    layout.mantissa.saturating_sub(MANTISSA) as u8
}

/// Returns the class of a row and column whose deviations from the layer below, or the base, are of size 1.
pub fn exact_class(layout: FloatLayout, plane: u8) -> i32 {
    // For a weight with exponent field `e`, a deviation `s` is `s 2^(bias + M - e)` units in the last place.
    let bias = (1 << (layout.exponent - 1)) - 1;
    4 * (bias + (layout.mantissa as i32 - i32::from(plane))) + UNIT_CLASS
}

/// Returns a tensor header with tables for the symbols that `count` counts in each row, and the cost of the symbols and the
/// tables in bits.
pub fn header(
    plane: u8,
    row_classes: Vec<i16>,
    column_classes: Vec<i16>,
    body: Body,
    count: impl Fn(&mut Counts, Sums, usize) + Sync,
) -> (TensorHeader, u64) {
    let columns: Vec<i32> = column_classes.iter().map(|&c| i32::from(c)).collect();
    let add = |mut counts: Counts, (r, &row): (usize, &i16)| {
        count(&mut counts, Sums { row: row.into(), columns: &columns }, r);
        counts
    };
    let empty = || Counts::new(Kind::Exact);
    let counts = row_classes.par_iter().enumerate().fold(empty, add).reduce(empty, Counts::merged);
    let (shape, bits) = best_shape(&counts);
    let (row_classes, column_classes) = (IndexArray::new(row_classes), IndexArray::new(column_classes));
    (TensorHeader { shape, plane, row_classes, column_classes, body }, bits)
}

/// Returns little-endian binary32.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}
