//! Linear layers that share one input.

use crate::product::{Linear, Threads};
use crate::{GradientProbe, Probe};

/// A linear layer and the name of its weight tensor.
pub struct Layer {
    pub(super) name: String,
    pub(super) linear: Linear,
}

/// The probe of a run, if it has one.
pub(super) struct Watch<'a>(pub(super) Option<&'a mut dyn Probe>);

impl Watch<'_> {
    /// Shows the probe the input of `layers`.
    pub(super) fn show(&mut self, layers: &[Layer], x: &[f32]) {
        if let (Some(probe), Some(first)) = (self.0.as_mut(), layers.first()) {
            let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
            let [_, inputs] = first.linear.shape();
            probe.linear(&names, x, inputs);
        }
    }
}

/// What makes `N` outputs from one input.
#[derive(Clone)]
pub enum Projection<const N: usize, L = Layer> {
    /// A layer for each.
    Apart([L; N]),
    /// One layer; its outputs are so wide, in order.
    Fused(L, [usize; N]),
}

/// Cuts the columns of `x` into one matrix for each width; the widths add up to the width of `x`.
fn split<const N: usize>(x: &[f32], widths: [usize; N]) -> [Vec<f32>; N] {
    let all: usize = widths.iter().sum();
    let rows = x.len() / all;
    let mut at = 0;
    widths.map(|width| {
        let mut part = Vec::with_capacity(rows * width);
        x.chunks_exact(all).for_each(|row| part.extend_from_slice(&row[at..at + width]));
        at += width;
        part
    })
}

/// Puts the columns of `parts`, of these widths, side by side: the inverse of [`split`].
fn join<const N: usize>(parts: [Vec<f32>; N], widths: [usize; N]) -> Vec<f32> {
    let all: usize = widths.iter().sum();
    let mut joined = vec![0.0; parts.iter().map(Vec::len).sum()];
    let mut at = 0;
    for (part, width) in parts.iter().zip(widths) {
        for (row, part) in joined.chunks_exact_mut(all).zip(part.chunks_exact(width)) {
            row[at..at + width].copy_from_slice(part);
        }
        at += width;
    }
    joined
}

impl<const N: usize, L> Projection<N, L> {
    /// The layers, in order.
    pub fn layers(&self) -> &[L] {
        match self {
            Self::Apart(layers) => layers,
            Self::Fused(layer, _) => std::slice::from_ref(layer),
        }
    }

    pub(super) fn layers_mut(&mut self) -> &mut [L] {
        match self {
            Self::Apart(layers) => layers,
            Self::Fused(layer, _) => std::slice::from_mut(layer),
        }
    }
}

impl<const N: usize> Projection<N> {
    /// Outputs for `x` (rows x inputs), each rows x its width, after `watch` has seen `x`.
    pub(super) fn forward(&self, x: &[f32], threads: Threads, watch: &mut Watch<'_>) -> [Vec<f32>; N] {
        watch.show(self.layers(), x);
        match self {
            Self::Apart(layers) => layers.each_ref().map(|layer| layer.linear.forward(x, threads)),
            Self::Fused(layer, widths) => split(&layer.linear.forward(x, threads), *widths),
        }
    }

    /// The gradient of the input, rows x inputs, given those of the outputs, which `probe` sees layer by layer.
    pub(super) fn backward(
        &self,
        gradients: [Vec<f32>; N],
        threads: Threads,
        probe: &mut dyn GradientProbe,
    ) -> Vec<f32> {
        let gradients = match self {
            Self::Apart(_) => gradients.into(),
            Self::Fused(_, widths) => vec![join(gradients, *widths)],
        };
        let mut input = Vec::new();
        for (layer, gradient) in self.layers().iter().zip(&gradients) {
            let [outputs, inputs] = layer.linear.shape();
            probe.linear_gradient(&layer.name, gradient, outputs);
            input.resize(gradient.len() / outputs * inputs, 0.0);
            layer.linear.backward(gradient, &mut input, threads);
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_apart_and_together() {
        let parts = split(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1, 2]);
        assert_eq!(parts, [vec![1.0, 4.0], vec![2.0, 3.0, 5.0, 6.0]]);
        assert_eq!(join(parts, [1, 2]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
