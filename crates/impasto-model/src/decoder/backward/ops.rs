//! The backward pass of a sublayer: each operation turns the gradient of its output into that of its inputs.

use rayon::prelude::*;

use super::attention::attention_backward;
use super::elementwise::{gated_backward, rms_norm_backward, rope_backward};
use crate::GradientProbe;
use crate::decoder::elementwise::add;
use crate::decoder::layer::{Layer, Watch, join};
use crate::decoder::pass::{Over, Pass};
use crate::decoder::{Frame, Sublayer};
use crate::graph::{Attention, Op, Value};

/// Gradients with respect to the values of a sublayer.
struct Gradients<'a> {
    /// Of the residual stream: at first after the sublayer, in the end before it.
    stream: &'a mut [f32],
    /// Of the other values, by id; empty before the first reader adds to it and after the operation that made the value
    /// took it.
    values: Vec<Vec<f32>>,
}

/// What gradients of a sublayer depend on.
pub(super) struct Values {
    /// The residual stream before the sublayer.
    pub stream: Vec<f32>,
    /// The other values, by id. The entry of the stream is not used.
    pub others: Vec<Vec<f32>>,
}

impl Values {
    fn get(&self, value: Value) -> &[f32] {
        match value.id {
            0 => &self.stream,
            id => &self.others[id],
        }
    }
}

impl Gradients<'_> {
    /// Takes the gradient of a value, after all its readers have added to it.
    fn take(&mut self, value: &Value) -> Vec<f32> {
        std::mem::take(&mut self.values[value.id])
    }

    /// Adds one reader's contribution to the gradient of a value.
    fn add(&mut self, value: Value, gradient: Vec<f32>) {
        match value.id {
            0 => add(self.stream, &gradient),
            id if self.values[id].is_empty() => self.values[id] = gradient,
            id => add(&mut self.values[id], &gradient),
        }
    }
}

impl Frame {
    /// Turns the gradient of the residual stream after a sublayer into that before it, and computes again what it depends on.
    /// `x` is the input of the sublayer, whole windows of `window` tokens. `probe` receives the gradients of the outputs of its
    /// linear layers.
    pub(super) fn sublayer_backward(
        &self,
        sublayer: &Sublayer,
        tables: &[Vec<(f32, f32)>],
        x: &[f32],
        window: usize,
        gradient: &mut [f32],
        probe: &mut dyn GradientProbe,
    ) {
        let (mut stream, mut watch) = (x.to_vec(), Watch(None));
        let mut pass = Pass::new(&mut stream, Over::Windows(window), tables, self.threads, &mut watch).keeping();
        let needed = sublayer.needed_backward();
        // No addition is needed, so the stream stays.
        pass.run(sublayer.ops.iter().zip(needed).filter_map(|(op, needed)| needed.then_some(op)));
        let others = pass.into_values();
        self.sublayer_gradients(sublayer, tables, &Values { stream, others }, window, gradient, probe, None);
    }

    /// As [`Frame::sublayer_backward`], given the values. If the sublayer's first norm has a number, `values` has all values, and
    /// `probe` also receives the gradients of rows and norms.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the same computation")]
    pub(super) fn sublayer_gradients(
        &self,
        sublayer: &Sublayer,
        tables: &[Vec<(f32, f32)>],
        values: &Values,
        window: usize,
        gradient: &mut [f32],
        probe: &mut dyn GradientProbe,
        first_norm: Option<usize>,
    ) {
        let mut number = first_norm.map(|first| first + sublayer.norms().count());
        let mut gradients = Gradients { stream: gradient, values: vec![Vec::new(); sublayer.values()] };
        for op in sublayer.ops.iter().rev() {
            match op {
                Op::Add { x } => gradients.add(*x, gradients.stream.to_vec()),
                Op::Norm { x, y, weight, eps } => {
                    let gradient = gradients.take(y);
                    if let Some(number) = &mut number {
                        *number -= 1;
                        probe.norm_gradient(*number, &products(values.get(*y), &gradient, weight.len()));
                    }
                    gradients.add(*x, rms_norm_backward(values.get(*x), weight, *eps, &gradient));
                }
                Op::Linear { x, layers, y } => {
                    let outputs: Vec<_> = y.iter().map(|y| gradients.take(y)).collect();
                    if number.is_some() {
                        for ((layer, y), gradient) in layers.iter().zip(y).zip(&outputs) {
                            probe.row_gradient(&layer.name, &layer.linear.row_gradient(values.get(*y), gradient));
                        }
                    }
                    gradients.add(*x, self.linear_backward(layers, &outputs, probe));
                }
                Op::Split { x, y } => {
                    let (parts, widths): (Vec<_>, Vec<_>) = y.iter().map(|y| (gradients.take(y), y.width)).unzip();
                    gradients.add(*x, join(&parts, &widths));
                }
                Op::Rotate { x, y, by } => {
                    let mut gradient = gradients.take(y);
                    rope_backward(&mut gradient, by.head, x.width, by.dim, &tables[by.rope]);
                    gradients.add(*x, gradient);
                }
                Op::Attend { q, k, v, y, how } => {
                    let gradient = gradients.take(y);
                    let inputs = [q, k, v].map(|x| (values.get(*x), x.width * window));
                    let by = attend_backward(inputs, how, &gradient);
                    [q, k, v].into_iter().zip(by).for_each(|(x, gradient)| gradients.add(*x, gradient));
                }
                Op::Gate { gate, up, y, activation } => {
                    let gradient = gradients.take(y);
                    let [mut by_gate, mut by_up] = [gate, up].map(|x| values.get(*x).to_vec());
                    gated_backward(&mut by_gate, &mut by_up, y.width, *activation, &gradient);
                    gradients.add(*gate, by_gate);
                    gradients.add(*up, by_up);
                }
            }
        }
    }

    /// Returns the gradient of the input of `layers`, rows x inputs, given those of their outputs, which `probe`
    /// receives.
    fn linear_backward(&self, layers: &[Layer], gradients: &[Vec<f32>], probe: &mut dyn GradientProbe) -> Vec<f32> {
        let mut input = Vec::new();
        for (layer, gradient) in layers.iter().zip(gradients) {
            let [outputs, inputs] = layer.linear.shape();
            probe.linear_gradient(&layer.name, gradient, outputs);
            input.resize(gradient.len() / outputs * inputs, 0.0);
            layer.linear.backward(gradient, &mut input, self.threads);
        }
        input
    }
}

/// Returns for each of `width` columns the sum over rows of the products of `values` and `gradient`.
pub(super) fn products(values: &[f32], gradient: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    for (values, gradient) in values.chunks_exact(width).zip(gradient.chunks_exact(width)) {
        let terms = values.iter().zip(gradient).map(|(x, g)| f64::from(*x) * f64::from(*g));
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    sums
}

/// Gradients of queries, keys and values, given the gradient of the attention output, for each window separately.
/// `inputs` are the queries, keys and values, each with its number of elements per window.
fn attend_backward(inputs: [(&[f32], usize); 3], how: &Attention, gradient: &[f32]) -> [Vec<f32>; 3] {
    let query = inputs[0].1;
    let [q, k, v] = inputs.map(|(x, window)| x.par_chunks(window));
    let windows = q.zip(k).zip(v).zip(gradient.par_chunks(query));
    let parts: Vec<[Vec<f32>; 3]> =
        windows.map(|(((q, k), v), gradient)| attention_backward(q, k, v, how, gradient)).collect();
    std::array::from_fn(|which| parts.iter().map(|part| part[which].as_slice()).collect::<Vec<_>>().concat())
}
