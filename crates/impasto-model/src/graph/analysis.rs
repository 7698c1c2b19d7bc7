//! Analysis of a sublayer's operations: where values are stored, and which values gradients need.

use super::{Network, Op, Sublayer, Value};

impl Network {
    /// Number of slots that the sublayers need, including that of the residual stream.
    pub fn slots(&self) -> usize {
        let ops = self.blocks.iter().flat_map(|block| &block.sublayers).flat_map(|sublayer| &sublayer.ops);
        1 + ops.flat_map(Op::outputs).map(|value| value.slot).max().unwrap_or(0)
    }
}

impl<L, V> Sublayer<L, V> {
    /// Number of values, including the residual stream.
    pub fn values(&self) -> usize {
        1 + self.ops.iter().flat_map(Op::outputs).map(|value| value.id).max().unwrap_or(0)
    }

    /// Assigns a slot to each value: that of its input if the operation can work in place and no later operation needs
    /// the input, otherwise the lowest free slot.
    pub(super) fn assign_slots(&mut self) {
        let mut last = vec![0; self.values()];
        for (at, op) in self.ops.iter().enumerate() {
            op.inputs().for_each(|value| last[value.id] = at);
        }
        let mut slots = vec![0; last.len()];
        // The value in each slot. Slot 0 is reserved for the residual stream.
        let mut taken: Vec<Option<usize>> = vec![Some(0)];
        for (at, op) in self.ops.iter().enumerate() {
            let ends_here = |value: &Value| value.id != 0 && last[value.id] == at;
            let in_place = match op {
                Op::Norm { x, .. } | Op::Rotate { x, .. } | Op::Gate { gate: x, .. } => Some(*x).filter(ends_here),
                _ => None,
            };
            for y in op.outputs() {
                let slot = match in_place {
                    Some(x) => slots[x.id],
                    None => taken.iter().position(Option::is_none).unwrap_or(taken.len()),
                };
                taken.resize(taken.len().max(slot + 1), None);
                taken[slot] = Some(y.id);
                slots[y.id] = slot;
            }
            for x in op.inputs().filter(ends_here) {
                // An operation that works in place has already put its output in this slot.
                if taken[slots[x.id]] == Some(x.id) {
                    taken[slots[x.id]] = None;
                }
            }
        }
        for value in self.ops.iter_mut().flat_map(Op::values_mut) {
            value.slot = slots[value.id];
        }
    }

    /// For each operation, whether the backward pass must recompute it, because gradients depend on its output.
    pub fn needed_backward(&self) -> Vec<bool> {
        let mut needed = vec![false; self.values()];
        for op in &self.ops {
            op.values_of_gradient().for_each(|value| needed[value.id] = true);
        }
        let mut ops: Vec<bool> = self
            .ops
            .iter()
            .rev()
            .map(|op| {
                let wanted = op.outputs().iter().any(|value| needed[value.id]);
                if wanted {
                    op.inputs().for_each(|value| needed[value.id] = true);
                }
                wanted
            })
            .collect();
        ops.reverse();
        ops
    }
}

impl<L, V> Op<L, V> {
    /// The inputs whose values the gradient of the operation depends on. Products with weights and rotations are linear
    /// and need none.
    fn values_of_gradient(&self) -> impl Iterator<Item = Value> {
        let depends = matches!(self, Self::Norm { .. } | Self::Attend { .. } | Self::Gate { .. });
        self.inputs().filter(move |_| depends)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        let (inputs, outputs) = match self {
            Self::Norm { x, y, .. } | Self::Rotate { x, y, .. } => (vec![x], std::slice::from_mut(y)),
            Self::Linear { x, y, .. } | Self::Split { x, y } => (vec![x], y.as_mut_slice()),
            Self::Attend { q, k, v, y, .. } => (vec![q, k, v], std::slice::from_mut(y)),
            Self::Gate { gate, up, y, .. } => (vec![gate, up], std::slice::from_mut(y)),
            Self::Add { x } => (vec![x], &mut [][..]),
        };
        inputs.into_iter().chain(outputs)
    }
}

#[cfg(test)]
mod tests;
