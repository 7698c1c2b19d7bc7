//! A whole tile in mode transform.

use impasto_codec::CodecError;
use impasto_codec::transform::arithmetic::Probability;
use impasto_codec::transform::co_located::arranged;
use impasto_codec::transform::samples::{self, Area, Samples};
use impasto_codec::transform::tree::Node;
use impasto_codec::transform::wavelet::Filter;
use impasto_codec::transform::{Parameters, Reference, TileWriter, UNIT, prices, runs, tree};

use super::planes;
use super::quantize::Quantizer;
use super::search::{Goal, Rates, Search};
use super::tools::{Tools, TransformTool};
use super::variants::{self, Variant};
use crate::lattice::LAMBDA;

/// The step of a tile over that of its lattice, in sixteenths of an octave. Dependent quantization has less error at the
/// same step, so the best step is larger.
const DEPENDENT_STEP: i8 = 2;

/// The largest value that is coded.
pub const MOST: f32 = (1 << 20) as f32;

/// Superblocks that probabilities are learned from, and the number of the first one whose rates are those of the tile so
/// far, which then know more.
const LEARNED: usize = 16;
const OWN: usize = 4;

/// What a variant must cost on a part of a tile, relative to the plain one, to be certain to be better.
const CLEAR: f64 = 0.98;

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
    /// Whether all blocks are as in JPEG, without a search: 8 x 8 with a DCT, coded by run lengths.
    pub as_jpeg: bool,
    /// The tile that blocks may be predicted from, if there is one.
    pub reference: Option<Reference<'a>>,
}

impl<'a> Request<'a> {
    /// Creates a request as the encoder makes it: at the slope of the lattice, with the step that suits the tools, and
    /// normal effort.
    pub fn new(values: &'a [f32], width: usize, tools: Tools) -> Self {
        let step_index = if tools.has(TransformTool::Trellis) { DEPENDENT_STEP } else { 0 };
        let (effort, reference) = (Effort::Normal, None);
        Request { values, width, step_index, lambda: LAMBDA, tools, effort, as_jpeg: false, reference }
    }
}

/// How much time the search for a tile may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// One choice of each block at its exact cost, no halves, and no run lengths in place of dependent quantization.
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
    /// The partition of each superblock, and the choices of its blocks; none in planes.
    pub nodes: Vec<Node>,
    /// How it is coded as a whole.
    pub(crate) variant: Variant,
    /// The filter, if it is coded in planes.
    pub(crate) filter: Option<Filter>,
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
        Ok(in_planes) if request.cost(&in_planes) < request.cost(&in_blocks) => in_planes,
        _ => in_blocks,
    })
}

/// Codes a tile in blocks: as it is, and in the ways that the tools allow besides, one of which is kept if it costs less.
fn blocks(request: &Request) -> Result<Coded, CodecError> {
    let Request { values, width, tools, .. } = *request;
    let first = Variant { runs: request.as_jpeg, ..Variant::default() };
    if request.as_jpeg || request.effort == Effort::Fast {
        // Run lengths seldom gain on dependent quantization, and would take as much time again.
        let tools = if tools.has(TransformTool::Trellis) { tools.with(TransformTool::Runs, false) } else { tools };
        let (_, coded, _) = variants::best(values, width, tools, first, |variant| {
            let coded = Attempt::new(request, variant).pass(None)?;
            let cost = request.cost(&coded);
            Ok((coded, cost))
        })?;
        return Ok(coded);
    }
    let superblocks = if request.effort == Effort::Best { usize::MAX } else { LEARNED };
    let plain = first.clone();
    let mut of_plain = None;
    let (variant, learned, cost) = variants::best(values, width, tools, first, |variant| {
        let (learned, cost) = Attempt::new(request, variant).learn(superblocks)?;
        of_plain.get_or_insert_with(|| (learned.clone(), cost));
        Ok((learned, cost))
    })?;
    let best = Attempt::new(request, &variant).pass(Some(&learned))?;
    let Some((learned, _)) = of_plain.filter(|(_, of_plain)| variant != plain && cost > CLEAR * of_plain) else {
        return Ok(best);
    };
    // What is a little better on a part may be worse in the end.
    let other = Attempt::new(request, &plain).pass(Some(&learned))?;
    Ok(if request.cost(&other) <= request.cost(&best) { other } else { best })
}

impl Request<'_> {
    /// Returns `D + lambda R` of a coded tile, in squared steps of the tensor header.
    pub fn cost(&self, coded: &Coded) -> f64 {
        let error = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let distortion = self.values.iter().zip(&coded.values).map(error).sum::<f64>();
        distortion + f64::from(self.lambda) * coded.unit.len() as f64 * 8.0
    }
}

/// Returns the values of a tile of these sides whose step is given in steps of the tensor header.
pub fn decoded_values(samples: &Samples, sides: [usize; 2], step: f32) -> Vec<f32> {
    let rows = samples.rows().take(sides[0]);
    rows.flat_map(|row| row[..sides[1]].iter().map(|&x| x as f32 * (step * UNIT))).collect()
}

/// A variant of a tile that is to be coded.
struct Attempt<'a> {
    request: &'a Request<'a>,
    variant: &'a Variant,
    parameters: Parameters,
    /// The samples in steps of the tile, in the order of the variant.
    target: Vec<f32>,
    /// Those that blocks may be predicted from, likewise; empty if there are none.
    co_located: Vec<i32>,
    sides: [usize; 2],
}

impl<'a> Attempt<'a> {
    fn new(request: &'a Request<'a>, variant: &'a Variant) -> Self {
        let Request { values, width, tools, .. } = *request;
        let has_trellis = tools.has(TransformTool::Trellis);
        // The step of a request is that which suits its tools.
        let finer = if has_trellis && variant.runs { DEPENDENT_STEP } else { 0 };
        let parameters = Parameters {
            dependent: has_trellis && !variant.runs,
            runs: variant.runs,
            step_index: request.step_index.saturating_sub(finer),
        };
        let target = padded(&variant.ordered(values, width), width, parameters.step(1.0));
        let sides = [values.len() / width.max(1), width];
        let reference = request.reference.filter(|_| tools.has(TransformTool::CoLocated));
        let samples = reference.map(|reference| reference.samples(parameters.step(reference.steps.step)));
        let co_located = samples.map_or(vec![], |samples| arranged(&samples, sides, &variant.setup));
        Attempt { request, variant, parameters, target, co_located, sides }
    }

    /// Returns the goal of a search that is as thorough as `effort`.
    fn goal(&self, effort: Effort) -> Goal<'_> {
        let Request { tools, lambda, .. } = *self.request;
        let step = self.parameters.step(1.0);
        let (tried, most_worse, most_halves) = match effort {
            Effort::Fast => (1, 1.0, 0.0),
            Effort::Normal => (2, 1.03, 1.0),
            Effort::Best => (4, 1.2, f32::INFINITY),
        };
        Goal {
            target: &self.target,
            parameters: self.parameters,
            bases: &self.variant.setup.bases,
            co_located: &self.co_located,
            quantizer: Quantizer {
                dependent: self.parameters.dependent,
                by_cost: tools.has(TransformTool::Rdoq),
                lambda: lambda / (step * step),
            },
            tools: tools.with(TransformTool::Halves, most_halves > 0.0 && tools.has(TransformTool::Halves)),
            tried,
            most_worse,
            most_halves,
            fixed: self.request.as_jpeg,
        }
    }

    fn writer(&self) -> Result<TileWriter, CodecError> {
        TileWriter::with_setup(self.parameters, self.variant.setup.clone(), self.sides)
    }

    /// Learns probabilities from about so many superblocks, searched fast. Neighbours that are not coded are as wanted.
    /// Returns also about what the tile costs, in squared steps of the tensor header.
    fn learn(&self, superblocks: usize) -> Result<(Vec<Probability>, f64), CodecError> {
        let goal = self.goal(Effort::Fast);
        let (mut writer, [height, width]) = (self.writer()?, self.sides);
        let setup = self.writer()?.finish().len() as f64 * 8.0;
        let mut search = Search::new(&goal, height, width);
        let most = samples::MOST as f32;
        for (sample, target) in search.samples.values.iter_mut().zip(&self.target) {
            *sample = (target / UNIT).round().clamp(-most, most) as i32;
        }
        let sides = search.samples.sides;
        let all = tree::superblocks(sides).count();
        let (mut searched, mut cost) = (0, 0.0);
        for area in tree::superblocks(sides).step_by((all / superblocks).max(1)) {
            cost += f64::from(self.superblock(&mut writer, &mut search, area, None)?.1);
            searched += 1;
        }
        let step = f64::from(self.parameters.step(1.0));
        let of_all = cost * step * step * all as f64 / searched.max(1) as f64;
        Ok((writer.model().0.to_vec(), of_all + f64::from(self.request.lambda) * setup))
    }

    /// Codes the tile. Rates are those of the tile so far, at first those of `learned` probabilities, if there are any.
    fn pass(&self, learned: Option<&[Probability]>) -> Result<Coded, CodecError> {
        let goal = self.goal(self.request.effort);
        let (mut writer, [height, width]) = (self.writer()?, self.sides);
        let mut search = Search::new(&goal, height, width);
        let mut nodes = Vec::new();
        for (i, area) in tree::superblocks(search.samples.sides).enumerate() {
            nodes.push(self.superblock(&mut writer, &mut search, area, learned.filter(|_| i < OWN))?.0);
        }
        let mut samples = search.samples;
        self.variant.setup.restore(&mut samples);
        let values = decoded_values(&samples, self.sides, self.parameters.step(1.0));
        Ok(Coded { unit: writer.finish(), values, nodes, variant: self.variant.clone(), filter: None })
    }

    /// Codes a superblock. Returns it with its cost, in squared steps of the tile.
    fn superblock(
        &self,
        writer: &mut TileWriter,
        search: &mut Search,
        area: Area,
        learned: Option<&[Probability]>,
    ) -> Result<(Node, f32), CodecError> {
        let (probabilities, means) = writer.model();
        let probabilities = learned.unwrap_or(probabilities);
        let runs = self.parameters.runs.then(|| runs::Prices::new(probabilities));
        let rates = Rates { probabilities, prices: prices::Prices::new(probabilities), runs, means };
        let (node, cost) = search.area(&rates, area);
        writer.push(area, search.samples.sides, &node)?;
        Ok((node, cost))
    }
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
