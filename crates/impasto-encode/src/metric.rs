//! The metric of a tensor: the covariance, the factor and the row weights by which its error is measured.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use impasto_core::lattice::scale;

use crate::arithmetic::{exp2, log2, log2_fixed};
use crate::error::EncodeError;
use crate::feedback::Feedback;
use crate::lattice::Grid;
use crate::model::Tensor;
use crate::reorder::reordered;
use crate::scales::Scales;
use crate::statistics::Statistics;

/// A step index counts 16ths of an octave: the shift that gets it from a logarithm in units of 2^-16 octave.
const INDEX_SHIFT: u32 = 12;
/// Largest step index (SPEC 6).
const MOST: i32 = 1023;

/// What is added to a damping until a covariance is positive definite, since its correlations are rounded.
pub const ROUNDED: [f64; 4] = [0.0, 1e-4, 1e-3, 1e-2];

/// Floors of precision: limits to what a text may mark as unimportant.
///
/// A text covers few tokens and some uses of a model, so what it rarely uses may matter elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Floors {
    /// For texts far from the use of the model: rows at most half an octave coarser than average, tensors one octave.
    Conservative,
    /// The default: rows at most one octave coarser than average, tensors 2.5 octaves.
    #[default]
    Balanced,
    /// Only the text counts.
    Aggressive,
}

impl Floors {
    /// Smaller row weights are raised to this share of the mean.
    fn row(self) -> f64 {
        match self {
            Floors::Conservative => 0.5,
            Floors::Balanced => 0.25,
            Floors::Aggressive => 0.001,
        }
    }

    /// Most octaves by which a tensor's step, relative to its weights and inputs, exceeds the mean over all tensors.
    /// Each octave is one bit per weight.
    fn octaves(self) -> f64 {
        match self {
            Floors::Conservative => 1.0,
            Floors::Balanced => 2.5,
            Floors::Aggressive => f64::INFINITY,
        }
    }
}

/// The metric of a tensor's error.
#[derive(Clone, Debug)]
pub struct Metric {
    /// The group whose covariance is that of the tensor's input, and the damping; `None` for no covariance.
    pub input: Option<(String, f64)>,
    /// The tensor's step at a global step of 1.
    pub relative: f64,
    /// Indices of the row steps; empty if all rows have the same step.
    pub rows: Vec<i16>,
    /// Logarithm of its step relative to the scales of its weights and inputs, in octaves, as measured: the smaller, the more
    /// fragile. `None` if it was not measured.
    pub coarseness: Option<f64>,
}

impl Metric {
    /// Returns the steps: at a global step of 1, column `i` has the step `relative / L_ii`.
    pub fn steps(&self, feedback: &Feedback) -> RelativeSteps {
        let log = |x: f64| log2_fixed(x).unwrap_or(0);
        let index = |l: &f64| (-log(*l) + (1 << (INDEX_SHIFT - 1))) >> INDEX_SHIFT;
        let columns: Vec<i32> = feedback.diagonal().iter().map(index).collect();
        let mut sorted = columns.clone();
        sorted.sort_unstable();
        let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
        let columns: Vec<i16> = columns.iter().map(|&i| (i - middle).clamp(-MOST, MOST) as i16).collect();
        // The steps of all rows must be finite (SPEC 10.3).
        let largest = self.rows.iter().max().map_or(1.0, |&index| scale(index.into()));
        RelativeSteps {
            unit: self.relative * exp2(f64::from(middle) / 16.0),
            most: f32::MAX / largest.max(1.0),
            rows: self.rows.clone(),
            columns: if columns.iter().all(|&i| i == 0) { vec![] } else { columns },
        }
    }

    /// Returns the grid at a global step.
    pub fn grid(&self, feedback: &Feedback, step: f64) -> Grid {
        self.steps(feedback).grid(step)
    }
}

/// The steps of a tensor, in proportion to a global step: what its grids need of its covariance.
pub struct RelativeSteps {
    /// Its step at a global step of 1.
    unit: f64,
    /// Its largest step.
    most: f32,
    rows: Vec<i16>,
    columns: Vec<i16>,
}

impl RelativeSteps {
    /// Returns the grid at a global step.
    pub fn grid(&self, step: f64) -> Grid {
        Grid {
            step: ((step * self.unit) as f32).clamp(f32::MIN_POSITIVE, self.most),
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            low_rank: None,
            trellis: None,
        }
    }
}

/// A tensor with statistics.
struct Measured {
    /// Logarithm of its step relative to the scales of its weights and inputs, in octaves, before normalization over
    /// tensors.
    coarseness: f64,
    weights: f64,
}

/// Computes the metrics of the tensors that are coded with loss, which are given with the scales of their weights.
///
/// If the KL divergence of a tensor is `s c^2 / 12` per weight at a step `c` (before waterfilling), slopes are equal
/// where `s c^2` is. Without statistics, all tensors have the same step relative to the root mean square of their
/// weights.
pub fn metrics(
    tensors: &[Option<(&Tensor, &Scales)>],
    statistics: Option<&Statistics>,
    floors: Floors,
) -> Vec<Option<Metric>> {
    let metric = |tensor: &Option<(&Tensor, &Scales)>| {
        let (tensor, scales) = (*tensor)?;
        let size = scales.mean_square.sqrt();
        let plain = Metric { input: None, relative: size, rows: vec![], coarseness: None };
        let Some((statistics, linear)) = statistics
            .and_then(|s| Some((s, s.info().linears.get(&tensor.hf_name)?)))
            .filter(|(_, l)| l.sensitivity > 0.0)
        else {
            // Not measured, or not used by the text (such as an expert without tokens).
            return Some((plain, None));
        };
        let rows = statistics.rows(&tensor.hf_name);
        let rows = rows.filter(|rows| Some(&(rows.len() as u64)) == tensor.info.shape.first()).unwrap_or_default();
        let ordered: Vec<f32> = (0..rows.len()).map(|r| rows[tensor.hf_row(r)]).collect();
        let rows = if rows.is_empty() { vec![] } else { row_steps(&ordered, floors.row()) };
        let input = linear.input.clone().map(|input| (input, linear.damping));
        let relative = (1.0 / linear.sensitivity).sqrt();
        // The step relative to the scales: that of the inputs takes the place of L_ii.
        let inputs = linear.input.as_ref().and_then(|input| statistics.mean_square(input));
        let inputs = inputs.unwrap_or(1.0).max(f64::MIN_POSITIVE).sqrt();
        let measured = Measured { coarseness: log2(relative / (inputs * size)), weights: tensor.weights() as f64 };
        Some((Metric { input, relative, rows, coarseness: Some(measured.coarseness) }, Some(measured)))
    };
    let found: Vec<_> = tensors.iter().map(metric).collect();
    // One factor brings measured and other steps to the same scale.
    let (mut sum, mut weights) = (0.0, 0.0);
    for measured in found.iter().flatten().filter_map(|(_, measured)| measured.as_ref()) {
        sum += measured.coarseness * measured.weights;
        weights += measured.weights;
    }
    let mean = if weights > 0.0 { sum / weights } else { 0.0 };
    let scaled = |(mut metric, measured): (Metric, Option<Measured>)| {
        if let Some(Measured { coarseness, .. }) = measured {
            let above = (coarseness - mean - floors.octaves()).max(0.0);
            metric.relative *= exp2(-mean - above);
        }
        metric
    };
    found.into_iter().map(|found| found.map(scaled)).collect()
}

/// Returns step indices for rows with the given weights, which are raised to at least `floor` times their mean. Steps
/// are proportional to `weight^(-1/2)`.
pub fn row_steps(weights: &[f32], floor: f64) -> Vec<i16> {
    let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / weights.len().max(1) as f64;
    let log = |w: f64| log2_fixed(w / mean.max(f64::MIN_POSITIVE)).unwrap_or(0);
    let index = |w: &f32| (-log(f64::from(*w).max(floor * mean)) / 2 + (1 << (INDEX_SHIFT - 1))) >> INDEX_SHIFT;
    weights.iter().map(|w| index(w).clamp(-MOST, MOST) as i16).collect()
}

/// Returns the bytes of the factor of a covariance of `n` inputs.
pub fn factor_bytes(n: usize) -> u64 {
    (n as u64).saturating_mul(n as u64).saturating_mul(size_of::<f32>() as u64)
}

/// A cache of factored covariances.
pub struct Feedbacks<'a> {
    statistics: Option<&'a Statistics>,
    /// Largest total size of those that are kept besides the last one, in bytes.
    room: u64,
    kept: Mutex<VecDeque<(String, u64, Arc<Feedback>)>>,
}

impl<'a> Feedbacks<'a> {
    /// Creates an empty cache for these statistics, of `room` bytes besides the last covariance.
    pub fn new(statistics: Option<&'a Statistics>, room: u64) -> Self {
        Feedbacks { statistics, room, kept: Mutex::default() }
    }

    /// Returns whether the factors of all these metrics are kept once they are known.
    pub fn keeps<'m>(&self, metrics: impl Iterator<Item = &'m Metric>) -> bool {
        let Some(statistics) = self.statistics else { return true };
        let groups: BTreeSet<&str> = metrics.filter_map(|metric| Some(metric.input.as_ref()?.0.as_str())).collect();
        let bytes = groups.iter().filter_map(|group| statistics.inputs(group)).map(factor_bytes);
        bytes.sum::<u64>() <= self.room
    }

    /// Returns the feedback for a tensor with `columns` inputs, which may be in another order than in the statistics; the
    /// identity if its metric has no covariance. Tensors that share an input have the same order.
    ///
    /// # Errors
    /// If the covariance has another number of inputs, or cannot be factored.
    pub fn of(&self, metric: &Metric, columns: usize, order: Option<&[u32]>) -> Result<Arc<Feedback>, EncodeError> {
        let Some((statistics, (group, damping))) = self.statistics.zip(metric.input.as_ref()) else {
            return Ok(Arc::new(Feedback::none(columns)));
        };
        let broken = |rule: &str| EncodeError::Statistics {
            file: statistics.name().to_owned(),
            rule: format!("covariance of {group:?}: {rule}"),
        };
        if statistics.inputs(group) != Some(columns) {
            return Err(broken("a tensor with this input has a different number of columns"));
        }
        self.factored(statistics, group, *damping, order).ok_or_else(|| broken("it is not positive definite"))
    }

    fn factored(
        &self,
        statistics: &Statistics,
        group: &str,
        damping: f64,
        order: Option<&[u32]>,
    ) -> Option<Arc<Feedback>> {
        let key = |kept: &(String, u64, Arc<Feedback>)| kept.0 == group && kept.1 == damping.to_bits();
        let lock = || self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = lock().iter().find(|kept| key(kept)) {
            return Some(found.2.clone());
        }
        // Room is made first, since factoring takes four times as much as the factor.
        let bytes = |kept: &(String, u64, Arc<Feedback>)| factor_bytes(kept.2.inputs());
        let mut kept = lock();
        while kept.iter().map(bytes).sum::<u64>() > self.room {
            kept.pop_front();
        }
        drop(kept);
        let (n, mut covariance) = statistics.covariance(group)?;
        if let Some(order) = order {
            covariance = reordered(&covariance, order);
        }
        let damped = |more: &f64| Feedback::new(&covariance, n, damping + more);
        let feedback = Arc::new(ROUNDED.iter().find_map(damped)?);
        lock().push_back((group.to_owned(), damping.to_bits(), feedback.clone()));
        Some(feedback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A column with four times the weight has half the step, to the nearest 16th of an octave; the tensor's own factor
    /// scales all steps.
    #[test]
    fn steps_are_waterfilled() {
        let covariance = [1.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 16.0];
        let feedback = Feedback::new(&covariance, 3, 0.0).expect("definite");
        let metric = Metric { input: None, relative: 3.0, rows: vec![], coarseness: None };
        let grid = metric.grid(&feedback, 0.5);
        let step = |column: usize| f64::from(grid.step) * f64::from(scale(grid.columns[column].into()));
        for (column, wanted) in [1.5, 0.75, 0.375].into_iter().enumerate() {
            assert!((step(column) / wanted - 1.0).abs() < 0.03, "{column}: {}", step(column));
        }
        assert!(metric.grid(&Feedback::none(3), 0.5).columns.is_empty(), "no covariance, one step");
    }

    #[test]
    fn rows_that_matter_have_finer_steps() {
        let indices = row_steps(&[4.0, 1.0, 0.25], 0.1);
        assert_eq!(indices[1] - indices[0], 16, "four times the weight, half the step");
        assert_eq!(indices[2] - indices[1], 16);
        assert_eq!(row_steps(&[1.0; 4], 0.1), [0; 4]);
        let floored = row_steps(&[1.95, 0.05, 0.0], 0.1);
        assert_eq!(floored[1], floored[2], "both are under the floor");
    }

    /// The largest row step must be finite (SPEC 10.3).
    #[test]
    fn no_step_is_infinite() {
        let metric = Metric { input: None, relative: 1e300, rows: vec![MOST as i16, 0], coarseness: None };
        let grid = metric.grid(&Feedback::none(1), 1.0);
        assert!((grid.step * scale(MOST)).is_finite() && grid.step > 0.0);
    }
}
