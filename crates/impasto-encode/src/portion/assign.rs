//! Which portion codes which tensors: the same on every machine, since only names, shapes and the statistics decide.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::model::Tensor;
use crate::statistics::Statistics;

/// Factoring a covariance of n inputs takes the time of coding n^3 / FACTORED weights.
const FACTORED: u64 = 4096;

/// Returns the portion, from 1 to `of`, that codes each tensor.
///
/// Tensors whose inputs have the same covariance stay together, so that it is factored by one portion. The most expensive group is
/// given away first, each to the portion that has least; where groups are equal, neighbours in the file go to different portions, so
/// that each wave has work for all.
pub fn owners(tensors: &[Tensor], statistics: Option<&Statistics>, of: usize) -> Vec<usize> {
    let input = |tensor: &Tensor| {
        let statistics = statistics?;
        let group = statistics.info().linears.get(&tensor.hf_name)?.input.clone()?;
        let inputs = statistics.inputs(&group)?;
        Some((group, inputs as u64))
    };
    // Groups in the order of the file, each with its cost.
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: Vec<(u64, Vec<usize>)> = vec![];
    for (i, tensor) in tensors.iter().enumerate().filter(|(_, tensor)| tensor.same_as.is_none()) {
        let input = input(tensor);
        let factoring = input.as_ref().map_or(0, |(_, n)| n.saturating_mul(*n).saturating_mul(*n) / FACTORED);
        let place = match input {
            Some((group, _)) => *places.entry(group).or_insert(groups.len()),
            None => groups.len(),
        };
        if place == groups.len() {
            groups.push((factoring, vec![]));
        }
        groups[place].0 = groups[place].0.saturating_add(tensor.weights().max(1));
        groups[place].1.push(i);
    }
    groups.sort_by_key(|(cost, _)| Reverse(*cost)); // This keeps the order of equal ones.
    let mut least: BinaryHeap<Reverse<(u64, usize)>> = (1..=of).map(|portion| Reverse((0, portion))).collect();
    let mut owners = vec![1; tensors.len()];
    for (cost, group) in groups {
        let Some(Reverse((load, portion))) = least.pop() else { break };
        group.into_iter().for_each(|i| owners[i] = portion);
        least.push(Reverse((load.saturating_add(cost), portion)));
    }
    for (i, tensor) in tensors.iter().enumerate() {
        owners[i] = tensor.same_as.map_or(owners[i], |original| owners[original]);
    }
    owners
}
