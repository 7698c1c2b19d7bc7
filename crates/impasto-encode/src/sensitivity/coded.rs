//! Tensors coded alone at a rate, and the error that it makes.

use rayon::prelude::*;

use crate::arithmetic::log2;
use crate::drift::restored;
use crate::error::EncodeError;
use crate::inputs::Inputs;
use crate::lattice::Rows;
use crate::rate::{Found, search, usual_step};

/// Share of the wanted size within which a rate is near enough.
const NEAR: u64 = 100;

/// A tensor coded at the rate.
pub struct Coded {
    /// Its index in the file.
    pub tensor: usize,
    /// Bits per weight, about: measured on some of its rows.
    pub bits: f64,
    /// Coded weights minus original ones, rows x columns as in transformers.
    pub error: Vec<f32>,
    /// Number of columns.
    pub columns: usize,
    /// Mean square of its weights.
    pub mean_square: f64,
}

impl Coded {
    /// Returns the sum of the squares of the error.
    pub fn square(&self) -> f64 {
        self.error.par_chunks(1 << 16).map(|part| part.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>()).sum()
    }
}

/// Codes a tensor on its lattice at the step that gives it so many bits per weight, with the feedback of its covariance. Returns
/// `None` if no step does.
pub fn code(inputs: &Inputs, tensor: usize, bits: f64) -> Result<Option<Coded>, EncodeError> {
    let Some(lossy) = inputs.lossy(tensor)? else { return Ok(None) };
    let weights = lossy.matrix.len();
    let wanted = (bits * weights as f64 / 8.0) as u64;
    let mut found = bits;
    let size = |step: f64| {
        let grid = lossy.lattice_grid(step);
        let all = lossy.round(&grid, Rows::Sample).rate(&grid.body(), lossy.costs).all_bits(weights);
        found = all / weights as f64;
        Ok::<_, EncodeError>((all / 8.0) as u64)
    };
    let start = usual_step(bits) + log2(lossy.scales.mean_square.sqrt() / lossy.metric.relative);
    let Found::Step(step) = search(wanted, (wanted / NEAR).max(1), weights as u64, start, size)? else {
        return Ok(None);
    };
    let grid = lossy.lattice_grid(step);
    let mut error = lossy.round(&grid, Rows::All).weights(lossy.matrix.dtype, &grid);
    let (columns, matrix) = (lossy.matrix.columns, &lossy.matrix);
    error.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, error)| {
        let mut original = Vec::with_capacity(columns);
        matrix.append_weights(row, &mut original);
        error.iter_mut().zip(&original).for_each(|(e, w)| *e -= w);
    });
    let error = restored(&inputs.tensors[tensor], columns, error);
    let mean_square = lossy.scales.mean_square;
    inputs.release(tensor);
    Ok(Some(Coded { tensor, bits: found, error, columns, mean_square }))
}
