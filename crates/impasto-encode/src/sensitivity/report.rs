//! The result of an analysis of sensitivity.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ranks::spearman;
use super::{Estimator, SensitivityOptions};

/// Version of the serialized form of [`Sensitivities`]; it grows when a field changes its meaning or disappears.
pub const SENSITIVITY_SCHEMA: u32 = 1;

/// How much the error of each tensor matters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivities {
    /// [`SENSITIVITY_SCHEMA`].
    pub schema: u32,
    /// Bits per weight that each tensor was coded at.
    pub bits_per_weight: f64,
    /// Tokens per window.
    pub window: usize,
    /// Shards of the calibration text.
    pub shards: usize,
    /// Windows of each shard.
    pub windows: usize,
    /// Windows of the held-back text.
    pub held_back: usize,
    /// In the order of their names.
    pub tensors: Vec<TensorSensitivity>,
    /// Names of tensors that cannot be coded at the rate.
    pub left_out: Vec<String>,
    /// Rank correlations of each estimator with the measured divergence, per weight; empty without a run.
    pub correlations: Vec<Correlation>,
    /// The rank correlation of the measured divergence on the two halves of the held-back windows: an estimator with the same noise
    /// cannot do better.
    pub repeatability: Option<f64>,
}

/// How much the error of a tensor matters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSensitivity {
    /// Its name.
    pub name: String,
    /// The narrowest set of tensors that it is in.
    pub kind: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Number of weights.
    pub weights: u64,
    /// Bits per weight, about.
    pub bits: f64,
    /// Mean square of its error, over that of its weights.
    pub relative_error: f64,
    /// The KL divergence of the network with only this tensor coded, on the held-back text, in nats per token. `None` without a run, and
    /// for a tensor that the network does not have.
    pub measured: Option<f64>,
    /// The same on the first and the second half of the windows.
    pub halves: Option<[f64; 2]>,
    /// What estimators say.
    pub estimates: BTreeMap<Estimator, Estimate>,
}

/// What an estimator says of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean over shards, in nats per token; `magnitude`, `structure` and `covariance` have units of their own.
    pub value: f64,
    /// The standard deviation, over shards, of the natural logarithm; `None` if there is one shard.
    pub spread: Option<f64>,
    /// The value of each shard.
    pub shards: Vec<f64>,
}

impl Estimate {
    /// Returns the estimate with these values of shards.
    pub fn of(shards: Vec<f64>) -> Estimate {
        let n = shards.len() as f64;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / n;
        let logs: Vec<f64> = shards.iter().map(|x| x.max(f64::MIN_POSITIVE).ln()).collect();
        let middle = mean(&logs);
        let spread = (logs.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        Estimate { value: mean(&shards), spread: (shards.len() > 1).then_some(spread), shards }
    }
}

/// The rank correlation (Spearman) of an estimator with the measured divergence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correlation {
    /// The estimator.
    pub estimator: Estimator,
    /// Over the tensors that all estimators have an estimate of. `None` if these are fewer than three, or all alike.
    pub overall: Option<f64>,
    /// Over these tensors of each kind.
    pub kinds: BTreeMap<&'static str, f64>,
    /// By what share the divergence of a file whose bits follow this estimator exceeds that of one whose bits follow the measured
    /// divergence: a forecast, if divergences add up and each falls to a quarter with one more bit per weight. With `r` the measured
    /// divergence over the estimate, it is the mean of `r` over its geometric mean, weighed by the number of weights, minus 1.
    pub excess: Option<f64>,
}

impl Sensitivities {
    /// Creates an empty result.
    pub(super) fn new(options: &SensitivityOptions, left_out: Vec<String>) -> Sensitivities {
        Sensitivities {
            schema: SENSITIVITY_SCHEMA,
            bits_per_weight: options.bits_per_weight,
            window: options.window,
            shards: options.shards,
            windows: options.windows,
            held_back: options.held_back,
            tensors: vec![],
            left_out,
            correlations: vec![],
            repeatability: None,
        }
    }

    /// Returns the kinds of tensors, each once.
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<&str> = self.tensors.iter().map(|tensor| tensor.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Computes the correlations.
    pub(super) fn correlate(&mut self) {
        let halves =
            |tensor: &TensorSensitivity| tensor.halves.map(|[a, b]| (tensor.per_million(a), tensor.per_million(b)));
        self.repeatability = spearman(&self.tensors.iter().filter_map(halves).collect::<Vec<_>>());
        if self.tensors.iter().all(|tensor| tensor.measured.is_none()) {
            return;
        }
        let known = |estimator: &Estimator| self.tensors.iter().any(|tensor| tensor.estimates.contains_key(estimator));
        let known: Vec<Estimator> = Estimator::ALL.into_iter().filter(known).collect();
        let has_all = |tensor: &&TensorSensitivity| known.iter().all(|of| tensor.estimates.contains_key(of));
        let common: Vec<&TensorSensitivity> = self.tensors.iter().filter(has_all).collect();
        let kinds = self.kinds();
        let of = |&estimator: &Estimator| {
            let pairs = |kind: Option<&str>| -> Vec<(f64, f64)> {
                let tensors = common.iter().filter(|tensor| kind.is_none_or(|kind| tensor.kind == kind));
                tensors.filter_map(|tensor| tensor.pair(estimator)).collect()
            };
            let of_kinds = kinds.iter().filter_map(|&kind| Some((kind, spearman(&pairs(Some(kind)))?)));
            Correlation {
                estimator,
                overall: spearman(&pairs(None)),
                kinds: of_kinds.collect(),
                excess: excess(common.iter().filter_map(|tensor| Some((tensor.weights, tensor.pair(estimator)?)))),
            }
        };
        self.correlations = known.iter().map(of).collect();
    }
}

/// Returns [`Correlation::excess`] of numbers of weights, each with an estimate and a measured divergence.
fn excess(tensors: impl Iterator<Item = (u64, (f64, f64))>) -> Option<f64> {
    let (mut weights, mut sum, mut logs) = (0.0, 0.0, 0.0);
    for (count, (estimate, measured)) in tensors.filter(|(_, (a, b))| *a > 0.0 && *b > 0.0) {
        let (count, ratio) = (count as f64, measured / estimate);
        weights += count;
        sum += count * ratio;
        logs += count * ratio.ln();
    }
    (weights > 0.0).then(|| sum / weights / (logs / weights).exp() - 1.0)
}

impl TensorSensitivity {
    /// Returns a value per million weights.
    pub fn per_million(&self, value: f64) -> f64 {
        value * 1e6 / self.weights.max(1) as f64
    }

    /// Returns an estimate and the measured divergence, per weight.
    fn pair(&self, estimator: Estimator) -> Option<(f64, f64)> {
        let estimate = self.estimates.get(&estimator)?;
        Some((self.per_million(estimate.value), self.per_million(self.measured?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_of_shards() {
        let one = Estimate::of(vec![3.0]);
        assert_eq!((one.value, one.spread), (3.0, None));
        let two = Estimate::of(vec![1.0, std::f64::consts::E]);
        assert!((two.spread.unwrap() - 0.5f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn proportional_estimates_lose_nothing() {
        let of = |pairs: [(u64, (f64, f64)); 2]| excess(pairs.into_iter()).unwrap();
        assert!(of([(5, (1.0, 3.0)), (9, (2.0, 6.0))]).abs() < 1e-12);
        // Ratios of 1 and 4: a mean of 2.5 over 2.
        assert!((of([(7, (1.0, 1.0)), (7, (1.0, 4.0))]) - 0.25).abs() < 1e-12);
        assert_eq!(excess([].into_iter()), None);
    }
}
