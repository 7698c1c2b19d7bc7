//! The partition of a superblock and the choices of its blocks, by `D + lambda R`.

use impasto_codec::transform::arithmetic::{Price, Probability};
use impasto_codec::transform::basis::{Kind, MOST_LOG};
use impasto_codec::transform::learned::Bases;
use impasto_codec::transform::levels::{self, Means};
use impasto_codec::transform::prices::Prices;
use impasto_codec::transform::runs;
use impasto_codec::transform::samples::{Area, Prediction, Samples};
use impasto_codec::transform::scan::Form;
use impasto_codec::transform::tree::{self, Block, Node, Split};
use impasto_codec::transform::{Parameters, UNIT};

use super::candidates::{Candidate, Candidates};
use super::quantize::{self, Quantizer};
use super::tools::{Tools, TransformTool};

/// The smallest side that splits lead to, as a logarithm.
const LEAST_LOG: u32 = 3;
/// The side of blocks without a search, as a logarithm.
const FIXED_LOG: u32 = 3;

/// What a tile is to become.
pub struct Goal<'a> {
    /// The wanted samples, in steps, of the sides of [`Samples`].
    pub target: &'a [f32],
    /// Parameters of the tile.
    pub parameters: Parameters,
    /// Transforms of the tile.
    pub bases: &'a Bases,
    /// How levels are chosen.
    pub quantizer: Quantizer,
    /// Tools that are on.
    pub tools: Tools,
    /// Choices of a block whose exact cost is computed.
    pub tried: usize,
    /// Whether blocks are 8 x 8 and have a DCT, without a search.
    pub fixed: bool,
}

/// The model by which rates are computed; it stays as it is during a superblock.
pub struct Rates<'a> {
    pub probabilities: &'a [Probability],
    pub prices: Prices,
    /// Those of runs, if levels are coded by runs.
    pub runs: Option<runs::Prices>,
    pub means: &'a Means,
}

/// Searches superblocks one after the other.
pub struct Search<'a> {
    goal: &'a Goal<'a>,
    /// Samples as a decoder has them, as far as they are decided.
    pub samples: Samples,
    work: Workspace,
}

/// Working memory.
#[derive(Default)]
struct Workspace {
    residual: Vec<f32>,
    predicted: Vec<i64>,
    between: Vec<f32>,
    coefficients: Vec<f32>,
    quantize: quantize::Workspace,
    by_runs: super::runs::Workspace,
    reconstruct: tree::Workspace,
    candidates: Candidates,
}

impl<'a> Search<'a> {
    /// Begins a tile of `height` x `width` elements.
    pub fn new(goal: &'a Goal<'a>, height: usize, width: usize) -> Self {
        Search { goal, samples: Samples::new(height, width), work: Workspace::default() }
    }

    /// Finds the best node for an area that has samples, and sets these. Returns it with its cost.
    pub fn area(&mut self, rates: &Rates, area: Area) -> (Node, f32) {
        self.split(rates, area, true)
    }

    /// Like [`Search::area`]; an area that may not be split is one block, if it can be.
    fn split(&mut self, rates: &Rates, area: Area, may_split: bool) -> (Node, f32) {
        if let Some(split) = Split::forced(area, self.samples.sides) {
            return self.parts(rates, area, split, None).unwrap_or((Node::Split(split, vec![]), 0.0));
        }
        if self.goal.fixed {
            return self.fixed(rates, area);
        }
        let lambda = self.goal.quantizer.lambda;
        let price = |split| lambda * bits(rates, |price| drop(tree::split(price, area, split)));
        let (block, cost) = self.block(rates, area);
        let is_coded = block.patches.iter().any(|levels| !levels.is_empty());
        let mut best = (Node::Block(block), cost + price(Split::None));
        if !is_coded || !may_split {
            return best;
        }
        let mut kept = self.copy(area);
        for &split in Split::allowed(area) {
            if !self.tries(area, split) {
                continue;
            }
            let own = price(split);
            if let Some((node, cost)) = self.parts(rates, area, split, Some(best.1 - own))
                && cost + own < best.1
            {
                best = (node, cost + own);
                kept = self.copy(area);
            }
        }
        self.paste(area, &kept);
        best
    }

    /// Splits an area into blocks of 8 x 8 with a DCT, predicted by 0 or by the mean of their neighbours.
    fn fixed(&mut self, rates: &Rates, area: Area) -> (Node, f32) {
        if area.logs.iter().any(|&log| log > FIXED_LOG) {
            let split = match area.logs.map(|log| log > FIXED_LOG) {
                [true, false] => Split::Rows,
                [false, true] => Split::Columns,
                _ => Split::Quarters,
            };
            return self.parts(rates, area, split, None).unwrap_or((Node::Split(split, vec![]), 0.0));
        }
        let mut energy = |prediction| {
            let Workspace { residual: values, predicted, .. } = &mut self.work;
            residual(self.goal, &self.samples, area, prediction, predicted, values);
            values.iter().map(|x| x * x).sum::<f32>()
        };
        let is_dc = self.goal.tools.has(TransformTool::Dc) && energy(Prediction::Dc) < energy(Prediction::Zero);
        let prediction = if is_dc { Prediction::Dc } else { Prediction::Zero };
        let (block, cost) = self.try_block(rates, area, Candidate { prediction, kinds: [Kind::Dct; 2] });
        (Node::Block(block), cost)
    }

    /// Returns whether a split is worth a trial.
    fn tries(&self, area: Area, split: Split) -> bool {
        let tools = self.goal.tools;
        let least = area.logs.iter().all(|&log| log > LEAST_LOG);
        match split {
            Split::None => false,
            Split::Quarters => tools.has(TransformTool::Quarters) && least,
            Split::Rows | Split::Columns => {
                tools.has(TransformTool::Halves)
                    && area.logs[0].abs_diff(area.logs[1]) <= 1
                    && area.logs.iter().all(|&log| log <= MOST_LOG)
            }
        }
    }

    /// Finds the best nodes for the parts of an area; `None` as soon as they cost more than `limit`. Without a limit, the
    /// split is not a choice. Halves that are one are not split again.
    fn parts(&mut self, rates: &Rates, area: Area, split: Split, limit: Option<f32>) -> Option<(Node, f32)> {
        let may_split = limit.is_none() || split == Split::Quarters;
        let (mut parts, mut sum) = (Vec::new(), 0.0);
        for part in split.parts(area) {
            if tree::is_outside(part, self.samples.sides) {
                continue;
            }
            let (node, cost) = self.split(rates, part, may_split);
            sum += cost;
            if limit.is_some_and(|limit| sum >= limit) {
                return None;
            }
            parts.push(node);
        }
        Some((Node::Split(split, parts), sum))
    }

    /// Finds the best choices of a block, and sets its samples.
    fn block(&mut self, rates: &Rates, area: Area) -> (Block, f32) {
        let patch = tree::patches(area).next().unwrap_or(area);
        let candidates = {
            let (goal, samples) = (self.goal, &self.samples);
            let residual = |prediction, out: &mut Vec<f32>, predicted: &mut Vec<i64>| {
                residual(goal, samples, patch, prediction, predicted, out)
            };
            let fitted = if goal.tools.has(TransformTool::Linear) { fit(goal, samples, patch) } else { None };
            self.work.candidates.best((goal.tools, goal.bases), patch.logs, goal.tried, fitted, residual)
        };
        let mut best: Option<(Block, f32)> = None;
        let several = candidates.len() > 1;
        for candidate in candidates {
            let found = self.try_block(rates, area, candidate);
            if best.as_ref().is_none_or(|(_, cost)| found.1 < *cost) {
                best = Some(found);
            }
        }
        let (block, cost) = best.unwrap_or_else(|| {
            self.try_block(rates, area, Candidate { prediction: Prediction::Zero, kinds: [Kind::Identity; 2] })
        });
        if several {
            self.reconstruct(area, &block);
        }
        (block, cost)
    }

    /// Codes a block with given choices, and sets its samples. Returns its exact cost under the rates.
    fn try_block(&mut self, rates: &Rates, area: Area, candidate: Candidate) -> (Block, f32) {
        let Candidate { prediction, kinds } = candidate;
        let lambda = self.goal.quantizer.lambda;
        let mut cost = lambda * bits(rates, |price| drop(tree::prediction(price, area, prediction)));
        let (mut all, mut sent) = (Vec::new(), false);
        for patch in tree::patches(area) {
            let Workspace { residual: values, predicted, between, coefficients, quantize, by_runs, .. } =
                &mut self.work;
            residual(self.goal, &self.samples, patch, prediction, predicted, values);
            super::forward::columns(self.goal.bases, kinds[0], patch.logs, values, between);
            super::forward::rows(self.goal.bases, kinds[1], patch.logs, between, coefficients);
            let form = Form::new(patch.logs, kinds);
            let (mut found, quantizer) = (Vec::new(), self.goal.quantizer);
            let own = match &rates.runs {
                None => quantizer.quantize(form, rates.means, &rates.prices, coefficients, &mut found, quantize),
                Some(runs) => {
                    let prices = (&rates.prices, runs);
                    quantizer.quantize_runs(form, rates.means, prices, coefficients, &mut found, by_runs)
                }
            };
            let energy: f32 = coefficients.iter().map(|c| c * c).sum();
            let coded = found.iter().any(|&level| level != 0);
            let flag = |coded| lambda * bits(rates, |price| drop(levels::coded(price, patch.logs, coded)));
            let bases = self.goal.bases;
            let choice = |price: &mut Price| drop(tree::kinds(price, bases, patch.logs, prediction, kinds));
            let once = if sent { 0.0 } else { lambda * bits(rates, choice) };
            let (with, without) = (own + flag(true) + once, energy + flag(false));
            if coded && (with < without || !self.goal.quantizer.by_cost) {
                (cost, sent) = (cost + with, true);
            } else {
                cost += without;
                found.clear();
            }
            let levels = (!found.is_empty()).then_some((kinds, &found[..]));
            let dependent = self.goal.parameters.dependent;
            let work = &mut self.work.reconstruct;
            tree::reconstruct(&mut self.samples, bases, patch, prediction, levels, dependent, work);
            all.push(found);
        }
        (Block { prediction, kinds, patches: all }, cost)
    }

    fn reconstruct(&mut self, area: Area, block: &Block) {
        for (patch, levels) in tree::patches(area).zip(&block.patches) {
            let levels = (!levels.is_empty()).then_some((block.kinds, &levels[..]));
            let (dependent, work) = (self.goal.parameters.dependent, &mut self.work.reconstruct);
            tree::reconstruct(&mut self.samples, self.goal.bases, patch, block.prediction, levels, dependent, work);
        }
    }

    fn copy(&self, area: Area) -> Vec<i32> {
        (0..area.sides()[0]).flat_map(|r| self.samples.row(area, r)).copied().collect()
    }

    fn paste(&mut self, area: Area, values: &[i32]) {
        for (r, row) in values.chunks_exact(area.sides()[1]).enumerate() {
            self.samples.row_mut(area, r).copy_from_slice(row);
        }
    }
}

/// Returns the linear prediction that leaves the least square of an area; `None` if its factors are those of another
/// prediction, or its neighbours are 0.
fn fit(goal: &Goal, samples: &Samples, area: Area) -> Option<Prediction> {
    let (stride, [_, width]) = (samples.sides[1], area.sides());
    let mut predicted = Vec::new();
    samples.predict(Prediction::Top, area, &mut predicted);
    let top: Vec<f32> = predicted[..width].iter().map(|&x| x as f32 * UNIT).collect();
    samples.predict(Prediction::Left, area, &mut predicted);
    let left: Vec<f32> = predicted.iter().step_by(width).map(|&x| x as f32 * UNIT).collect();
    // Sums of products: of the neighbours with themselves and each other, and with what is wanted.
    let (mut tt, mut ll, mut tl, mut t, mut l) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for (r, left) in left.iter().enumerate() {
        let target = &goal.target[(area.at[0] + r) * stride + area.at[1]..][..width];
        for (x, top) in target.iter().zip(&top) {
            (tt, ll, tl) = (tt + top * top, ll + left * left, tl + top * left);
            (t, l) = (t + top * x, l + left * x);
        }
    }
    let determinant = tt * ll - tl * tl;
    let factors = if determinant > 1e-3 * tt * ll {
        [(t * ll - l * tl) / determinant, (l * tt - t * tl) / determinant]
    } else if tt > 0.0 {
        [t / tt, 0.0]
    } else {
        return None;
    };
    let factors = factors.map(|factor| (factor * 16.0).round().clamp(-32.0, 31.0) as i8);
    let is_other = matches!(factors, [0, 0] | [16, 0] | [0, 16]);
    (!is_other).then_some(Prediction::Linear(factors))
}

/// Replaces `out` by what a prediction leaves of an area, in steps.
fn residual(
    goal: &Goal,
    samples: &Samples,
    area: Area,
    prediction: Prediction,
    predicted: &mut Vec<i64>,
    out: &mut Vec<f32>,
) {
    let (stride, width) = (samples.sides[1], area.sides()[1]);
    samples.predict(prediction, area, predicted);
    out.clear();
    for (r, row) in predicted.chunks_exact(width).enumerate() {
        let target = &goal.target[(area.at[0] + r) * stride + area.at[1]..][..width];
        out.extend(target.iter().zip(row).map(|(target, &predicted)| target - predicted as f32 * UNIT));
    }
}

fn bits(rates: &Rates, code: impl FnOnce(&mut Price)) -> f32 {
    let mut price = Price::new(rates.probabilities);
    code(&mut price);
    price.bits as f32 / 65536.0
}
