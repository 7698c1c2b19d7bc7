//! A whole tile in mode transform.

use impasto_codec::CodecError;
use impasto_codec::transform::arithmetic::Probability;
use impasto_codec::transform::samples::{self, Area, Samples};
use impasto_codec::transform::wavelet::Filter;
use impasto_codec::transform::{Parameters, TileWriter, UNIT, prices, tree};

use super::planes;
use super::quantize::Quantizer;
use super::search::{Goal, Rates, Search};
use super::tools::{Tools, TransformTool};
use crate::lattice::LAMBDA;

/// The step of a tile over that of its lattice, in sixteenths of an octave. Dependent quantization has less error at the
/// same step, so the best step is larger.
const DEPENDENT_STEP: i8 = 2;

/// Superblocks that probabilities are learned from, and the number of the first one whose rates are those of the tile so
/// far, which then know more.
const LEARNED: usize = 16;
const OWN: usize = 4;

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
    /// normal effort.
    pub fn new(values: &'a [f32], width: usize, tools: Tools) -> Self {
        let step_index = if tools.has(TransformTool::Trellis) { DEPENDENT_STEP } else { 0 };
        Request { values, width, step_index, lambda: LAMBDA, tools, effort: Effort::Normal }
    }
}

/// How much time the search for a tile may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// One choice of each block at its exact cost, no halves: about a fifth of the time of [`Effort::Normal`].
    Fast,
    /// Up to two choices of each block, halves where they look good, and rates that are learned first, from a part of the
    /// tile.
    #[default]
    Normal,
    /// Up to four choices of each block, all halves, and rates that are learned from the whole tile first.
    Best,
}

/// A coded tile.
pub struct Coded {
    /// The unit.
    pub unit: Vec<u8>,
    /// The weights that a decoder makes of it, over the steps of the tensor header.
    pub values: Vec<f32>,
}

/// Codes a tile: in blocks or in planes, whichever has the least `D + lambda R`. Blocks are not tried if only tools of
/// planes are on.
///
/// # Errors
/// If a level is too large.
pub fn code(request: &Request) -> Result<Coded, CodecError> {
    let filters = [(TransformTool::Cdf53, Filter::Cdf53), (TransformTool::Cdf97, Filter::Cdf97)];
    let filters = filters.into_iter().filter(|(tool, _)| request.tools.has(*tool)).map(|(_, filter)| filter);
    let filters: Vec<Filter> = filters.collect();
    if filters.is_empty() {
        return blocks(request);
    }
    let in_planes = planes::code(request.values, request.width, &filters);
    if request.tools.without(Tools::PLANES) == Tools::NONE {
        return in_planes;
    }
    let in_blocks = blocks(request)?;
    Ok(match in_planes {
        Ok(in_planes) if in_planes.cost(request) < in_blocks.cost(request) => in_planes,
        _ => in_blocks,
    })
}

impl Coded {
    /// Returns `D + lambda R` in squared steps of the tensor header.
    fn cost(&self, request: &Request) -> f64 {
        let error = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let distortion = request.values.iter().zip(&self.values).map(error).sum::<f64>();
        distortion + f64::from(request.lambda) * 8.0 * self.unit.len() as f64
    }
}

/// Codes a tile in blocks.
fn blocks(request: &Request) -> Result<Coded, CodecError> {
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
    let fast = Goal {
        target: &target,
        parameters,
        quantizer,
        tools: tools.with(TransformTool::Halves, false),
        tried: 1,
        most_worse: 1.0,
        most_halves: 0.0,
    };
    let learned = |superblocks| learn(&fast, superblocks, height, width);
    let (samples, unit) = match effort {
        Effort::Fast => pass(&fast, height, width, None)?,
        Effort::Normal => {
            let goal = Goal { tools, tried: 2, most_worse: 1.03, most_halves: 1.0, ..fast };
            pass(&goal, height, width, Some(&learned(LEARNED)?))?
        }
        Effort::Best => {
            let goal = Goal { tools, tried: 4, most_worse: 1.2, most_halves: f32::INFINITY, ..fast };
            pass(&goal, height, width, Some(&learned(usize::MAX)?))?
        }
    };
    Ok(Coded { unit, values: decoded_values(&samples, [height, width], step) })
}

/// Returns the values of a tile of these sides whose step is given in steps of the tensor header.
pub fn decoded_values(samples: &Samples, sides: [usize; 2], step: f32) -> Vec<f32> {
    let rows = samples.rows().take(sides[0]);
    rows.flat_map(|row| row[..sides[1]].iter().map(|&x| x as f32 * (step / 256.0))).collect()
}

/// Learns probabilities from about so many superblocks of a tile. Neighbours that are not coded are as wanted.
fn learn(goal: &Goal, superblocks: usize, height: usize, width: usize) -> Result<Vec<Probability>, CodecError> {
    let mut writer = TileWriter::new(goal.parameters);
    let mut search = Search::new(goal, height, width);
    let most = samples::MOST as f32;
    for (sample, target) in search.samples.values.iter_mut().zip(goal.target) {
        *sample = (target / UNIT).round().clamp(-most, most) as i32;
    }
    let sides = search.samples.sides;
    let all = tree::superblocks(sides).count();
    for area in tree::superblocks(sides).step_by((all / superblocks).max(1)) {
        search_superblock(&mut writer, &mut search, area, None)?;
    }
    Ok(writer.model().0.to_vec())
}

/// Codes a tile. Rates are those of the tile so far, at first those of `learned` probabilities, if there are any.
fn pass(
    goal: &Goal,
    height: usize,
    width: usize,
    learned: Option<&[Probability]>,
) -> Result<(Samples, Vec<u8>), CodecError> {
    let mut writer = TileWriter::new(goal.parameters);
    let mut search = Search::new(goal, height, width);
    for (i, area) in tree::superblocks(search.samples.sides).enumerate() {
        search_superblock(&mut writer, &mut search, area, learned.filter(|_| i < OWN))?;
    }
    Ok((search.samples, writer.finish()))
}

fn search_superblock(
    writer: &mut TileWriter,
    search: &mut Search,
    area: Area,
    learned: Option<&[Probability]>,
) -> Result<(), CodecError> {
    let (probabilities, means) = writer.model();
    let probabilities = learned.unwrap_or(probabilities);
    let rates = Rates { probabilities, prices: prices::Prices::new(probabilities), means };
    let (node, _) = search.area(&rates, area);
    writer.push(area, search.samples.sides, &node)
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
