//! The preset of JPEG: the code of a tile, and what a tensor takes at a step.

use impasto_core::Place;

use super::job::{rate, scaled};
use super::tile::{Request, code};
use super::tools::Tools;
use crate::lattice::Grid;
use crate::matrix::MatrixView;
use crate::rate::Rate;

/// Weights that are coded to measure a rate, as much of a tile.
const SAMPLE: usize = 1 << 16;

/// Returns the request for a tile of values over their steps, row-major.
pub fn request(values: &[f32], width: usize) -> Request<'_> {
    Request { as_jpeg: true, ..Request::new(values, width, Tools::JPEG) }
}

/// Measures the rate of a matrix, on the middle of the tile at `place`; `None` if mode transform cannot hold it.
pub fn measure(matrix: &MatrixView, grid: &Grid, place: &Place) -> Option<Rate> {
    let (rows, columns) = (place.rows.len(), place.columns.len());
    let height = (SAMPLE / columns.max(1)).max(1).next_multiple_of(64).min(rows);
    let top = place.rows.start + (rows - height) / 2;
    let sample = Place { rows: top..top + height, columns: place.columns.clone() };
    let values = scaled(matrix, &grid.factors(matrix.rows, matrix.columns), &sample)?;
    Some(rate(grid, &code(&request(&values, columns)).ok()?.unit, values.len()))
}
