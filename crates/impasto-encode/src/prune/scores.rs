//! The choice of the weights that become 0, by their scores.

use std::ops::Range;

use super::{Criterion, Pattern, Pruning};
use crate::feedback::{BLOCK, Feedback, Pruner, Row};
use impasto_core::lattice::scale;

/// Chooses by scores: the square of a weight or target, times the weight of its column.
pub struct Scores {
    pattern: Pattern,
    /// Whether scores are those of targets, not of weights.
    is_adaptive: bool,
    columns: Vec<f32>,
    /// Weights of rows; empty if all are the same.
    rows: Vec<f32>,
}

impl Scores {
    /// Creates the choice for a matrix whose inputs have this covariance, and whose rows have these step indices.
    pub fn new(pruning: &Pruning, feedback: &Feedback, row_steps: &[i16]) -> Scores {
        let columns = match pruning.criterion {
            Criterion::Magnitude => vec![1.0; feedback.inputs()],
            Criterion::Wanda => feedback.mean_squares().iter().map(|&square| square as f32).collect(),
            Criterion::SparseGpt => feedback.diagonal().iter().map(|l| (l * l) as f32).collect(),
        };
        // A row's error is weighted by the inverse square of its step (`metric`).
        let rows = row_steps.iter().map(|&step| scale(-i32::from(step)).powi(2)).collect();
        Scores { pattern: pruning.pattern, is_adaptive: pruning.criterion == Criterion::SparseGpt, columns, rows }
    }

    /// Returns how many of `count` weights become 0.
    fn pruned(&self, count: usize) -> usize {
        match self.pattern {
            Pattern::Share(share) => (count as f64 * share).round_ties_even() as usize,
            Pattern::Groups { kept, .. } => count.saturating_sub(kept.into()),
        }
    }

    /// Sets the bits of the weights with the least scores, which are given with their places: column and lane.
    fn mark(&self, scores: &mut [(f32, u32, u8)], pruned: &mut [u16]) {
        let count = self.pruned(scores.len());
        if count == 0 {
            return;
        }
        // Places differ, so the choice does not depend on how equal scores are sorted.
        scores.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2))));
        scores[..count].iter().for_each(|&(_, column, lane)| pruned[column as usize] |= 1 << lane);
    }
}

impl Pruner for Scores {
    fn group(&self, column: usize) -> usize {
        match self.pattern {
            Pattern::Groups { of, .. } => column - column % usize::from(of),
            // The blocks of a run, which begin at the last column.
            Pattern::Share(_) if self.is_adaptive => {
                let after = self.columns.len() - 1 - column;
                (self.columns.len() - after / BLOCK * BLOCK).saturating_sub(BLOCK)
            }
            Pattern::Share(_) => 0,
        }
    }

    fn choose(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        weights: &[Row<f32>],
        targets: &[Row<f32>],
        pruned: &mut [u16],
    ) {
        pruned.fill(0);
        let values = if self.is_adaptive { targets } else { weights };
        let pools_rows = self.is_adaptive && matches!(self.pattern, Pattern::Share(_));
        let mut scores = Vec::with_capacity(columns.len() * if pools_rows { rows.len() } else { 1 });
        for (lane, row) in rows.clone().enumerate() {
            let row = if pools_rows { self.rows.get(row).copied().unwrap_or(1.0) } else { 1.0 };
            let columns = self.columns[columns.clone()].iter().zip(values).zip(0u32..);
            scores.extend(
                columns.map(|((&weight, values), at)| (values[lane] * values[lane] * weight * row, at, lane as u8)),
            );
            if !pools_rows {
                self.mark(&mut scores, pruned);
                scores.clear();
            }
        }
        if pools_rows {
            self.mark(&mut scores, pruned);
        }
    }
}

/// Keeps zeros: what is 0 in the finer layer is 0 in the coarser one, whatever error feedback asks for.
pub struct KeepZeros;

impl Pruner for KeepZeros {
    fn group(&self, column: usize) -> usize {
        column
    }

    fn choose(&self, _: Range<usize>, _: Range<usize>, weights: &[Row<f32>], _: &[Row<f32>], pruned: &mut [u16]) {
        for (pruned, weights) in pruned.iter_mut().zip(weights) {
            *pruned = (0..weights.len()).fold(0, |bits, lane| bits | u16::from(weights[lane] == 0.0) << lane);
        }
    }
}
