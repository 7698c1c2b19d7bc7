//! A matrix of a delta: that of its base, which may be shared with other models, and what is added to it.

use std::sync::Arc;

use impasto_kernels::low_rank::LowRankMatrix;
use impasto_kernels::packed::Packing;
use impasto_kernels::sparse::SparseMatrix;
use impasto_model::Failure;

use crate::lattice::LatticeMatrix;
use crate::matrix::{Linear, Scratch, Tools};

/// A matrix of a base and what is added to it, outputs x inputs. It may have more outputs than the matrix of the base.
pub(super) struct OverMatrix {
    /// Its bias has no part in this.
    base: Arc<Linear>,
    /// Whether the matrix of the base is that of another model.
    is_shared: bool,
    outputs: usize,
    added: Added,
}

/// What is added to a matrix of a base.
#[derive(Default)]
pub(super) struct Added {
    pub(super) lattice: Option<LatticeMatrix>,
    pub(super) low_rank: Option<LowRankMatrix>,
    pub(super) sparse: Option<SparseMatrix>,
}

impl Added {
    pub(super) fn memory_bytes(&self) -> usize {
        self.lattice.as_ref().map_or(0, LatticeMatrix::memory_bytes)
            + self.low_rank.as_ref().map_or(0, LowRankMatrix::memory_bytes)
            + self.sparse.as_ref().map_or(0, SparseMatrix::memory_bytes)
    }

    /// The shapes of what is here.
    fn shapes(&self) -> impl Iterator<Item = [usize; 2]> {
        let lattice = self.lattice.as_ref().map(|lattice| [lattice.packed.outputs(), lattice.packed.inputs()]);
        let low_rank = self.low_rank.as_ref().map(LowRankMatrix::shape);
        let sparse = self.sparse.as_ref().map(|sparse| [sparse.outputs(), sparse.inputs()]);
        [lattice, low_rank, sparse].into_iter().flatten()
    }
}

impl OverMatrix {
    /// Adds matrices to that of `base`; `None` if the shapes do not fit.
    pub(super) fn new(base: Arc<Linear>, is_shared: bool, shape: [usize; 2], added: Added) -> Option<Self> {
        let [outputs, inputs] = shape;
        let fits = base.inputs() == inputs && base.outputs() <= outputs && added.shapes().all(|of| of == shape);
        fits.then_some(OverMatrix { base, is_shared, outputs, added })
    }

    pub(super) fn inputs(&self) -> usize {
        self.base.inputs()
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes in memory, without what is shared.
    pub(super) fn memory_bytes(&self) -> usize {
        let base = if self.is_shared { 0 } else { self.base.matrix.memory_bytes() };
        base + self.added.memory_bytes()
    }

    /// Adds the statistics of its packed integers to `sum`, without those that are shared.
    pub(super) fn add_packing(&self, sum: &mut Packing) {
        if !self.is_shared {
            self.base.matrix.add_packing(sum);
        }
        self.added.lattice.iter().for_each(|lattice| sum.add(lattice.packed.report()));
    }

    /// Computes `y = W x` for each row x of `x`. The outputs of the rows begin `stride` elements apart in `out`.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn multiply(
        &self,
        x: &[f32],
        out: &mut [f32],
        stride: usize,
        tools: &Tools,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        self.base.matrix.multiply(x, out, stride, tools, scratch)?;
        let (of_base, outputs) = (self.base.outputs(), self.outputs);
        if of_base < outputs {
            out.chunks_mut(stride).for_each(|row| row[of_base..outputs].fill(0.0));
        }
        let Added { lattice, low_rank, sparse } = &self.added;
        if let Some(lattice) = lattice {
            let mut added = std::mem::take(&mut scratch.added);
            added.resize(added.len().max(x.len() / self.inputs() * outputs), 0.0);
            lattice.multiply(x, &mut added, outputs, tools, &mut scratch.lattice);
            for (out, added) in out.chunks_mut(stride).zip(added.chunks_exact(outputs)) {
                out.iter_mut().zip(added).for_each(|(y, added)| *y += added);
            }
            scratch.added = added;
        }
        if let Some(low_rank) = low_rank {
            low_rank.multiply_add(x, out, stride, &mut scratch.lattice.low_rank, &tools.workers, &tools.pool);
        }
        if let Some(sparse) = sparse {
            sparse.multiply_add(x, out, stride, &tools.pool);
        }
        Ok(())
    }

    /// Writes the weights of row `row` to `out`, one per input. `buffer` is working memory.
    ///
    /// # Errors
    /// If a coded matrix does not decode.
    pub(super) fn row(&self, row: usize, out: &mut [f32], buffer: &mut Vec<f32>) -> Result<(), Failure> {
        match row < self.base.outputs() {
            true => self.base.matrix.row(row, out, buffer)?,
            false => out.fill(0.0),
        }
        let Added { lattice, low_rank, sparse } = &self.added;
        if let Some(lattice) = lattice {
            buffer.resize(buffer.len().max(out.len()), 0.0);
            let weights = &mut buffer[..out.len()];
            lattice.row(row, weights);
            out.iter_mut().zip(weights).for_each(|(out, weight)| *out += *weight);
        }
        low_rank.iter().for_each(|low_rank| low_rank.add_row(row, out));
        sparse.iter().for_each(|sparse| sparse.add_row(row, out));
        Ok(())
    }
}
