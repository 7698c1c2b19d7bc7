//! The analysis of a tensor.

use std::time::Instant;

use impasto_codec::Steps;
use impasto_codec::transform::Reference;
use impasto_core::{DType, Place, lattice};
use rayon::prelude::*;

use super::curve::{Point, at_error};
use super::report::{Rates, TensorAnalysis, TileAnalysis, ToolAnalysis};
use super::{AnalysisOptions, low_rank, sample, sets, shares};
use crate::error::EncodeError;
use crate::feedback::Feedback;
use crate::inputs::LossyTensor;
use crate::lattice::{Costs, Grid, LAMBDA, Rows, round};
use crate::matrix::MatrixView;
use crate::model::Tensor;
use crate::scales::fit;
use crate::transform::{self, Coded, Effort, Forecast, LEAST_MEASURED, MOST, Request, Tools};

/// How many times as many weights are looked at where it saves that.
const MORE: usize = 8;
/// Fewest weights of a tile of which half is enough to look at tools one by one.
const PARTED: usize = 128 * 128;
/// Bits that a row or a column of a tensor header takes, about.
const CLASS_BITS: f64 = 4.0;

/// Why a tile has no point.
enum Failure {
    /// The caller cancelled.
    Cancelled(EncodeError),
    /// Mode transform cannot hold its weights.
    Unfit,
}

/// A tile of the sample.
struct Tile {
    place: Place,
    /// Its elements, in the dtype of the tensor.
    bytes: Vec<u8>,
    /// Its weights over the step.
    values: Vec<f32>,
    /// The elements of the tile that it may be predicted from, if there is one.
    reference: Option<Vec<u8>>,
}

/// What all tiles of a tensor have in common.
struct Subject<'a> {
    dtype: DType,
    step: f32,
    /// Bits per weight of the tensor header of a lattice.
    header_bits: f64,
    costs: &'a Costs,
    effort: Effort,
    /// What the tensor may be predicted from.
    reference: Option<Forecast<'a>>,
    heard: &'a (dyn Fn() -> Result<(), EncodeError> + Sync),
}

/// A tile in mode transform with all tools, and on the lattice.
struct Found {
    all: Point,
    none: Point,
    lattice: Point,
    coded: Coded,
}

/// Analyses a tensor at a global step.
pub fn analyze(
    tensor: &Tensor,
    lossy: &LossyTensor,
    step: f64,
    options: &AnalysisOptions,
    heard: &(dyn Fn() -> Result<(), EncodeError> + Sync),
) -> Result<TensorAnalysis, EncodeError> {
    let matrix = &lossy.matrix;
    let header_bits = CLASS_BITS / matrix.rows.max(1) as f64 + CLASS_BITS / matrix.columns.max(1) as f64;
    let low_rank = low_rank::analyze(lossy, step, options.bits_per_weight);
    // Without statistics, all rows and columns have the same step.
    let (reference, step) = (lossy.forecast(step), lossy.grid(step).step);
    let (dtype, costs, effort) = (matrix.dtype, lossy.costs, options.effort);
    let subject = Subject { dtype, step, header_bits, costs, effort, reference, heard };
    let mut analysis = TensorAnalysis {
        name: tensor.name.clone(),
        dtype: matrix.dtype.name(),
        shape: tensor.info.shape.clone(),
        matrix: [matrix.rows, matrix.columns],
        step,
        sampled: 0,
        rates: None,
        shares: shares::shares([].iter()),
        transform_share: 0.0,
        sampled_by_tool: 0,
        tools: vec![],
        low_rank,
        tiles: vec![],
    };
    match subject.fill(&mut analysis, matrix, options) {
        Ok(()) | Err(Failure::Unfit) => Ok(analysis),
        Err(Failure::Cancelled(error)) => Err(error),
    }
}

impl Subject<'_> {
    /// Fills in what is found.
    fn fill(
        &self,
        analysis: &mut TensorAnalysis,
        matrix: &MatrixView,
        options: &AnalysisOptions,
    ) -> Result<(), Failure> {
        let all = options.tools;
        let sampled = |weights: usize| {
            let places = sample::places(matrix.rows, matrix.columns, weights);
            let tiles: Vec<Tile> = places.into_iter().map(|place| self.tile(matrix, place)).collect();
            let found = tiles.par_iter().map(|tile| self.look(tile, all)).collect::<Result<Vec<Found>, _>>()?;
            Ok((tiles, found))
        };
        let (mut tiles, mut found) = sampled(options.weights)?;
        let gain = |tiles: &[Tile], found: &[Found]| {
            let [all, lattice] = [mean(tiles, found, |f| f.all), mean(tiles, found, |f| f.lattice)];
            (cost(&lattice) - cost(&all)) / f64::from(LAMBDA)
        };
        let earns = gain(&tiles, &found) >= LEAST_MEASURED;
        if earns && options.weights < matrix.len() {
            (tiles, found) = sampled(options.weights.saturating_mul(MORE))?;
        }
        let point = mean(&tiles, &found, |f| f.all);
        let at_error_of_all = |first: Point, code: &(dyn Fn(&Tile, f64) -> Result<Point, Failure> + Sync)| {
            at_error(point.error, first, |factor| total(&tiles, |tile| code(tile, factor)))
        };
        let plain = mean(&tiles, &found, |f| f.none);
        let on_lattice = mean(&tiles, &found, |f| f.lattice);
        let (none, lattice) = rayon::join(
            || at_error_of_all(plain, &|tile, factor| self.transform(tile, sets::none(all), factor).map(|(p, _)| p)),
            || at_error_of_all(on_lattice, &|tile, factor| self.lattice(tile, factor)),
        );
        analysis.sampled = tiles.iter().map(|tile| tile.values.len()).sum();
        analysis.rates = Some(Rates {
            lattice: rounded(lattice?),
            none: rounded(none?),
            all: rounded(point.bits),
            error: rounded(point.error),
            all_microseconds: rounded(point.microseconds),
            none_microseconds: rounded(plain.microseconds),
        });
        analysis.tools = if earns {
            analysis.sampled_by_tool = analysis.sampled;
            self.by_tool(&tiles, &found, all)?
        } else {
            // One by one, tools take most of the time. Where they earn nothing, a part of a tile says so.
            let part: Vec<Tile> = tiles.first().map(|tile| self.tile(matrix, half(&tile.place))).into_iter().collect();
            let found = part.iter().map(|tile| self.look(tile, all)).collect::<Result<Vec<Found>, _>>()?;
            analysis.sampled_by_tool = part.iter().map(|tile| tile.values.len()).sum();
            self.by_tool(&part, &found, all)?
        };
        let described = tiles.into_iter().zip(found).map(|(tile, found)| described(tile, found, all));
        analysis.tiles = described.collect();
        analysis.shares = shares::shares(analysis.tiles.iter().flat_map(|tile| &tile.blocks));
        let taken = analysis.tiles.iter().filter(|tile| tile.takes_transform).map(|tile| tile.values.len());
        analysis.transform_share = taken.sum::<usize>() as f64 / analysis.sampled.max(1) as f64;
        Ok(())
    }

    /// Looks at tools one by one, on tiles that were looked at with all of them.
    fn by_tool(&self, tiles: &[Tile], found: &[Found], all: Tools) -> Result<Vec<ToolAnalysis>, Failure> {
        let trials = sets::trials(all);
        let mut tried: Vec<Tools> = Vec::new();
        for set in trials.iter().flat_map(|trial| [trial.left_out, trial.company, trial.alone]) {
            if !tried.contains(&set) {
                tried.push(set);
            }
        }
        let whole = mean(tiles, found, |found| found.all);
        let rate = |&set: &Tools| {
            let code = |factor: f64| total(tiles, |tile| self.transform(tile, set, factor).map(|(point, _)| point));
            let first = if set == all { whole } else { code(1.0)? };
            Ok((at_error(whole.error, first, code)?, first.microseconds))
        };
        let rates = tried.par_iter().map(rate).collect::<Result<Vec<(f64, f64)>, Failure>>()?;
        let of = |set: Tools| tried.iter().position(|other| *other == set).map_or((0.0, 0.0), |i| rates[i]);
        let tool = |trial: &sets::Trials| {
            let [left_out, company, alone] = [trial.left_out, trial.company, trial.alone].map(of);
            ToolAnalysis {
                name: trial.name,
                left_out: rounded(left_out.0 - whole.bits),
                alone: rounded(company.0 - alone.0),
                company: sets::names(trial.company),
                left_out_microseconds: rounded(left_out.1),
                alone_microseconds: rounded(alone.1),
            }
        };
        Ok(trials.iter().map(tool).collect())
    }

    fn tile(&self, matrix: &MatrixView, place: Place) -> Tile {
        let (mut bytes, mut values, mut row) = (Vec::new(), Vec::with_capacity(place.elements()), Vec::new());
        for r in place.rows.clone() {
            bytes.extend_from_slice(&matrix.part(r, place.columns.clone()));
            matrix.weights(r, &mut row);
            values.extend(row[place.columns.clone()].iter().map(|weight| weight / self.step));
        }
        let reference = self.reference.as_ref().map(|reference| reference.elements(&place));
        Tile { place, bytes, values, reference }
    }

    /// Codes a tile in the ways that each tile is looked at.
    fn look(&self, tile: &Tile, all: Tools) -> Result<Found, Failure> {
        let ((all, none), lattice) = rayon::join(
            || rayon::join(|| self.transform(tile, all, 1.0), || self.transform(tile, sets::none(all), 1.0)),
            || self.lattice(tile, 1.0),
        );
        let (all, coded) = all?;
        Ok(Found { all, none: none?.0, lattice: lattice?, coded })
    }

    /// Codes a tile in mode transform, at a multiple of the step.
    fn transform(&self, tile: &Tile, tools: Tools, factor: f64) -> Result<(Point, Coded), Failure> {
        (self.heard)().map_err(Failure::Cancelled)?;
        let begun = Instant::now();
        let factor = factor as f32;
        let scaled: Vec<f32> = tile.values.iter().map(|value| value / factor).collect();
        if !scaled.iter().all(|value| value.abs() <= MOST) {
            return Err(Failure::Unfit);
        }
        let steps = Steps::new(self.step * factor);
        let (dtype, place, elements) = (self.dtype, &tile.place, tile.reference.as_deref());
        let reference = elements.map(|elements| Reference { elements, dtype, steps: &steps, place });
        let request = Request { effort: self.effort, reference, ..Request::new(&scaled, place.columns.len(), tools) };
        let coded = transform::code(&request).map_err(|_| Failure::Unfit)?;
        let (step, mut error) = (self.step * factor, 0.0);
        for (value, found) in tile.values.iter().zip(&coded.values) {
            error += f64::from(value - lattice::round(self.dtype, found * step) / self.step).powi(2);
        }
        if !error.is_finite() {
            return Err(Failure::Unfit);
        }
        Ok((point(tile, coded.unit.len() as f64 * 8.0, error, begun), coded))
    }

    /// Codes a tile on the lattice, at a multiple of the step.
    fn lattice(&self, tile: &Tile, factor: f64) -> Result<Point, Failure> {
        (self.heard)().map_err(Failure::Cancelled)?;
        let begun = Instant::now();
        let [rows, columns] = [tile.place.rows.len(), tile.place.columns.len()];
        let (bytes, dtype) = (&tile.bytes[..], self.dtype);
        let matrix = MatrixView::plain(bytes, dtype, rows, columns);
        let grid = Grid::new(self.step * factor as f32);
        let feedback = Feedback::none(columns);
        let integers = round(&matrix, &fit(&matrix), &feedback, &grid, (self.costs, None), None, Rows::All);
        let (_, bits) = integers.header(&grid.body(), self.costs);
        let error = integers.distortion(&matrix, &grid, &Place { rows: 0..rows, columns: 0..columns });
        let header = self.header_bits * tile.values.len() as f64;
        Ok(point(tile, bits as f64 + header, error * factor * factor, begun))
    }
}

/// Returns the upper half of a place of many weights.
fn half(place: &Place) -> Place {
    let Place { rows, columns } = place.clone();
    let height = if place.elements() >= PARTED { rows.len().div_ceil(2) } else { rows.len() };
    Place { rows: rows.start..rows.start + height, columns }
}

/// Codes all tiles; returns means over them, in a fixed order.
fn total(tiles: &[Tile], code: impl Fn(&Tile) -> Result<Point, Failure> + Sync) -> Result<Point, Failure> {
    let points = tiles.par_iter().map(&code).collect::<Result<Vec<Point>, Failure>>()?;
    Ok(mean(tiles, &points, |point| *point))
}

/// Returns the means of points of tiles, weighted by the numbers of their weights.
fn mean<T>(tiles: &[Tile], found: &[T], point: impl Fn(&T) -> Point) -> Point {
    let weights: usize = tiles.iter().map(|tile| tile.values.len()).sum();
    let mut sum = Point::default();
    for (tile, found) in tiles.iter().zip(found) {
        let share = tile.values.len() as f64 / weights.max(1) as f64;
        let Point { bits, error, microseconds } = point(found);
        sum.bits += bits * share;
        sum.error += error * share;
        sum.microseconds += microseconds * share;
    }
    sum
}

fn point(tile: &Tile, bits: f64, error: f64, begun: Instant) -> Point {
    let weights = tile.values.len().max(1) as f64;
    Point { bits: bits / weights, error: error / weights, microseconds: begun.elapsed().as_secs_f64() * 1e6 / weights }
}

/// `D + lambda R`, per weight.
fn cost(point: &Point) -> f64 {
    point.error + f64::from(LAMBDA) * point.bits
}

fn described(tile: Tile, found: Found, all: Tools) -> TileAnalysis {
    let Tile { place, values, .. } = tile;
    let columns = place.columns.len();
    let blocks = shares::blocks(&found.coded, place.rows.len(), place.columns.len());
    TileAnalysis {
        rows: place.rows,
        columns: place.columns,
        lattice: rounded(found.lattice.bits),
        transform: rounded(found.all.bits),
        takes_transform: cost(&found.all) < cost(&found.lattice),
        ways: shares::ways(&found.coded, all),
        values: found.coded.variant.ordered(&values, columns),
        blocks,
    }
}

/// Rounds to four decimals; what is beyond is noise of the search.
pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
