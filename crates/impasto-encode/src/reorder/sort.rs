//! Finds the order of the units of a hidden value.

use std::ops::Range;
use std::slice;

use impasto_model::WeightSource;
use impasto_model::graph::{self, Hidden, LinearSpec};

use super::ReorderBy;
use crate::error::EncodeError;
use crate::lines::{Lines, ascending};
use crate::statistics::Statistics;

/// What orders are found by.
enum Keys<'a> {
    /// Orders of lines: the weights of units.
    Weights(fn(&Lines) -> Vec<u32>),
    /// Mean squares of the inputs of linear layers.
    Activations(&'a Statistics),
}

/// Finds orders of units.
pub struct Sorter<'a> {
    source: &'a dyn WeightSource,
    keys: Keys<'a>,
    memory_limit: Option<u64>,
}

impl<'a> Sorter<'a> {
    pub fn new(
        source: &'a dyn WeightSource,
        by: ReorderBy,
        statistics: Option<&'a Statistics>,
        memory_limit: Option<u64>,
    ) -> Result<Self, EncodeError> {
        let keys = match by {
            ReorderBy::Sum => Keys::Weights(Lines::by_sum),
            ReorderBy::Norm => Keys::Weights(Lines::by_norm),
            ReorderBy::Spectral => Keys::Weights(Lines::by_component),
            ReorderBy::Chain => Keys::Weights(|lines| match lines.by_component().first() {
                Some(&first) => lines.chain(first),
                None => vec![],
            }),
            ReorderBy::Activation => Keys::Activations(statistics.ok_or(EncodeError::ReorderUnmeasured)?),
        };
        Ok(Sorter { source, keys, memory_limit })
    }

    /// Returns the new order of units: groups in order, and the units of each group in order.
    pub fn order(&self, hidden: &Hidden) -> Result<Vec<u32>, EncodeError> {
        for layer in hidden.makers.iter().map(|maker| maker.layer).chain(hidden.takers) {
            graph::check_shape(self.source, &layer.name, &[layer.outputs, layer.inputs])?;
            if layer.bias {
                graph::check_shape(self.source, &layer.bias_name(), &[layer.outputs])?;
            }
        }
        let groups = self.orders(hidden, hidden.groups, slice::from_ref(&(0..hidden.groups)))?.concat();
        let per_group = hidden.units / hidden.groups.max(1);
        if per_group == 1 {
            return Ok(groups);
        }
        let members: Vec<_> = groups.iter().map(|&g| g as usize * per_group..(g as usize + 1) * per_group).collect();
        let orders = self.orders(hidden, hidden.units, &members)?;
        let members = members.iter().zip(orders);
        Ok(members.flat_map(|(units, order)| order.into_iter().map(|unit| units.start as u32 + unit)).collect())
    }

    /// Divides the units into `count` lines, and returns the order of the lines of each part, from its first line on.
    fn orders(&self, hidden: &Hidden, count: usize, parts: &[Range<usize>]) -> Result<Vec<Vec<u32>>, EncodeError> {
        match &self.keys {
            Keys::Weights(sort) => {
                let lines = self.weights(hidden, count)?;
                Ok(parts.iter().map(|part| sort(&lines.part(part.clone()))).collect())
            }
            Keys::Activations(statistics) => {
                let squares = mean_squares(statistics, hidden, count);
                Ok(parts.iter().map(|part| ascending(&squares[part.clone()])).collect())
            }
        }
    }

    /// Returns the weights of each of `count` groups of units: its rows in the makers and its columns in the takers, each
    /// matrix scaled to a mean square of 1. What groups share is left out if lines are units of a group.
    fn weights(&self, hidden: &Hidden, count: usize) -> Result<Lines, EncodeError> {
        let elements = hidden.units / count.max(1) * hidden.width;
        let makers: Vec<_> = hidden.makers.iter().filter(|maker| !maker.is_shared || count == hidden.groups).collect();
        let rows = |is_shared: bool| if is_shared { hidden.width } else { elements };
        let of_makers: usize = makers.iter().map(|maker| rows(maker.is_shared) * maker.layer.inputs).sum();
        let length = of_makers + hidden.takers.iter().map(|taker| taker.outputs * elements).sum::<usize>();
        self.check_memory(hidden, length as u64 * count as u64)?;

        let mut values = vec![0.0; length * count];
        let mut at = 0;
        for maker in makers {
            let (LinearSpec { inputs, .. }, part) = (maker.layer, rows(maker.is_shared) * maker.layer.inputs);
            let weights = self.load(maker.layer)?;
            let weights = &weights[maker.first * inputs..][..part * count];
            let scale = scale(weights);
            for (line, from) in values.chunks_exact_mut(length.max(1)).zip(weights.chunks_exact(part.max(1))) {
                line[at..at + part].iter_mut().zip(from).for_each(|(to, &w)| *to = w * scale);
            }
            at += part;
        }
        for taker in hidden.takers {
            let weights = self.load(taker)?;
            let scale = scale(&weights);
            for (r, row) in weights.chunks_exact(taker.inputs.max(1)).enumerate() {
                for (line, from) in values.chunks_exact_mut(length.max(1)).zip(row.chunks_exact(elements.max(1))) {
                    let to = &mut line[at + r * elements..][..elements];
                    to.iter_mut().zip(from).for_each(|(to, &w)| *to = w * scale);
                }
            }
            at += taker.outputs * elements;
        }
        Ok(Lines::of_rows(values, length))
    }

    fn load(&self, layer: &LinearSpec) -> Result<Vec<f32>, EncodeError> {
        Ok(graph::tensor(self.source, &layer.name, &[layer.outputs, layer.inputs])?)
    }

    /// Returns an error if `weights` as lines, a part of them and the largest matrix exceed the memory limit.
    fn check_memory(&self, hidden: &Hidden, weights: u64) -> Result<(), EncodeError> {
        let layers = hidden.makers.iter().map(|maker| maker.layer).chain(hidden.takers);
        let size = |layer: &LinearSpec| layer.outputs as u64 * layer.inputs as u64;
        let Some(largest) = layers.max_by_key(|layer| size(layer)) else { return Ok(()) };
        let needed = 4 * (2 * weights).max(weights + size(largest));
        match self.memory_limit.filter(|&limit| needed > limit) {
            Some(limit) => Err(EncodeError::TensorMemory { tensor: largest.name.clone(), needed, limit }),
            None => Ok(()),
        }
    }
}

/// Returns the factor that gives weights a mean square of 1.
fn scale(weights: &[f32]) -> f32 {
    let square = weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / weights.len().max(1) as f64;
    if square > 0.0 { (1.0 / square.sqrt()) as f32 } else { 1.0 }
}

/// Returns the mean square of each of `count` groups of units on the calibration text; 0 for what was not measured.
fn mean_squares(statistics: &Statistics, hidden: &Hidden, count: usize) -> Vec<f64> {
    let mut sums = vec![0.0; count];
    let elements = hidden.units / count.max(1) * hidden.width;
    let input = |taker: &LinearSpec| statistics.info().linears.get(&taker.name)?.input.as_deref();
    // All takers have the same input.
    let squares = hidden.takers.first().and_then(input).and_then(|input| statistics.mean_squares(input));
    for (sum, squares) in sums.iter_mut().zip(squares.unwrap_or_default().chunks(elements.max(1))) {
        *sum = squares.iter().sum();
    }
    sums
}
