//! The steps of all layers while tensors are coded: those of the top layer follow the size of all lossy layers, those of the base
//! that of the base.

use impasto_container::{LayerMark, Object, UnitSlot, manifest_length};

use super::factors::Factors;
use crate::arithmetic::{exp2, log2};
use crate::aside::Added;
use crate::error::EncodeError;
use crate::pace::Pace;
use crate::planner::Planner;

/// Most octaves by which the steps of the base differ from those that were planned. (Factors are integers, which changes the steps
/// of a tensor by more.)
const MOST_BASE: f64 = 0.25;
/// The largest factor of a refinement (SPEC 6).
const MOST_FACTOR: u8 = 64;
/// By how much the last factor of the last tensor may be raised, so that the base is not too large.
const MOST_RAISED: u8 = 2;
/// How often the last tensor is coded, at most.
const TRIES: usize = 5;
/// Bytes of the header of a file.
const HEADER: u64 = 64;

/// The steps of all layers.
pub struct Ladder {
    /// Logarithms of the global steps of the layers, the coarsest first.
    logs: Vec<f64>,
    factors: Factors,
    top: Pace,
    base: Pace,
    /// The length of the file so far: up to the end of the base, and of all lossy layers.
    length: Added,
}

/// By how many octaves the steps of the top layer and of the base are coarser than the global ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shift {
    pub top: f64,
    pub base: f64,
}

/// The steps of a tensor.
pub struct Rungs {
    /// The global step of its top layer.
    pub step: f64,
    /// The factors of its refinements, from the top down.
    pub factors: Vec<u8>,
    shift: Shift,
    /// By how much its last factor is raised.
    raised: u8,
    /// How often it was coded before.
    tries: usize,
    weights: Option<u64>,
    /// What its factors were chosen by.
    chosen_by: Factors,
}

impl Rungs {
    /// Returns whether the step of its top layer may differ from that of its plan.
    pub fn is_moved(&self) -> bool {
        self.shift.top != 0.0 || self.tries > 0
    }
}

impl Ladder {
    /// Creates the steps of a file whose lossy layers have at most `top` bytes, and the layers below the top one the sizes `wanted`.
    /// `below` are the logarithms of their global steps, the coarsest first; `step` is that of the top layer. A weight costs `overhead`
    /// bits more than in a file without layers.
    ///
    /// # Errors
    /// If the format cannot hold a tensor, or a covariance is invalid.
    pub fn new(
        planner: &Planner,
        (below, step): (&[f64], f64),
        (wanted, top): (&[u64], u64),
        overhead: f64,
    ) -> Result<Ladder, EncodeError> {
        let pace = |target: u64, step: f64, more: f64| planner.pace(target, step, &planner.plans(Some(step))?, more);
        let base = match (below.first(), wanted.first()) {
            (Some(&log), Some(&wanted)) => pace(wanted, exp2(log), 0.0)?.within(MOST_BASE),
            _ => Pace::none(),
        };
        let logs = below.iter().copied().chain([log2(step)]).collect();
        let (factors, length) = (Factors::new(below.len()), Added::default());
        Ok(Ladder { logs, factors, top: pace(top, step, overhead)?, base, length })
    }

    /// Creates steps that no size changes: `step` is the global step of the top layer, and `octaves` lead from the steps of each
    /// layer to those of the next coarser one, from the top down.
    pub fn fixed(step: f64, octaves: &[f64]) -> Ladder {
        let mut logs = vec![log2(step)];
        octaves.iter().for_each(|octaves| logs.insert(0, logs[0] + octaves));
        let (factors, length) = (Factors::new(octaves.len()), Added::default());
        Ladder { logs, factors, top: Pace::none(), base: Pace::none(), length }
    }

    /// Returns the octaves from the steps of each layer to those of the next coarser one, from the top down.
    pub fn octaves(&self, shift: Shift) -> Vec<f64> {
        let mut logs = self.logs.clone();
        logs.first_mut().into_iter().for_each(|base| *base += shift.base);
        logs.last_mut().into_iter().for_each(|top| *top += shift.top);
        logs.windows(2).rev().map(|pair| pair[0] - pair[1]).collect()
    }

    /// Begins a file of these objects, whose assets take `assets` bytes. `slots` are the units of the base.
    pub fn start(&mut self, planner: &Planner, objects: &[Object], slots: &[UnitSlot], assets: u64) {
        let below = self.logs.len() - 1;
        let has_layers = |slot: &&UnitSlot| {
            let tensor = (slot.object as usize).checked_sub(planner.assets.len());
            tensor.is_some_and(|tensor| planner.has_layers(tensor))
        };
        let above = slots.iter().filter(has_layers).count() * below;
        let length = |units: usize| {
            let marks = vec![LayerMark { units: units as u32, kld: None }; below + 2];
            HEADER + manifest_length(objects, units, &marks, planner.inputs.base()) + assets
        };
        self.length = Added { base: length(slots.len()), lossy: length(slots.len() + above) };
    }

    /// Returns the steps of the next tensor, which has so many weights if it has layers.
    pub fn next(&mut self, tensor: usize, weights: Option<u64>) -> Rungs {
        let (top, base) = (self.top.octaves(tensor, self.length.lossy), self.base.octaves(tensor, self.length.base));
        self.choose(Shift { top, base }, weights, 0, 0)
    }

    fn choose(&mut self, shift: Shift, weights: Option<u64>, raised: u8, tries: usize) -> Rungs {
        let (chosen_by, octaves) = (self.factors.clone(), self.octaves(shift));
        let mut factors = weights.map_or(vec![], |weights| self.factors.next(weights, &octaves));
        factors.last_mut().into_iter().for_each(|factor| *factor = (*factor + raised).min(MOST_FACTOR));
        let step = exp2(self.logs.last().copied().unwrap_or(0.0) + shift.top);
        Rungs { step, factors, shift, raised, tries, weights, chosen_by }
    }

    /// Notes that a tensor took so many bytes. Returns other steps if it is the last one and the file misses a size with these.
    pub fn again(&mut self, tensor: usize, rungs: &Rungs, added: Added) -> Option<Rungs> {
        let length = Added { base: self.length.base + added.base, lossy: self.length.lossy + added.lossy };
        let tries = rungs.tries + 1;
        if tries < TRIES {
            let can_rise = rungs.factors.last().is_some_and(|factor| *factor < MOST_FACTOR);
            let is_raised = can_rise && self.base.is_exceeded(tensor, length.base) && rungs.raised < MOST_RAISED;
            let top = self.top.again(tensor, length.lossy);
            if is_raised || top.is_some() {
                self.factors = rungs.chosen_by.clone();
                let shift = Shift { top: top.unwrap_or(rungs.shift.top), ..rungs.shift };
                return Some(self.choose(shift, rungs.weights, rungs.raised + u8::from(is_raised), tries));
            }
        }
        let of_factors: f64 = rungs.factors.iter().map(|&factor| log2(factor.into())).sum();
        let from_base = self.logs.last().zip(self.logs.first()).map_or(0.0, |(top, base)| top - base);
        self.top.coded(tensor, rungs.shift.top, added.lossy);
        self.base.coded(tensor, from_base + rungs.shift.top + of_factors, added.base);
        self.length = length;
        None
    }

    /// Returns by how many octaves the steps of all tensors should have been coarser, given the length of the base and of all lossy
    /// layers.
    pub fn missed(&self, base: u64, lossy: u64) -> Shift {
        Shift { top: self.top.missed(lossy), base: self.base.missed(base) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_layers_between_stay() {
        let ladder = Ladder::fixed(0.5, &[1.0, 2.5]);
        assert_eq!(ladder.octaves(Shift::default()), [1.0, 2.5]);
        assert_eq!(ladder.octaves(Shift { top: 0.125, base: 0.5 }), [0.875, 3.0]);
        assert_eq!(Ladder::fixed(0.5, &[]).octaves(Shift { top: 0.125, base: 0.5 }), [0.0; 0]);
    }
}
