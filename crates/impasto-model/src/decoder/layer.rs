//! Linear layers with their weights.

use crate::product::Linear;
use crate::{LinearInfo, Probe};

/// A linear layer and the name of its weight tensor.
pub struct Layer {
    pub(super) name: String,
    pub(super) linear: Linear,
}

impl Layer {
    /// Describes the layer; `input` is the index of its input in the network.
    pub(super) fn info(&self, input: usize) -> LinearInfo<'_> {
        let [outputs, inputs] = self.linear.shape();
        LinearInfo { name: &self.name, outputs, inputs, input }
    }
}

/// The probe of a run, if any.
pub(super) struct Watch<'a>(pub(super) Option<&'a mut dyn Probe>);

impl Watch<'_> {
    /// Passes the input of `layers` to the probe.
    pub(super) fn show(&mut self, layers: &[Layer], x: &[f32]) {
        if let (Some(probe), Some(first)) = (self.0.as_mut(), layers.first()) {
            let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
            let [_, inputs] = first.linear.shape();
            probe.linear(&names, x, inputs);
        }
    }
}

/// Splits the columns of `x` into one matrix per width; the widths add up to the width of `x`.
pub(super) fn split(x: &[f32], widths: &[usize]) -> Vec<Vec<f32>> {
    let all: usize = widths.iter().sum();
    let rows = x.len() / all;
    let mut at = 0;
    let part = |&width: &usize| {
        let mut part = Vec::with_capacity(rows * width);
        x.chunks_exact(all).for_each(|row| part.extend_from_slice(&row[at..at + width]));
        at += width;
        part
    };
    widths.iter().map(part).collect()
}

/// Joins the columns of `parts`, which have these widths: the inverse of [`split`].
pub(super) fn join(parts: &[Vec<f32>], widths: &[usize]) -> Vec<f32> {
    let all: usize = widths.iter().sum();
    let mut joined = vec![0.0; parts.iter().map(Vec::len).sum()];
    let mut at = 0;
    for (part, &width) in parts.iter().zip(widths) {
        for (row, part) in joined.chunks_exact_mut(all).zip(part.chunks_exact(width)) {
            row[at..at + width].copy_from_slice(part);
        }
        at += width;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_apart_and_together() {
        let parts = split(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[1, 2]);
        assert_eq!(parts, [vec![1.0, 4.0], vec![2.0, 3.0, 5.0, 6.0]]);
        assert_eq!(join(&parts, &[1, 2]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
