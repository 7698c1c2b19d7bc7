//! Codes the units of all layers and stores them until their order is known.

use std::path::Path;

use impasto_codec::tables::Frequencies;
use impasto_codec::{Body, CodecError, Kind, LowRank, Refinement, Shape, TensorHeader};
use impasto_container::UnitSlot;
use impasto_core::lattice::scale;
use impasto_core::{Mode, Place};
use rayon::prelude::*;

use super::ladder::Ladder;
use crate::arithmetic::log2;
use crate::aside::{Aside, Mark, TileRow, Unit};
use crate::code::{code_tensor, parts, plain_header, segments};
use crate::error::{EncodeError, heard};
use crate::inputs::LossyTensor;
use crate::lattice::{Grid, Rows};
use crate::layers::{Increment, Nested};
use crate::layout::layout;
use crate::options::Progress;
use crate::plan::{Coding, Plan};
use crate::planner::Planner;
use crate::report::TensorReport;
use crate::tools::{Layered, Tile, Units, code_lossy};
use crate::transform;

/// Tile rows that are coded together; bounds memory.
const BATCH: usize = 64;

/// Codes everything: the layers of each tensor at the steps of `ladder`. `plans` are for the global step of its top layer.
///
/// # Errors
/// If coding fails, or writing to the temporary file.
pub fn set_aside(
    planner: &Planner,
    path: &Path,
    mut plans: Vec<Option<Plan>>,
    ladder: &mut Ladder,
) -> Result<Aside, EncodeError> {
    let Planner { inputs, assets, .. } = planner;
    let (objects, slots) = layout(assets, &inputs.tensors, &plans);
    let mut aside = Aside::new(path, inputs.base().cloned(), objects)?;
    for (object, asset) in assets.iter().enumerate() {
        for (tile, (mode, bytes)) in asset.pieces.iter().enumerate() {
            aside.push_base(slot(object, tile as u32, 0, false), *mode, bytes)?;
        }
    }
    let (assets, count) = (aside.since(&Mark::default()).base, plans.len());
    ladder.start(planner, &aside.objects, &slots, assets);
    for (i, (tensor, plan)) in inputs.tensors.iter().zip(&mut plans).enumerate() {
        heard((planner.watch)(Progress::Coding(&tensor.name, i, count)))?;
        let before = aside.mark();
        let report = match plan {
            None => TensorReport { base: tensor.usage(None), ..TensorReport::new(tensor, None, 0) },
            Some(plan) => {
                let mut rungs = ladder.next(i, planner.has_layers(i).then(|| tensor.weights()));
                loop {
                    if rungs.is_moved() {
                        planner.change_step(i, plan, rungs.step)?;
                    }
                    let report = code(planner, &mut aside, i, plan, &rungs.factors)?;
                    match ladder.again(i, &rungs, aside.since(&before)) {
                        Some(other) => rungs = other,
                        None => break report,
                    }
                    aside.return_to(&before);
                }
            }
        };
        inputs.release(i);
        aside.tensors.push(report);
    }
    Ok(aside)
}

/// Codes all layers of a tensor.
fn code(
    planner: &Planner,
    aside: &mut Aside,
    i: usize,
    plan: &Plan,
    factors: &[u8],
) -> Result<TensorReport, EncodeError> {
    let Planner { inputs, assets, options, .. } = planner;
    let tensor = &inputs.tensors[i];
    let target = Destination { planner, name: &tensor.name, object: assets.len() + i };
    let mut zeros = None;
    let (mode, bytes) = match (&plan.coding, inputs.lossy(i)?) {
        (Coding::Format(format), Some(lossy)) => {
            let groups = lossy.groups(*format);
            let integers = lossy.round_to_format(&groups, Rows::All);
            let nested = Nested::of_format(&lossy, integers, groups, &options.layers);
            (Mode::LATTICE, target.set_lattice_aside(aside, &lossy, plan, &nested)?)
        }
        (Coding::Lattice(grid) | Coding::Transform(grid), Some(lossy)) => {
            let in_planes = match plan.coding {
                Coding::Transform(_) => planes(&lossy, plan, grid, factors),
                _ => None,
            };
            match in_planes {
                Some(coded) => (Mode::TRANSFORM, target.push(aside, &lossy, coded)?),
                None => {
                    let segments = segments(&plan.tiles, grid.trellis.is_some(), options);
                    let integers = lossy.round_tiles(grid, &plan.tiles, segments);
                    zeros = lossy.pruning.map(|_| integers.zeros());
                    let parts = parts(&plan.tiles, segments);
                    let nested = Nested::new(&lossy, integers, grid, factors, &options.layers, &parts);
                    (Mode::LATTICE, target.set_lattice_aside(aside, &lossy, plan, &nested)?)
                }
            }
        }
        _ => set_exact_aside(planner, aside, i, plan)?,
    };
    let report = TensorReport::new(tensor, Some(mode), bytes);
    let (format, rank) = (inputs.format(i), inputs.low_rank(i).map_or(0, LowRank::rank));
    let base = tensor.usage(Some(plan));
    Ok(TensorReport { format, rank, zeros, base, ..report })
}

fn slot(object: usize, tile: u32, layer: usize, is_header: bool) -> UnitSlot {
    UnitSlot { object: object as u32, tile, layer: layer as u8, is_header }
}

/// Codes a tensor that is kept exactly, into the base. Returns the mode of most of its bytes, and their number.
fn set_exact_aside(
    planner: &Planner,
    aside: &mut Aside,
    tensor: usize,
    plan: &Plan,
) -> Result<(Mode, u64), EncodeError> {
    let Planner { inputs, assets, options, .. } = planner;
    let mut units = Vec::new();
    let mut push = |mode, bytes: &[u8]| {
        units.push((mode, bytes.to_vec()));
        Ok(())
    };
    let (name, matrix) = (&inputs.tensors[tensor].name, inputs.matrix(tensor));
    let over = inputs.tensors[tensor].over_elements();
    let coded = code_tensor(name, &matrix, plan, None, over, options, &mut push)?;
    let headers = units.iter().take_while(|(mode, _)| *mode == Mode::TENSOR_HEADER).count();
    for (n, (mode, bytes)) in units.iter().enumerate() {
        let slot = slot(assets.len() + tensor, n.saturating_sub(headers) as u32, 0, n < headers);
        aside.push_base(slot, *mode, bytes)?;
    }
    Ok(coded)
}

/// The object that units belong to.
struct Destination<'a> {
    planner: &'a Planner<'a>,
    name: &'a str,
    object: usize,
}

/// The layers of some tile rows of a tensor.
struct CodedTensor {
    headers: Vec<TensorHeader>,
    rows: Vec<CodedRow>,
}

/// The units of each tile of a tile row, in each layer, and the error of the row in each layer.
struct CodedRow {
    tiles: Vec<(u32, Units)>,
    errors: Vec<f64>,
}

fn places(plan: &Plan) -> Vec<(u32, Place)> {
    (0..plan.tiles.tile_count()).filter_map(|tile| Some((tile, Place::from(plan.tiles.tile(tile)?)))).collect()
}

/// Codes a tensor in planes: a factor becomes as many planes as it has octaves, to the nearest, but at least one. `None` if
/// planes cannot code a tile.
fn planes(lossy: &LossyTensor, plan: &Plan, grid: &Grid, factors: &[u8]) -> Option<CodedTensor> {
    let tools = lossy.tools?;
    let octaves = |&factor: &u8| (log2(factor.into()).round() as usize).max(1);
    let mut left_out: Vec<usize> = factors.iter().map(octaves).collect();
    (1..left_out.len()).for_each(|i| left_out[i] += left_out[i - 1]);
    left_out.reverse();
    // What only the lattice needs is left empty; of headers above the base, mode transform uses nothing.
    let above = || {
        let body = Body::Refinement(Refinement::new(2, grid.step));
        plain_header(Shape::Explicit(vec![Frequencies::only_escape(); Kind::Refinement.tables()]), body)
    };
    let headers = std::iter::once(grid.header()).chain(factors.iter().map(|_| above())).collect();
    let row_weight = |r: usize| scale(-i32::from(lossy.metric.rows.get(r).copied().unwrap_or(0)));
    let code = |(tile, place): &(u32, Place)| {
        let layers = transform::code_layers(&lossy.matrix, grid, place, tools, &left_out, row_weight)?;
        let (units, errors): (Vec<Vec<u8>>, Vec<f64>) = layers.into_iter().unzip();
        Some((*tile, units.into_iter().map(|unit| (Mode::TRANSFORM, unit)).collect::<Units>(), errors))
    };
    let tiles = places(plan);
    let rows = tiles.chunk_by(|a, b| a.1.rows == b.1.rows).map(|row| {
        let coded = row.par_iter().map(code).collect::<Option<Vec<_>>>()?;
        let errors = (0..=factors.len()).map(|layer| coded.iter().map(|(.., errors)| errors[layer]).sum()).collect();
        Some(CodedRow { tiles: coded.into_iter().map(|(tile, units, _)| (tile, units)).collect(), errors })
    });
    Some(CodedTensor { headers, rows: rows.collect::<Option<Vec<_>>>()? })
}

impl Destination<'_> {
    /// Codes all layers of a tensor on the lattice. Returns the number of bytes.
    fn set_lattice_aside(
        &self,
        aside: &mut Aside,
        lossy: &LossyTensor,
        plan: &Plan,
        nested: &Nested,
    ) -> Result<u64, EncodeError> {
        let (headers, mut bytes) = self.push_headers(aside, nested.headers())?;
        let tiles = places(plan);
        let tile_rows: Vec<&[(u32, Place)]> = tiles.chunk_by(|a, b| a.1.rows == b.1.rows).collect();
        let segments = segments(&plan.tiles, nested.is_on_trellis(), self.planner.options);
        let tool = Layered { nested, segments };
        for some in tile_rows.chunks(BATCH) {
            let code = |tiles: &&[(u32, Place)]| {
                let tile = |(tile, place): &(u32, Place)| {
                    let units = code_lossy(&Tile::new(&lossy.matrix, place), &[&tool])?;
                    // Bytes would be those of floats.
                    if nested.ends_in_blocks() && units.len() != nested.layers() {
                        return Err(CodecError::Call("a tile of blocks has integers that cannot be coded"));
                    }
                    Ok((*tile, units))
                };
                let units = tiles.par_iter().map(tile).collect::<Result<Vec<_>, CodecError>>()?;
                Ok(CodedRow { tiles: units, errors: nested.errors(tiles[0].1.rows.clone()) })
            };
            let coded: Result<Vec<_>, CodecError> = some.par_iter().map(code).collect();
            let coded = coded.map_err(|error| EncodeError::Codec { tensor: self.name.to_owned(), error })?;
            for row in coded {
                bytes += self.push_row(aside, lossy, &headers, row)?;
            }
        }
        Ok(bytes)
    }

    /// Pushes the units of a coded tensor. Returns the number of bytes.
    fn push(&self, aside: &mut Aside, lossy: &LossyTensor, coded: CodedTensor) -> Result<u64, EncodeError> {
        let (headers, mut bytes) = self.push_headers(aside, coded.headers.iter())?;
        for row in coded.rows {
            bytes += self.push_row(aside, lossy, &headers, row)?;
        }
        Ok(bytes)
    }

    /// Pushes tensor headers, that of the base first. Returns the others, and the number of bytes.
    fn push_headers<'h>(
        &self,
        aside: &mut Aside,
        headers: impl Iterator<Item = &'h TensorHeader>,
    ) -> Result<(Vec<Unit>, u64), EncodeError> {
        let (mut units, mut bytes) = (Vec::new(), 0);
        for (layer, header) in headers.enumerate() {
            let header = header.to_bytes();
            bytes += header.len() as u64;
            units.push(aside.push(slot(self.object, 0, layer, true), Mode::TENSOR_HEADER, &header)?);
        }
        aside.base.push(units.remove(0));
        Ok((units, bytes))
    }

    /// Pushes the units of a tile row. Returns the number of bytes.
    fn push_row(
        &self,
        aside: &mut Aside,
        lossy: &LossyTensor,
        headers: &[Unit],
        CodedRow { tiles, errors }: CodedRow,
    ) -> Result<u64, EncodeError> {
        let weight = (1.0 / lossy.metric.relative).powi(2);
        let (mut layers, mut bytes) = (vec![vec![]; headers.len() + 1], 0);
        for (tile, units) in tiles {
            for (layer, (mode, unit)) in units.iter().enumerate() {
                bytes += unit.len() as u64;
                layers[layer].push(aside.push(slot(self.object, tile, layer, false), *mode, unit)?);
            }
        }
        aside.base.append(&mut layers.remove(0));
        let increment = |(pair, units): (&[f64], &Vec<Unit>)| Increment {
            gain: (pair[0] - pair[1]) * weight,
            bytes: units.iter().map(|unit| (unit.span.length as u64).next_multiple_of(16)).sum(),
        };
        let increments = errors.windows(2).zip(&layers).map(increment).collect();
        aside.tile_rows.push(TileRow { headers: headers.to_vec(), layers, increments });
        Ok(bytes)
    }
}
