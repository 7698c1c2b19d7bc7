//! A matrix on a lattice: packed integers, and the low-rank part that is added to them. Each has its own kernel.

use impasto_kernels::low_rank::{self, LowRankMatrix};
use impasto_kernels::packed::{self, PackedMatrix};

use crate::matrix::Tools;

/// A matrix on a lattice, outputs x inputs.
pub(super) struct LatticeMatrix {
    pub(super) packed: PackedMatrix,
    pub(super) low_rank: Option<Box<LowRankMatrix>>,
}

/// Working memory of products.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) packed: packed::Scratch,
    pub(super) low_rank: low_rank::Scratch,
}

impl LatticeMatrix {
    pub(super) fn memory_bytes(&self) -> usize {
        self.packed.memory_bytes() + self.low_rank.as_ref().map_or(0, |low_rank| low_rank.memory_bytes())
    }

    /// Computes `y = W x` for each row x of `x`. The outputs of the rows begin `stride` elements apart in `out`.
    pub(super) fn multiply(&self, x: &[f32], out: &mut [f32], stride: usize, tools: &Tools, scratch: &mut Scratch) {
        let Tools { pool, kernel, activations, workers } = tools;
        let tokens = x.len() / self.packed.inputs();
        self.packed.multiply(*kernel, *activations, x, tokens, out, stride, &mut scratch.packed, pool);
        if let Some(low_rank) = &self.low_rank {
            low_rank.multiply_add(x, out, stride, &mut scratch.low_rank, workers, pool);
        }
    }

    /// Writes the weights of row `row` to `out`, one per input.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        self.packed.row(row, out);
        if let Some(low_rank) = &self.low_rank {
            low_rank.add_row(row, out);
        }
    }
}
