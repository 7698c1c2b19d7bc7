//! The low-rank part of a tensor, as the encoder would take it away.

use std::sync::Arc;

use super::report::LowRankAnalysis;
use crate::inputs::LossyTensor;
use crate::lattice::{Grid, Rows, round};
use crate::low_rank::of_weights;
use crate::matrix::MatrixView;
use crate::scales::Scales;

/// Returns the low-rank part that the encoder finds in a tensor for a file of `rate` bits per weight, and what it saves at
/// a global step; `None` if it finds none.
pub fn analyze(tensor: &LossyTensor, step: f64, rate: f64) -> Option<LowRankAnalysis> {
    let (part, scales) = of_weights(&tensor.matrix, tensor.scales, rate)?;
    let (rank, part) = (part.terms.len(), Arc::new(part));
    let bits = |matrix: &MatrixView, scales: &Scales, grid: &Grid| {
        let integers = round(matrix, scales, &tensor.feedback, grid, (tensor.costs, None), None, Rows::Sample);
        integers.rate(&grid.body(), tensor.costs).all_bits(matrix.len()) / matrix.len().max(1) as f64
    };
    let grid = tensor.grid(step);
    let whole = bits(&tensor.matrix, tensor.scales, &grid);
    let left = MatrixView { less: Some(&part), ..tensor.matrix };
    let saved = whole - bits(&left, &scales, &Grid { low_rank: Some(part.clone()), ..grid });
    Some(LowRankAnalysis { rank, saved: super::tensor::rounded(saved) })
}
