//! A whole tile in mode transform.

use impasto_codec::CodecError;
use impasto_codec::transform::arithmetic::Probability;
use impasto_codec::transform::samples::Samples;
use impasto_codec::transform::{Parameters, TileWriter, prices, tree};

use super::quantize::Quantizer;
use super::search::{Goal, Rates, Search};
use super::tools::{Tools, TransformTool};
use crate::lattice::LAMBDA;

/// The step of a tile over that of its lattice, in sixteenths of an octave. Dependent quantization has less error at the
/// same step, so the best step is larger.
const DEPENDENT_STEP: i8 = 2;

/// A tile to be coded.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The weights over the steps of the tile's tensor header, row-major.
    pub values: &'a [f32],
    /// Columns of the tile; not 0.
    pub width: usize,
    /// Step of the tile over that of its tensor header, in sixteenths of an octave.
    pub step_index: i8,
    /// Squared steps of the tensor header per bit.
    pub lambda: f32,
    /// Tools that are on.
    pub tools: Tools,
    /// How much time may be taken.
    pub effort: Effort,
}

impl<'a> Request<'a> {
    /// Creates a request as the encoder makes it: at the slope of the lattice, with the step that suits the tools, and
    /// full effort.
    pub fn new(values: &'a [f32], width: usize, tools: Tools) -> Self {
        let step_index = if tools.has(TransformTool::Trellis) { DEPENDENT_STEP } else { 0 };
        Request { values, width, step_index, lambda: LAMBDA, tools, effort: Effort::Full }
    }
}

/// How much time the search for a tile may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// One pass, one choice of each block at its exact cost, no halves: for a forecast.
    Fast,
    /// Two passes, two choices of each block; the second pass knows what the first has learned.
    Full,
}

/// A coded tile.
pub struct Coded {
    /// The unit.
    pub unit: Vec<u8>,
    /// The weights that a decoder makes of it, over the steps of the tensor header.
    pub values: Vec<f32>,
}

/// Codes a tile.
///
/// # Errors
/// If a level is too large.
pub fn code(request: &Request) -> Result<Coded, CodecError> {
    let Request { values, width, step_index, lambda, tools, effort } = *request;
    let parameters = Parameters { dependent: tools.has(TransformTool::Trellis), step_index };
    let step = parameters.step(1.0);
    let height = values.len() / width.max(1);
    let quantizer = Quantizer {
        dependent: parameters.dependent,
        by_cost: tools.has(TransformTool::Rdoq),
        lambda: lambda / (step * step),
    };
    let target = padded(values, width, step);
    let fast =
        Goal { target: &target, parameters, quantizer, tools: tools.with(TransformTool::Halves, false), tried: 1 };
    let (learned, mut samples, mut unit) = pass(&fast, height, width, None)?;
    if effort == Effort::Full {
        let goal = Goal { tools, tried: 2, ..fast };
        (_, samples, unit) = pass(&goal, height, width, Some(&learned))?;
    }
    let rows = samples.rows().take(height);
    let values = rows.flat_map(|row| row[..width].iter().map(|&x| x as f32 * (step / 256.0))).collect();
    Ok(Coded { unit, values })
}

/// Codes a tile once. Rates are those that were `learned`, or, if nothing was, those of the tile so far. Returns also what
/// it has learned.
fn pass(
    goal: &Goal,
    height: usize,
    width: usize,
    learned: Option<&[Probability]>,
) -> Result<(Vec<Probability>, Samples, Vec<u8>), CodecError> {
    let mut writer = TileWriter::new(goal.parameters);
    let mut search = Search::new(goal, height, width);
    let sides = search.samples.sides;
    for area in tree::superblocks(sides) {
        let (probabilities, means) = writer.model();
        let probabilities = learned.unwrap_or(probabilities);
        let rates = Rates { probabilities, prices: prices::Prices::new(probabilities), means };
        let (node, _) = search.area(&rates, area);
        writer.push(area, sides, &node)?;
    }
    let learned = writer.model().0.to_vec();
    Ok((learned, search.samples, writer.finish()))
}

/// Returns values over a step, with the last ones of rows and columns repeated up to multiples of 4.
fn padded(values: &[f32], width: usize, step: f32) -> Vec<f32> {
    let Samples { sides: [height, padded], .. } = Samples::new(values.len() / width.max(1), width);
    let row = |r: usize| {
        let row = &values[r.min(values.len() / width - 1) * width..][..width];
        (0..padded).map(move |c| row[c.min(width - 1)] / step)
    };
    (0..height).flat_map(row).collect()
}
