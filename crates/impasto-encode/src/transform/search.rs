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
use super::fit;
use super::near::Near;
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
    /// Samples of the tile that blocks may be predicted from; empty if there is none.
    pub co_located: &'a [i32],
    /// How levels are chosen.
    pub quantizer: Quantizer,
    /// Tools that are on.
    pub tools: Tools,
    /// Choices of a block whose exact cost is computed, at most.
    pub tried: usize,
    /// Estimated bits of a choice, relative to the best one, up to which it is tried.
    pub most_worse: f32,
    /// Estimated bits of two halves, relative to those of the block, up to which they are tried.
    pub most_halves: f32,
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
    target: Vec<f32>,
    near: Near,
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
        let mut samples = Samples::new(height, width);
        samples.co_located = goal.co_located.to_vec();
        Search { goal, samples, work: Workspace::default() }
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
        let (block, cost, estimate) = self.block(rates, area);
        let is_coded = block.patches.iter().any(|levels| !levels.is_empty());
        let mut best = (Node::Block(block), cost + price(Split::None));
        if !is_coded || !may_split {
            return best;
        }
        let mut kept = self.copy(area);
        for &split in Split::allowed(area) {
            if !self.tries(area, split) || split != Split::Quarters && !self.promises(area, split, estimate) {
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

    /// Returns whether two halves look cheaper than the block, whose bits are estimated. The neighbours of the second half
    /// are samples of the block.
    fn promises(&mut self, area: Area, split: Split, estimate: f32) -> bool {
        let halves: f32 = split.parts(area).map(|part| self.candidates(part)[0].0).sum();
        halves < self.goal.most_halves * estimate
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

    /// Returns the choices of a block that look cheapest, with estimates of their bits; at least one.
    fn candidates(&mut self, area: Area) -> Vec<(f32, Candidate)> {
        let patch = tree::patches(area).next().unwrap_or(area);
        let (goal, samples) = (self.goal, &self.samples);
        let Workspace { target, predicted, near, candidates, .. } = &mut self.work;
        near.read(samples, patch, predicted);
        target.clear();
        for r in 0..patch.sides()[0] {
            target.extend_from_slice(wanted(goal, samples, patch, r));
        }
        let mut fitted = Vec::new();
        if goal.tools.has(TransformTool::Linear) {
            fitted.extend(fit::linear(samples, patch, target));
        }
        if !samples.co_located.is_empty() {
            fitted.extend(fit::co_located(samples, patch, target));
        }
        candidates.best(
            (goal.tools, goal.bases),
            goal.tried.max(1),
            (target, near),
            &fitted,
            |prediction, out, predicted| residual(goal, samples, patch, prediction, predicted, out),
        )
    }

    /// Finds the best choices of a block, and sets its samples. Returns also an estimate of its bits.
    fn block(&mut self, rates: &Rates, area: Area) -> (Block, f32, f32) {
        let mut candidates = self.candidates(area);
        let estimate = candidates[0].0;
        candidates.retain(|(other, _)| *other <= self.goal.most_worse * estimate);
        let (block, cost) = self.try_block(rates, area, candidates[0].1);
        let mut best = (block, cost, estimate);
        for (_, candidate) in &candidates[1..] {
            let (block, cost) = self.try_block(rates, area, *candidate);
            if cost < best.1 {
                best = (block, cost, estimate);
            }
        }
        if candidates.len() > 1 {
            self.reconstruct(area, &best.0);
        }
        best
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

/// Returns row `r` of an area as it is wanted, in steps.
fn wanted<'a>(goal: &Goal<'a>, samples: &Samples, area: Area, r: usize) -> &'a [f32] {
    &goal.target[(area.at[0] + r) * samples.sides[1] + area.at[1]..][..area.sides()[1]]
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
    let width = area.sides()[1];
    samples.predict(prediction, area, predicted);
    out.clear();
    for (r, row) in predicted.chunks_exact(width).enumerate() {
        out.extend(
            wanted(goal, samples, area, r).iter().zip(row).map(|(target, &predicted)| target - predicted as f32 * UNIT),
        );
    }
}

fn bits(rates: &Rates, code: impl FnOnce(&mut Price)) -> f32 {
    let mut price = Price::new(rates.probabilities);
    code(&mut price);
    price.bits as f32 / 65536.0
}
