//! Fast pre-selection: the predictions and transforms of a block whose coefficients look cheapest.

use impasto_codec::transform::basis::Kind;
use impasto_codec::transform::learned::Bases;
use impasto_codec::transform::samples::Prediction;
use impasto_core::{Isa, at_each_isa};

use super::forward;
use super::near::Near;
use super::tools::{Tools, TransformTool};

/// Transforms of columns with which all transforms of rows are looked at.
const KINDS: usize = 2;
/// About the bits of the factors of a linear prediction, and of that of a co-located one.
const FACTORS: f32 = 12.0;
const FACTOR: f32 = 3.0;

/// Choices of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub prediction: Prediction,
    pub kinds: [Kind; 2],
}

/// Working memory of the pre-selection.
#[derive(Default)]
pub struct Candidates {
    residual: Vec<f32>,
    predicted: Vec<i64>,
    between: Vec<f32>,
    out: Vec<f32>,
}

at_each_isa! {
    /// Returns about twice the bits of coefficients that are given in steps: the logarithms of what they are above the step.
    /// Only its order matters.
    fn sum_of_logarithms(coefficients: &[f32]) -> f32 {
        let mut sums = [0.0; 16];
        for chunk in coefficients.chunks(16) {
            for (sum, c) in sums.iter_mut().zip(chunk) {
                // log2(1 + 2 c^2), to about 0.09; the same on every machine.
                *sum += (1.0 + 2.0 * c * c).to_bits() as f32 * (1.0 / (1 << 23) as f32) - 127.0;
            }
        }
        sums.iter().sum()
    }
}

/// Returns an estimate of the bits of coefficients in steps; see [`sum_of_logarithms`].
pub fn estimate(coefficients: &[f32]) -> f32 {
    sum_of_logarithms(Isa::best(), coefficients) * 0.5
}

/// Returns the predictions that are on.
pub fn predictions(tools: Tools) -> impl Iterator<Item = Prediction> {
    Prediction::ALL.into_iter().filter(move |prediction| match prediction {
        Prediction::Zero => true,
        Prediction::Dc => tools.has(TransformTool::Dc),
        Prediction::Top => tools.has(TransformTool::Top),
        Prediction::Left => tools.has(TransformTool::Left),
        Prediction::Planar => tools.has(TransformTool::Planar),
        Prediction::Sum => tools.has(TransformTool::Sum),
        // Their factors are fitted first.
        Prediction::Linear(_) | Prediction::CoLocated(_) => false,
    })
}

/// Returns the transforms that are on.
pub fn kinds(tools: Tools) -> impl Iterator<Item = Kind> + Clone {
    Kind::ALL.into_iter().filter(move |kind| match kind {
        Kind::Identity | Kind::Learned => true,
        Kind::Dct => tools.has(TransformTool::Dct),
        Kind::Dst => tools.has(TransformTool::Dst),
        Kind::Hadamard => tools.has(TransformTool::Hadamard),
    })
}

impl Candidates {
    /// Returns the `count` best choices for a block with estimates of their bits, the best first. `target` is what is to
    /// be predicted, in steps, and `near` its neighbours; `fitted` are predictions that were made for it. `residual` writes
    /// what a prediction leaves.
    pub fn best(
        &mut self,
        (tools, bases): (Tools, &Bases),
        count: usize,
        block: (&[f32], &Near),
        fitted: &[Prediction],
        residual: impl Fn(Prediction, &mut Vec<f32>, &mut Vec<i64>),
    ) -> Vec<(f32, Candidate)> {
        let Candidates { residual: values, predicted, between, out } = self;
        let ((target, near), logs) = (block, block.1.logs);
        let of_side = |side: usize| kinds(tools).chain(bases.fits(side, logs[side]).then_some(Kind::Learned));
        let plain = [kinds(tools).next().unwrap_or(Kind::Identity); 2];
        let side = |prediction| match prediction {
            Prediction::Linear(_) => FACTORS,
            Prediction::CoLocated(_) => FACTOR,
            _ => 0.0,
        };
        let mut all: Vec<(f32, Candidate)> = Vec::new();
        // Transforms are linear: those of a prediction, which is a sum of few products of a column and a row, are
        // subtracted from that of the target.
        let mut transformed = Vec::new();
        for kinds in [[Kind::Identity; 2], plain].into_iter().take(if plain[0] == Kind::Identity { 1 } else { 2 }) {
            forward::columns(bases, kinds[0], logs, target, between);
            forward::rows(bases, kinds[1], logs, between, &mut transformed);
            for prediction in predictions(tools).chain(fitted.iter().copied()) {
                if let Prediction::CoLocated(_) = prediction {
                    residual(prediction, values, predicted);
                    forward::columns(bases, kinds[0], logs, values, between);
                    forward::rows(bases, kinds[1], logs, between, out);
                } else {
                    out.clear();
                    out.extend_from_slice(&transformed);
                    near.subtract(bases, prediction, kinds, out);
                }
                all.push((side(prediction) + estimate(out), Candidate { prediction, kinds }));
            }
        }
        let better = |a: &(f32, Candidate), b: &(f32, Candidate)| a.0.total_cmp(&b.0);
        all.sort_by(better);
        let prediction = all[0].1.prediction;
        residual(prediction, values, predicted);
        let mut of_columns: Vec<(f32, Kind)> = Vec::new();
        for kind in of_side(0) {
            forward::columns(bases, kind, logs, values, between);
            of_columns.push((estimate(between), kind));
        }
        of_columns.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, first) in of_columns.into_iter().take(KINDS) {
            forward::columns(bases, first, logs, values, between);
            for second in
                of_side(1).filter(|&second| [first, second] != plain && [first, second] != [Kind::Identity; 2])
            {
                forward::rows(bases, second, logs, between, out);
                all.push((side(prediction) + estimate(out), Candidate { prediction, kinds: [first, second] }));
            }
        }
        all.sort_by(better);
        all.truncate(count);
        all
    }
}
