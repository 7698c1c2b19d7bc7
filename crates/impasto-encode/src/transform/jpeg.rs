//! The preset of JPEG: what a tensor takes at a step.

use impasto_core::Place;

use super::job::scaled;
use super::tile::{Effort, Request, code};
use super::tools::Tools;
use crate::lattice::Grid;
use crate::matrix::MatrixView;
use crate::rate::Rate;

/// Weights that are coded to measure a rate, as much of a tile.
const SAMPLE: usize = 1 << 16;
/// Bytes of a tensor header without classes, about.
const HEADER_BYTES: f64 = 24.0;

/// Measures the rate of a matrix, on the middle of the tile at `place`; `None` if mode transform cannot hold it.
pub fn measure(matrix: &MatrixView, grid: &Grid, place: &Place) -> Option<Rate> {
    let (rows, columns) = (place.rows.len(), place.columns.len());
    let height = (SAMPLE / columns.max(1)).max(1).next_multiple_of(64).min(rows);
    let top = place.rows.start + (rows - height) / 2;
    let sample = Place { rows: top..top + height, columns: place.columns.clone() };
    let values = scaled(matrix, &grid.factors(matrix.rows, matrix.columns), &sample)?;
    let request = Request { effort: Effort::Jpeg, ..Request::new(&values, columns, Tools::JPEG) };
    let bits = code(&request).ok()?.unit.len() as f64 * 8.0 / values.len() as f64;
    Some(Rate { bits, header_bytes: HEADER_BYTES + 0.5 * (grid.rows.len() + grid.columns.len()) as f64 })
}
