//! The matrices of a base that those of a delta are added to.

use std::collections::HashMap;
use std::sync::Arc;

use impasto_kernels::low_rank::{LowRankMatrix, MOST_RANK};
use impasto_kernels::sparse::SparseMatrix;
use impasto_model::{Difference, LowRankFactors, ModelError, Result, SparseRows};

use super::{MatrixLoader, Residence, Wanted, timed};
use crate::lattice::LatticeMatrix;
use crate::matrix::{Linear, Matrix};
use crate::over::{Added, OverMatrix};
use crate::weights::Weights;

/// Matrices of a base, by name.
#[derive(Default)]
pub(super) struct OfBase {
    matrices: HashMap<String, Arc<Linear>>,
    /// Whether they are those of another model.
    is_shared: bool,
}

/// A matrix of the base, and what is added to it besides integers.
pub(super) struct Place<'a> {
    wanted: Wanted<'a>,
    base: Arc<Linear>,
    is_shared: bool,
    added: Added,
}

impl OfBase {
    /// Returns those of a model in memory.
    pub(super) fn shared(weights: &Weights) -> OfBase {
        let matrices = weights.linears().map(|linear| (linear.name.clone(), linear.clone())).collect();
        OfBase { matrices, is_shared: true }
    }

    /// Loads those to which `wanted` ones add integers, if they are integers themselves: together they take less memory than
    /// floats.
    ///
    /// # Errors
    /// Those of [`MatrixLoader::load`].
    pub(super) fn load(loader: &MatrixLoader<'_>, wanted: &[Wanted<'_>]) -> Result<OfBase> {
        let Some(base) = loader.source.base().filter(|_| loader.residence == Residence::Packed) else {
            return Ok(OfBase::default());
        };
        let mut names: Vec<(String, [usize; 2])> = Vec::new();
        for wanted in wanted {
            let failed = |source| ModelError::Tensor { name: wanted.name.into(), source };
            let Some(name) = loader.source.name_in_base(wanted.name) else { continue };
            let Some(lattice) = base.lattice(&name).map_err(failed)? else { continue };
            let adds = |difference: Option<Difference<'_>>| difference.is_some_and(|found| found.lattice.is_some());
            if adds(loader.source.difference(wanted.name).map_err(failed)?) {
                let shape = lattice.shape();
                names.push((name, shape));
            }
        }
        names.sort();
        names.dedup();
        let of_base: Vec<Wanted<'_>> = names.iter().map(|(name, shape)| Wanted { name, shape: *shape }).collect();
        let matrices = if of_base.is_empty() { vec![] } else { loader.of(base).load_into(&of_base, loader)? };
        let linear = |(wanted, matrix): (&Wanted<'_>, Matrix)| {
            let name = wanted.name.to_owned();
            (name.clone(), Arc::new(Linear { name, matrix, bias: None }))
        };
        Ok(OfBase { matrices: of_base.iter().zip(matrices).map(linear).collect(), is_shared: false })
    }

    /// Returns the matrix that a wanted one is added to, and what is added; `None` if it is not.
    pub(super) fn place<'a>(
        &self,
        loader: &MatrixLoader<'a>,
        wanted: Wanted<'a>,
    ) -> Result<Option<(Place<'a>, Difference<'a>)>> {
        let name = if self.matrices.is_empty() { None } else { loader.source.name_in_base(wanted.name) };
        let Some(base) = name.and_then(|name| self.matrices.get(&name)) else { return Ok(None) };
        let failed = |source| ModelError::Tensor { name: wanted.name.into(), source };
        let difference = timed(&loader.decode, || loader.source.difference(wanted.name)).map_err(failed)?;
        let place = || Place { wanted, base: base.clone(), is_shared: self.is_shared, added: Added::default() };
        Ok(difference.map(|difference| (place(), difference)))
    }
}

impl Place<'_> {
    /// Adds a matrix of low rank, and a sparse one.
    pub(super) fn with(
        self,
        loader: &MatrixLoader<'_>,
        low_rank: Option<LowRankFactors>,
        sparse: Option<SparseRows>,
    ) -> Result<Self> {
        let [outputs, inputs] = self.wanted.shape;
        let low_rank = low_rank.filter(|factors| !factors.scales.is_empty());
        let low_rank = low_rank.map(|LowRankFactors { left, scales, right }| {
            let rank = scales.len();
            let fits = [left.len(), right.len()] == [outputs, inputs].map(|side| side.saturating_mul(rank));
            let fits = fits && rank <= MOST_RANK;
            fits.then(|| LowRankMatrix::new(&left, scales, &right, loader.arena)).ok_or_else(|| self.misfit())
        });
        let sparse = sparse.map(|SparseRows { ends, columns, values }| {
            SparseMatrix::new(inputs, ends, columns, values).ok_or_else(|| self.misfit())
        });
        Ok(Place {
            added: Added { low_rank: low_rank.transpose()?, sparse: sparse.transpose()?, lattice: None },
            ..self
        })
    }

    /// Returns the matrix, with these integers.
    pub(super) fn fill(self, loader: &MatrixLoader<'_>, lattice: Option<LatticeMatrix>) -> Result<Matrix> {
        let misfit = self.misfit();
        let Place { wanted, base, is_shared, added } = self;
        let added = Added { lattice, ..added };
        loader.budget.spend(added.memory_bytes())?;
        let over = OverMatrix::new(base, is_shared, wanted.shape, added).ok_or(misfit)?;
        Ok(Matrix::Over(Box::new(over)))
    }

    fn misfit(&self) -> ModelError {
        let source = "what is added to the matrix of the base does not have its shape".into();
        ModelError::Tensor { name: self.wanted.name.into(), source }
    }
}
