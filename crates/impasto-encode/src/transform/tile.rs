//! A whole tile in mode transform.

use impasto_codec::CodecError;
use impasto_codec::transform::arithmetic::Probability;
use impasto_codec::transform::samples::Samples;
use impasto_codec::transform::{Parameters, TileWriter, prices, runs, tree};

use super::quantize::Quantizer;
use super::search::{Goal, Rates, Search};
use super::tools::{Tools, TransformTool};
use super::variants::{self, Variant};
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
    /// One pass without a search, as in JPEG: blocks of 8 x 8 with a DCT, coded by run lengths.
    Jpeg,
}

/// A coded tile.
pub struct Coded {
    /// The unit.
    pub unit: Vec<u8>,
    /// The weights that a decoder makes of it, over the steps of the tensor header.
    pub values: Vec<f32>,
}

/// Codes a tile: as it is, and in the ways that the tools allow besides, one of which is kept if it costs less.
///
/// # Errors
/// If a level is too large.
pub fn code(request: &Request) -> Result<Coded, CodecError> {
    let Request { values, width, tools, effort, .. } = *request;
    let first = Variant { runs: effort == Effort::Jpeg, ..Variant::default() };
    let plain = first.clone();
    let mut of_plain = None;
    let (variant, (coded, learned), _) = variants::best(values, width, tools, first, |variant| {
        let (coded, learned) = attempt(request, variant, None)?;
        of_plain.get_or_insert_with(|| learned.clone());
        let cost = request.cost(&coded);
        Ok(((coded, learned), cost))
    })?;
    if effort != Effort::Full {
        return Ok(coded);
    }
    let (best, _) = attempt(request, &variant, Some(&learned))?;
    if variant == plain {
        return Ok(best);
    }
    // What is better in one pass may be worse in the end.
    let (other, _) = attempt(request, &plain, of_plain.as_deref())?;
    Ok(if request.cost(&other) <= request.cost(&best) { other } else { best })
}

impl Request<'_> {
    /// Returns `D + lambda R` of a coded tile, in squared steps of the tensor header.
    fn cost(&self, coded: &Coded) -> f64 {
        let error = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let distortion = self.values.iter().zip(&coded.values).map(error).sum::<f64>();
        distortion + f64::from(self.lambda) * coded.unit.len() as f64 * 8.0
    }
}

/// Codes a variant of a tile in one pass: a fast one, or, with what that has learned, a full one. Returns also what it has
/// learned.
fn attempt(
    request: &Request,
    variant: &Variant,
    learned: Option<&[Probability]>,
) -> Result<(Coded, Vec<Probability>), CodecError> {
    let Request { values, width, lambda, tools, effort, .. } = *request;
    let has_trellis = tools.has(TransformTool::Trellis);
    let dependent = has_trellis && !variant.runs;
    // The step of a request is that which suits its tools.
    let finer = if has_trellis && variant.runs { DEPENDENT_STEP } else { 0 };
    let step_index = request.step_index.saturating_sub(finer);
    let parameters = Parameters { dependent, runs: variant.runs, step_index };
    let step = parameters.step(1.0);
    let height = values.len() / width.max(1);
    let quantizer = Quantizer { dependent, by_cost: tools.has(TransformTool::Rdoq), lambda: lambda / (step * step) };
    let (bases, tried, is_full) = (&variant.setup.bases, if learned.is_some() { 2 } else { 1 }, learned.is_some());
    let target = padded(&variant.ordered(values, width), width, step);
    let tools = if is_full { tools } else { tools.with(TransformTool::Halves, false) };
    let fixed = effort == Effort::Jpeg;
    let goal = Goal { target: &target, parameters, bases, quantizer, tools, tried, fixed };
    let (learned, mut samples, unit) = pass(&goal, variant, [height, width], learned)?;
    variant.setup.restore(&mut samples);
    let rows = samples.rows().take(height);
    let values = rows.flat_map(|row| row[..width].iter().map(|&x| x as f32 * (step / 256.0))).collect();
    Ok((Coded { unit, values }, learned))
}

/// Codes a tile once. Rates are those that were `learned`, or, if nothing was, those of the tile so far. Returns also what
/// it has learned.
fn pass(
    goal: &Goal,
    variant: &Variant,
    [height, width]: [usize; 2],
    learned: Option<&[Probability]>,
) -> Result<(Vec<Probability>, Samples, Vec<u8>), CodecError> {
    let mut writer = TileWriter::with_setup(goal.parameters, variant.setup.clone(), [height, width])?;
    let mut search = Search::new(goal, height, width);
    let sides = search.samples.sides;
    for area in tree::superblocks(sides) {
        let (probabilities, means) = writer.model();
        let probabilities = learned.unwrap_or(probabilities);
        let runs = variant.runs.then(|| runs::Prices::new(probabilities));
        let rates = Rates { probabilities, prices: prices::Prices::new(probabilities), runs, means };
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
