//! Runs the operations of a sublayer with the reference kernels.

use std::convert::Infallible;

use rayon::prelude::*;

use super::attention::attention;
use super::elementwise::{add, gated, rms_norm, rope};
use super::layer::{Layer, Watch, split};
use crate::cache::Plain;
use crate::config::Activation;
use crate::graph::{self, Attention, Backend, Op, Rotation, Value};
use crate::product::Threads;

/// The tokens of a pass.
pub(super) enum Over<'a> {
    /// Whole windows of this many tokens, each with an empty context.
    Windows(usize),
    /// Tokens that follow `past` others, whose keys and values are in `store`.
    After {
        /// Keys and values.
        store: &'a mut Plain,
        /// Index of the block.
        block: usize,
        /// Number of tokens before these.
        past: usize,
    },
}

/// A pass over some tokens: what operations need besides weights, and the values that they compute.
pub(super) struct Pass<'a, 'w, 'p> {
    /// The residual stream, tokens x hidden size.
    stream: &'a mut [f32],
    over: Over<'a>,
    /// The angles of the tokens, for each set of rotary positions.
    tables: &'a [Vec<(f32, f32)>],
    threads: Threads,
    watch: &'w mut Watch<'p>,
    /// Values by slot, or by id if all are kept.
    values: Vec<Vec<f32>>,
    keep: bool,
}

impl<'a, 'w, 'p> Pass<'a, 'w, 'p> {
    pub(super) fn new(
        stream: &'a mut [f32],
        over: Over<'a>,
        tables: &'a [Vec<(f32, f32)>],
        threads: Threads,
        watch: &'w mut Watch<'p>,
    ) -> Self {
        Self { stream, over, tables, threads, watch, values: Vec::new(), keep: false }
    }

    /// Keeps every value until the end of the pass, as gradients require.
    pub(super) fn keeping(self) -> Self {
        Self { keep: true, ..self }
    }

    /// Ends the pass. Returns the values by id, if they were kept; the residual stream, 0, is not among them.
    pub(super) fn into_values(self) -> Vec<Vec<f32>> {
        self.values
    }

    pub(super) fn run<'s>(&mut self, ops: impl IntoIterator<Item = &'s Op<Layer, Vec<f32>>>) {
        let Ok(()) = graph::run(ops, self);
    }

    fn place(&self, value: Value) -> usize {
        if self.keep { value.id } else { value.slot }
    }

    /// A value that an earlier operation computed, or the residual stream.
    pub(super) fn get(&self, value: Value) -> &[f32] {
        match self.place(value) {
            0 => self.stream,
            place => &self.values[place],
        }
    }

    /// Passes the input of an operation's linear layers to the probe.
    pub(super) fn show(&mut self, op: &Op<Layer, Vec<f32>>) {
        if let Op::Linear { x, layers, .. } = op {
            self.show_input(*x, layers);
        }
    }

    fn show_input(&mut self, x: Value, layers: &[Layer]) {
        let x = match self.place(x) {
            0 => &*self.stream,
            place => &self.values[place],
        };
        self.watch.show(layers, x);
    }

    fn put(&mut self, value: Value, data: Vec<f32>) -> Result<(), Infallible> {
        let place = self.place(value);
        if self.values.len() <= place {
            self.values.resize_with(place + 1, Vec::new);
        }
        self.values[place] = data;
        Ok(())
    }

    /// The buffer in which `y` is computed in place: `x` itself, or a copy if a later operation needs `x`.
    fn take(&mut self, x: Value, y: Value) -> Vec<f32> {
        match self.place(x) {
            place if place > 0 && place == self.place(y) => std::mem::take(&mut self.values[place]),
            _ => self.get(x).to_vec(),
        }
    }
}

impl Backend for Pass<'_, '_, '_> {
    type Linear = Layer;
    type Vector = Vec<f32>;
    type Error = Infallible;

    fn norm(&mut self, x: Value, weight: &Vec<f32>, eps: f32, y: Value) -> Result<(), Infallible> {
        let normed = rms_norm(self.get(x), weight, eps);
        self.put(y, normed)
    }

    fn linear(&mut self, x: Value, layers: &[Layer], y: &[Value]) -> Result<(), Infallible> {
        self.show_input(x, layers);
        layers.iter().zip(y).try_for_each(|(layer, &y)| {
            let out = layer.linear.forward(self.get(x), self.threads);
            self.put(y, out)
        })
    }

    fn split(&mut self, x: Value, y: &[Value]) -> Result<(), Infallible> {
        let widths: Vec<usize> = y.iter().map(|y| y.width).collect();
        let parts = split(self.get(x), &widths);
        y.iter().zip(parts).try_for_each(|(&y, part)| self.put(y, part))
    }

    fn rotate(&mut self, x: Value, by: Rotation, y: Value) -> Result<(), Infallible> {
        let mut heads = self.take(x, y);
        rope(&mut heads, by.head, x.width, by.dim, &self.tables[by.rope]);
        self.put(y, heads)
    }

    fn attend(&mut self, qkv: [Value; 3], how: &Attention, y: Value) -> Result<(), Infallible> {
        let [q, k, v] = qkv;
        let places = [self.place(q), self.place(k), self.place(v)];
        let [queries, keys, values] = places.map(|place| self.values[place].as_slice());
        let mixed = match &mut self.over {
            Over::Windows(window) => {
                let [q, k, v] = qkv.map(|value| value.width * *window);
                let windows = queries.par_chunks(q).zip(keys.par_chunks(k)).zip(values.par_chunks(v));
                windows.map(|((q, k), v)| attention(q, k, v, 0, how)).collect::<Vec<_>>().concat()
            }
            Over::After { store, block, past } => {
                let (keys, values) = store.extend(*block, keys, values);
                attention(queries, keys, values, *past, how)
            }
        };
        self.put(y, mixed)
    }

    fn gate(&mut self, gate: Value, up: Value, activation: Activation, y: Value) -> Result<(), Infallible> {
        let mut out = self.take(gate, y);
        gated(&mut out, self.get(up), gate.width, activation);
        self.put(y, out)
    }

    fn add(&mut self, x: Value) -> Result<(), Infallible> {
        let place = self.place(x);
        add(self.stream, &self.values[place]);
        Ok(())
    }
}
