//! The layers of a tensor: integers nested in those of the top layer, and their units.
//!
//! The integers of the top layer are those of a file without layers (`lattice`). Coarser ones are derived from them
//! (`nest`). Units are coded one tensor at a time, stored in a temporary file, and then put in order of gain per byte
//! (`order`).

pub mod exact;
mod nest;
mod order;
mod refine;

use std::ops::Range;

use impasto_codec::exact::signs_of_row;
use impasto_codec::format::Dequantizer;
use impasto_codec::tile::TileEncoder;
use impasto_codec::{Body, Groups, IndexArray, Refinement, TensorHeader};
use impasto_core::{
    DType, FloatLayout, Isa, Mode, Place,
    lattice::{add_row_at, offset_in_steps, reconstruct_row, scale, weight, write_over_base},
    values,
};
use rayon::prelude::*;

use crate::arithmetic::log2_fixed;
use crate::feedback::{Pruner, WIDTH};
use crate::formats::FormatRounder;
use crate::inputs::LossyTensor;
use crate::lattice::{Factors, Grid, Integers, PathRounder};
use crate::matrix::MatrixView;
use crate::prune::KeepZeros;
use crate::tools::TENSOR_LEVEL;

pub use order::{Increment, order};

/// The error of a tile row is measured on one in `SAMPLE` of its rows, and on at least `LEAST_ROWS`.
const SAMPLE: usize = 16;
const LEAST_ROWS: usize = 4;

/// The layers of a file besides the lossy one that has the requested size or rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// Cumulative sizes of the file at the coarser layers, the coarsest first.
    pub below: Vec<Extent>,
    /// Whether there is an exact layer on top.
    pub exact: bool,
    /// Share of error feedback in coarser layers, 0 to 1. More feedback makes them better and the whole file larger.
    pub feedback: f32,
}

/// The size of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Extent {
    /// In bytes.
    Size(u64),
    /// In bits of the file over all weights.
    BitsPerWeight(f64),
}

impl Default for Layers {
    fn default() -> Self {
        Layers { below: vec![], exact: false, feedback: 0.25 }
    }
}

impl Layers {
    /// Returns whether the file has more than one layer.
    pub fn any(&self) -> bool {
        self.exact || !self.below.is_empty()
    }
}

/// A layer of a tensor, with its own lattice.
struct NestedLayer {
    header: TensorHeader,
    integers: Integers,
    grid: Grid,
    /// Offset of the tensor header, in 256ths of a step.
    offset: u8,
    /// What takes the place of the lattice, if the tensor has a format.
    format: Option<FormatRounder>,
}

/// A tensor in layers.
pub struct Nested<'a> {
    tensor: &'a LossyTensor<'a>,
    /// The base first.
    lattices: Vec<NestedLayer>,
    exact: Option<Exact>,
}

/// The exact layer.
struct Exact {
    header: TensorHeader,
    /// The weights of the layer below, as a decoder makes them.
    predicted: Vec<u8>,
}

impl<'a> Nested<'a> {
    /// Derives coarser layers from the integers `top` of a tensor on a grid. `factors` are those of the refinements,
    /// from finest to coarsest. On a trellis, `parts` are the rows of the segments, in order; the integers of each layer are
    /// paths in them.
    pub fn new(
        tensor: &'a LossyTensor<'a>,
        top: Integers,
        grid: &Grid,
        factors: &[u8],
        options: &Layers,
        parts: &[Range<usize>],
    ) -> Nested<'a> {
        let LossyTensor { matrix, feedback, costs, .. } = tensor;
        let trellis = tensor.trellis.filter(|_| grid.trellis.is_some());
        let zeros = tensor.pruning.map(|_| &KeepZeros as &dyn Pruner);
        // From the top down: integers, grid and offset of each layer, and the refinements that lead back up.
        let mut chain: Vec<(Integers, Grid, u8)> = vec![(top, grid.clone(), 0)];
        let mut refinements = Vec::new();
        for &factor in factors {
            let Some((fine, grid, offset)) = chain.last() else { break };
            let refinement = Refinement::new(factor, grid.step);
            refinements.push(Refinement { offset: *offset, trellis: grid.trellis, ..refinement });
            let steps = grid.factors(matrix.rows, matrix.columns);
            // The steps of all rows must be finite (SPEC 12.4).
            let largest = grid.rows.iter().max().map_or(1.0, |&index| scale(index.into())).max(1.0);
            let grid = Grid { step: (grid.step * f32::from(factor)).min(f32::MAX / largest), ..grid.clone() };
            let kept = options.feedback;
            let (z, coarse_offset) = match trellis {
                None => {
                    let offset = nest::offset(&fine.z, factor);
                    (nest::coarsen(&fine.z, &steps, factor, offset, feedback, kept, zeros), offset)
                }
                Some(trellis) => {
                    // The weights of a layer below have no dtype yet.
                    let paths = PathRounder::new(DType::F32, tensor.scales, &grid, trellis);
                    (nest::coarsen_to_paths(&fine.z, &steps, feedback, kept, &paths, parts), 0)
                }
            };
            chain.push((Integers::whole(z, matrix.columns), grid, coarse_offset));
        }
        let mut lattices: Vec<NestedLayer> = Vec::new();
        // Classes of the scale of the layer below.
        let (mut rows, mut columns) = (vec![], vec![]);
        for (integers, grid, offset) in chain.into_iter().rev() {
            let refinement = if lattices.is_empty() { None } else { refinements.pop() };
            let header = match lattices.last().zip(refinement) {
                Some((below, refinement)) => {
                    let refined = refine::Refined {
                        refinement: refinement.clone(),
                        coarse: &below.integers.z,
                        fine: &integers.z,
                        row_classes: &rows,
                        column_classes: &columns,
                    };
                    let header = refined.header();
                    let finer = classes_of(refinement.factor);
                    rows.iter_mut().for_each(|class: &mut i16| *class = class.saturating_add(finer));
                    header
                }
                None => {
                    let (mut header, _) = integers.header(&grid.body(), costs);
                    // An index is half of an integer.
                    let plane = 4 * (i16::from(header.plane) + i16::from(trellis.is_some()));
                    let classes =
                        |array: &IndexArray, n: usize| array.slice(0..n).into_iter().map(|class| class as i16);
                    rows = classes(&header.row_classes, matrix.rows).map(|class| class.saturating_add(plane)).collect();
                    columns = classes(&header.column_classes, matrix.columns).collect();
                    if let Body::Lattice(steps) = &mut header.body {
                        steps.offset = offset;
                    }
                    header
                }
            };
            lattices.push(NestedLayer { header, integers, grid, offset, format: None });
        }
        let exact = options.exact.then(|| Exact::new(matrix, &lattices)).flatten();
        Nested { tensor, lattices, exact }
    }

    /// Wraps the integers of a tensor with a format, which is its only lossy layer.
    pub fn of_format(tensor: &'a LossyTensor<'a>, integers: Integers, groups: Groups, options: &Layers) -> Nested<'a> {
        let format = Some(tensor.rounder(&groups));
        let (header, _) = integers.header(&Body::Format(groups), tensor.costs);
        let grid = Grid::new(1.0);
        let lattices = vec![NestedLayer { header, integers, grid, offset: 0, format }];
        let exact = options.exact.then(|| Exact::new(&tensor.matrix, &lattices)).flatten();
        Nested { tensor, lattices, exact }
    }

    /// Returns the number of layers.
    pub fn layers(&self) -> usize {
        self.lattices.len() + usize::from(self.exact.is_some())
    }

    /// Returns the tensor headers of all layers, the base first.
    pub fn headers(&self) -> impl Iterator<Item = &TensorHeader> {
        self.lattices.iter().map(|layer| &layer.header).chain(self.exact.as_ref().map(|exact| &exact.header))
    }

    /// Returns the unit of a tile in each layer, with its mode, or `None` if the lattice cannot code the tile.
    pub fn tile(&self, place: &Place, segments: usize) -> Option<Vec<(Mode, Vec<u8>)>> {
        let parts: Vec<Vec<i32>> = self.lattices.iter().map(|layer| layer.integers.tile(place)).collect();
        let mut units = Vec::with_capacity(self.layers());
        for (layer, z) in parts.iter().enumerate() {
            let encoder = TileEncoder::new(&self.lattices[layer].header, segments);
            units.push(match layer.checked_sub(1) {
                None => (Mode::LATTICE, encoder.lattice(place, z)?),
                Some(below) => (Mode::REFINEMENT, encoder.refinement(place, &parts[below], z)?),
            });
        }
        if let (Some(exact), Some(z)) = (&self.exact, parts.last()) {
            let encoder = TileEncoder::new(&exact.header, segments);
            let dtype = self.tensor.matrix.dtype;
            let bytes = |r: usize| place.columns.start * dtype.size() + r * self.tensor.matrix.columns * dtype.size();
            let width = place.columns.len() * dtype.size();
            let predicted: Vec<u8> =
                place.rows.clone().flat_map(|r| &exact.predicted[bytes(r)..][..width]).copied().collect();
            let matrix = &self.tensor.matrix;
            if matches!(exact.header.body, Body::Blocks(_)) {
                let rows = place.rows.clone();
                let blocks: Vec<u8> = rows.flat_map(|r| matrix.blocks(r, place.columns.clone())).copied().collect();
                let unit = encoder.blocks(place, &exact::floats(&predicted), &blocks, TENSOR_LEVEL);
                units.push((Mode::BLOCKS, unit.ok()??));
                return Some(units);
            }
            let rows = place.rows.clone().map(|r| matrix.part(r, place.columns.clone()));
            let elements: Vec<u8> = rows.flat_map(|row| row.into_owned()).collect();
            let format = self.lattices.last().and_then(|layer| layer.format.as_ref());
            let mut signs: Option<Vec<i32>> = format.map(|format| z.iter().map(|&z| format.sign(z)).collect());
            if let Some(layout) = dtype.float_layout().filter(|_| matrix.over.is_some()) {
                // Over a base, the sign of the weight is all that counts (SPEC 21.6).
                signs_of_row(Isa::best(), layout, &predicted, signs.insert(Vec::new()));
            }
            let z = signs.as_deref().unwrap_or(z);
            units.push((Mode::EXACT, encoder.exact(dtype, place, z, &predicted, &elements)?));
        }
        Some(units)
    }

    /// Returns whether the integers of its layers are on a trellis.
    pub fn is_on_trellis(&self) -> bool {
        self.lattices.iter().any(|layer| layer.grid.trellis.is_some())
    }

    /// Returns whether the top layer is one of blocks.
    pub fn ends_in_blocks(&self) -> bool {
        self.exact.as_ref().is_some_and(|exact| matches!(exact.header.body, Body::Blocks(_)))
    }

    /// Returns the squared error of a tile in the top layer, in squared steps of that layer.
    pub fn distortion(&self, place: &Place) -> f64 {
        match self.lattices.last() {
            // No other tool competes with a format.
            Some(top) if self.exact.is_none() && top.format.is_none() => {
                top.integers.distortion(&self.tensor.matrix, &top.grid, place)
            }
            _ => 0.0,
        }
    }

    /// Returns the error of a tile row in each layer, weighted by the metric except for the tensor's own factor, and
    /// estimated from some of its rows. It is 0 in an exact layer.
    pub fn errors(&self, rows: Range<usize>) -> Vec<f64> {
        let LossyTensor { feedback, metric, .. } = self.tensor;
        let count = rows.len().div_ceil(SAMPLE).max(LEAST_ROWS).min(rows.len());
        let chosen: Vec<usize> = (0..count).map(|i| rows.start + i * rows.len() / count.max(1)).collect();
        let n = self.tensor.matrix.columns;
        let mut errors = Vec::with_capacity(self.layers());
        let mut weights = Vec::new();
        for layer in &self.lattices {
            let Factors { rows: factors, columns } = layer.grid.factors(self.tensor.matrix.rows, n);
            let offset = offset_in_steps(layer.offset);
            let mut sum = 0.0;
            for some in chosen.chunks(WIDTH) {
                let mut differences = Vec::with_capacity(some.len() * n);
                for &r in some {
                    self.tensor.matrix.weights(r, &mut weights);
                    // A row's error is weighted by the inverse square of its step (`metric`).
                    let row_weight = scale(-i32::from(metric.rows.get(r).copied().unwrap_or(0)));
                    let z = &layer.integers.z[r * n..(r + 1) * n];
                    let coded = |c: usize| match &layer.format {
                        Some(format) => format.weight_at(r, c, z[c]),
                        None => weight(z[c], offset, columns[c], factors[r]),
                    };
                    differences.extend(weights.iter().enumerate().map(|(c, &w)| (w - coded(c)) * row_weight));
                }
                sum += feedback.square(&differences);
            }
            errors.push(sum * rows.len() as f64 / count.max(1) as f64);
        }
        if self.exact.is_some() {
            errors.push(0.0);
        }
        errors
    }
}

impl Exact {
    /// Creates an exact layer above the finest of `lattices`, or returns `None` if the dtype has no float layout.
    fn new(matrix: &MatrixView, lattices: &[NestedLayer]) -> Option<Exact> {
        let layout: FloatLayout = matrix.dtype.float_layout()?;
        let top = lattices.last()?;
        let (n, z) = (matrix.columns.max(1), &top.integers.z);
        let Factors { rows, columns } = top.grid.factors(matrix.rows, matrix.columns);
        let mut predicted = vec![0; z.len() * matrix.dtype.size()];
        let out = predicted.par_chunks_mut(n * matrix.dtype.size());
        out.zip(z.par_chunks(n)).zip(&rows).for_each(|((out, z), &row)| {
            reconstruct_row(matrix.dtype, z, top.offset, &columns, row, out);
        });
        if let Some(groups) = top.header.groups() {
            let format = Dequantizer::new(matrix.dtype, groups, &Place { rows: 0..matrix.rows, columns: 0..n });
            let out = predicted.par_chunks_mut(n * matrix.dtype.size()).enumerate();
            out.zip(z.par_chunks(n)).for_each(|((r, out), z)| format.row(r, z, out));
        }
        if let Some(over) = matrix.over {
            let size = matrix.dtype.size();
            let out = predicted.par_chunks_mut(n * size).zip(over.par_chunks(n * size)).zip(z.par_chunks(n)).zip(&rows);
            out.for_each(|(((out, over), z), &row)| {
                reconstruct_over(matrix.dtype, z, top.offset, &columns, row, over, out)
            });
        }
        let elements = matrix.elements(0..matrix.len());
        let of_base = matrix.over.map(|_| {
            let mut signs = Vec::new();
            signs_of_row(Isa::best(), layout, &predicted, &mut signs);
            signs
        });
        let signs: Option<Vec<i32>> =
            of_base.or_else(|| top.format.as_ref().map(|format| z.iter().map(|&z| format.sign(z)).collect()));
        let layer = exact::Predicted {
            dtype: matrix.dtype,
            layout,
            grid: &top.grid,
            z: signs.as_ref().unwrap_or(z),
            columns: matrix.columns,
            predicted: &predicted,
            elements: &elements,
        };
        let header = match matrix.made_of_blocks() {
            Some(dtype) => layer.header_of_blocks(dtype, |r| matrix.blocks(r, 0..matrix.columns)),
            None => layer.header(),
        };
        Some(Exact { header, predicted })
    }
}

/// Writes the weights of a row on a lattice over a base, whose elements are `over`, as a decoder makes them (SPEC 21.7).
fn reconstruct_over(dtype: DType, z: &[i32], offset: u8, columns: &[f32], row: f32, over: &[u8], out: &mut [u8]) {
    let (mut sums, mut of_base) = (vec![0.0; z.len()], Vec::with_capacity(z.len()));
    add_row_at(Isa::best(), z, offset, columns, row, &mut sums);
    values::to_f32(dtype, over, &mut of_base);
    write_over_base(Isa::best(), dtype, &mut sums, &of_base, over, out);
}

/// Returns how many classes wider the integers become when their step is divided by `factor`.
fn classes_of(factor: u8) -> i16 {
    ((log2_fixed(factor.into()).unwrap_or(0) + (1 << 13)) >> 14) as i16
}

#[cfg(test)]
mod tests;
