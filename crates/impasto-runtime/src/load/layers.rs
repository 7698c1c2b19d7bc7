//! Loads the layers of matrices together.

use std::sync::OnceLock;

use impasto_kernels::low_rank::LowRankMatrix;
use impasto_kernels::packed::{ColumnOrder, LayerRows, NestedMatrix, NestedRows, PackError};
use impasto_model::{LatticeRows, LatticeTensor, LowRankFactors, ModelError, Result, WeightSource};

use super::{MatrixLoader, Wanted, timed};
use crate::layered::{LayeredMatrix, Place};
use crate::matrix::Matrix;

/// The layers of a matrix that are on one lattice, from the coarsest.
type Lattices<'a> = Vec<Box<dyn LatticeTensor + 'a>>;

/// Loads matrices in all layers. `coarser` are the sources of the layers below that of `loader`, from the coarsest.
///
/// # Errors
/// Those of [`MatrixLoader::load`].
pub(in crate::load) fn load(
    loader: &MatrixLoader<'_>,
    coarser: &[&dyn WeightSource],
    wanted: &[Wanted<'_>],
) -> Result<Vec<Matrix>> {
    let sources: Vec<&dyn WeightSource> = coarser.iter().copied().chain([loader.source]).collect();
    wanted.iter().map(|&wanted| load_one(loader, &sources, wanted)).collect()
}

fn load_one(loader: &MatrixLoader<'_>, sources: &[&dyn WeightSource], wanted: Wanted<'_>) -> Result<Matrix> {
    let failed = |source| ModelError::Tensor { name: wanted.name.into(), source };
    let (mut lattices, mut places) = (Lattices::new(), Vec::<Place>::new());
    let mut whole_sources: Vec<&dyn WeightSource> = Vec::new();
    for (layer, source) in sources.iter().enumerate() {
        // A layer that has no more of this tensor is that below.
        let extent = source.extent_of(wanted.name);
        if let Some(&below) = places.last()
            && extent > 0
            && extent == sources[layer - 1].extent_of(wanted.name)
        {
            places.push(below);
            continue;
        }
        let lattice = if whole_sources.is_empty() { source.lattice(wanted.name).map_err(failed)? } else { None };
        match lattice.filter(|lattice| lattices.first().is_none_or(|base| is_nested(&**base, &**lattice))) {
            Some(lattice) => {
                places.push(Place::Nested(lattices.len()));
                lattices.push(lattice);
            }
            None => {
                places.push(Place::Whole(whole_sources.len()));
                whole_sources.push(*source);
            }
        }
    }
    if places.iter().all(|place| *place == places[0]) {
        // Also where all are the same, the finest is read, because a warning belongs to it.
        return only(loader.load(&[wanted])?, wanted);
    }
    let (nested, low_rank) = match pack(loader, wanted, &lattices)? {
        Ok(nested) => {
            loader.budget.spend(nested.memory_bytes())?;
            let low_rank = lattices.first().and_then(|base| base.low_rank());
            let matrix = |LowRankFactors { left, scales, right }| {
                Box::new(LowRankMatrix::new(&left, scales, &right, loader.arena))
            };
            (Some(nested), low_rank.map(matrix))
        }
        Err(_) => {
            // What cannot be packed is loaded layer by layer, which says why.
            let mut all: Vec<&dyn WeightSource> = Vec::new();
            for (layer, place) in places.iter_mut().enumerate() {
                let is_new =
                    layer == 0 || sources[layer].extent_of(wanted.name) != sources[layer - 1].extent_of(wanted.name);
                if is_new {
                    all.push(sources[layer]);
                }
                *place = Place::Whole(all.len() - 1);
            }
            whole_sources = all;
            (None, None)
        }
    };
    drop(lattices);
    let load = |source: &&dyn WeightSource| only(loader.of(*source).load_into(&[wanted], loader)?, wanted);
    let whole = whole_sources.iter().map(load).collect::<Result<Vec<Matrix>>>()?;
    let layers = LayeredMatrix { nested, low_rank, whole, places };
    let finest = sources.len() - 1;
    Ok(Matrix::Layered(layers.into(), finest))
}

fn only(mut matrices: Vec<Matrix>, wanted: Wanted<'_>) -> Result<Matrix> {
    matrices.pop().ok_or_else(|| ModelError::NoLinear { name: wanted.name.into() })
}

/// Returns whether two tensors differ only in their integers and the steps of rows.
fn is_nested(base: &dyn LatticeTensor, other: &dyn LatticeTensor) -> bool {
    base.column_steps() == other.column_steps()
        && base.column_widths() == other.column_widths()
        && base.tile_rows() == other.tile_rows()
        && base.low_rank() == other.low_rank()
}

/// Reads and packs all layers, on all workers. The inner error says why they cannot be packed.
fn pack(
    loader: &MatrixLoader<'_>,
    Wanted { name, shape: [outputs, inputs] }: Wanted<'_>,
    lattices: &Lattices<'_>,
) -> Result<Result<NestedMatrix, PackError>> {
    let Some(base) = lattices.first() else {
        return Ok(Err(PackError::Count { what: "layers", found: 0, expected: 1 }));
    };
    // A packed weight takes about one bit or more.
    loader.budget.admit(outputs.saturating_mul(inputs) / 8)?;
    let factors = base.rank().saturating_mul(outputs.saturating_add(inputs));
    loader.budget.admit(factors.saturating_mul(2 * size_of::<u16>()))?;
    let columns = match ColumnOrder::new(base.column_steps(), base.column_widths()) {
        Ok(columns) => columns,
        Err(error) => return Ok(Err(error)),
    };
    let parts: Vec<OnceLock<Result<NestedRows, PackError>>> =
        base.tile_rows().iter().map(|_| OnceLock::new()).collect();
    loader.pool.try_run(parts.len(), &|_, part| {
        let mut layers = Vec::with_capacity(lattices.len());
        for lattice in lattices {
            let mut rows = LatticeRows::default();
            let read = timed(&loader.decode, || lattice.read(part, &mut rows));
            read.map_err(|source| ModelError::Tensor { name: name.into(), source })?;
            layers.push(rows);
        }
        let packed = timed(&loader.pack, || pack_rows(&columns, &layers).map(|rows| rows.keep_in(loader.arena)));
        parts[part].get_or_init(|| packed);
        Ok(())
    })?;
    let rows = parts.into_iter().filter_map(OnceLock::into_inner).collect::<Result<Vec<_>, PackError>>();
    Ok(rows.and_then(|rows| NestedMatrix::new(columns, rows)))
}

/// Packs the layers of a tile row.
fn pack_rows(columns: &ColumnOrder, layers: &[LatticeRows]) -> Result<NestedRows, PackError> {
    let rows: Vec<LayerRows> = layers
        .iter()
        .map(|LatticeRows { integers, row_steps, offset, .. }| LayerRows { integers, row_steps, offset: *offset })
        .collect();
    let widths = layers.first().map_or(&[][..], |base| &base.row_widths);
    NestedRows::pack(&rows, columns, widths)
}
