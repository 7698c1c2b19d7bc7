//! Prediction from the tile at the same place of another tensor, the reference (SPEC 17.18): its elements as samples of the
//! tile that is predicted.

use std::ops::Range;

use impasto_core::lattice::scale;
use impasto_core::{DType, Place, values};

use super::UNIT;
use super::order::Order;
use super::samples::{MOST, Samples};
use super::setup::Setup;
use crate::header::Steps;
use crate::index::IndexArray;

/// The flag of a unit that is predicted from a reference.
pub(super) const CO_LOCATED: u8 = 1 << 7;

/// Returns whether a unit in layer 0 in mode transform needs the tile of the reference.
pub fn needs_reference(unit: &[u8]) -> bool {
    unit.first().is_some_and(|flags| flags & CO_LOCATED != 0)
}

/// A tile of the reference, and the steps of the tensor that is predicted.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// The elements of the tile as they are at level 0, little-endian, row-major.
    pub elements: &'a [u8],
    /// The dtype of both tensors.
    pub dtype: DType,
    /// The steps of the tensor that is predicted.
    pub steps: &'a Steps,
    /// The place of the tile.
    pub place: &'a Place,
}

impl Reference<'_> {
    /// Returns whether there is one element for each place of the tile.
    pub fn is_whole(&self) -> bool {
        self.elements.len() == self.place.elements() * self.dtype.size()
    }

    /// Returns the elements as samples of a tile whose step is given (see [`Parameters::step`](super::Parameters::step)),
    /// row-major; none if the reference is not whole.
    pub fn samples(&self, step: f32) -> Vec<i32> {
        let Reference { elements, dtype, steps, place } = *self;
        let width = place.columns.len();
        if !self.is_whole() || elements.is_empty() {
            return vec![];
        }
        let scales = |array: &Option<IndexArray>, range: Range<usize>| match array {
            Some(array) => array.slice(range).into_iter().map(scale).collect(),
            None => vec![1.0; range.len()],
        };
        let rows: Vec<f32> = scales(&steps.rows, place.rows.clone());
        let columns: Vec<f32> = scales(&steps.columns, place.columns.clone());
        let (mut out, mut row) = (Vec::with_capacity(place.elements()), Vec::new());
        for (elements, of_row) in elements.chunks_exact(width * dtype.size()).zip(rows) {
            row.clear();
            values::to_f32(dtype, elements, &mut row);
            let unit = step * UNIT * of_row;
            out.extend(row.iter().zip(&columns).map(|(value, of_column)| sample(value / of_column / unit)));
        }
        out
    }
}

/// Rounds to the nearest integer, ties to even; 0 for NaN.
fn sample(value: f32) -> i32 {
    value.round_ties_even().clamp(-(MOST as f32), MOST as f32) as i32
}

/// Returns samples of a tile, row-major, in the order of coding and with the sides of [`Samples`]: the last ones of rows and
/// columns are repeated.
pub fn arranged(samples: &[i32], [height, width]: [usize; 2], setup: &Setup) -> Vec<i32> {
    if samples.len() != height * width || samples.is_empty() {
        return vec![];
    }
    let [rows, columns] = &setup.orders;
    let from = |order: &Option<Order>, i: usize, side: usize| {
        let i = i.min(side - 1);
        order.as_ref().map_or(i, |order| order.places()[i] as usize)
    };
    let Samples { sides, .. } = Samples::new(height, width);
    let columns: Vec<usize> = (0..sides[1]).map(|c| from(columns, c, width)).collect();
    let row = |r: usize| &samples[from(rows, r, height) * width..][..width];
    (0..sides[0]).flat_map(|r| columns.iter().map(move |&c| row(r)[c])).collect()
}
