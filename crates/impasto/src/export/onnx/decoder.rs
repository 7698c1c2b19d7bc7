//! The whole network as a graph, as programs that generate text run it: tokens, and keys and values of earlier tokens, to logits.
//!
//! The inputs and outputs have the names and shapes that onnxruntime-genai has for decoders. Positions are rotated inside
//! `GroupQueryAttention`, which also appends to keys and values. Everything is computed in binary32.

use std::collections::BTreeMap;

use impasto_model::config::{Activation, DecoderConfig};
use impasto_model::graph::{Attention, LinearSpec, Network, Op, Rotation, Sublayer, Value, VectorSpec};

use super::data::Data;
use super::graph::{Graph, RUNTIME};
use super::layer::{Layer, float};
use super::proto::{Attribute, Dim, Type};

/// What every layer of attention reads.
const LENGTHS: &str = "/lengths";
const TOTAL: &str = "/total";

/// Returns the graph of a network, or what ONNX cannot express of it.
///
/// - `layers`: its linear layers by name, without `.weight`
/// - `data`: their tensors; weights of norms, and biases; and tables of rotary positions, by [`tables`]
pub fn model(
    config: &DecoderConfig,
    network: &Network,
    layers: &BTreeMap<String, Layer>,
    data: &Data,
) -> Result<Vec<u8>, String> {
    let mut graph = Graph::new("decoder", data);
    let (batch, tokens) = (Dim::Named("batch_size"), Dim::Named("sequence_length"));
    let past_and_now = Dim::Named("total_sequence_length");
    graph.input("input_ids", Type::Int64, &[batch, tokens]);
    graph.input("attention_mask", Type::Int64, &[batch, past_and_now]);
    lengths(&mut graph);
    let mut stream = embed(&mut graph, network)?;
    for block in &network.blocks {
        for (n, sublayer) in block.sublayers.iter().enumerate() {
            let mut run = Run { graph: &mut graph, layers, block: block.index, part: n, values: BTreeMap::new() };
            stream = run.sublayer(sublayer, stream)?;
        }
    }
    let normed = "/norm";
    norm(&mut graph, &stream, &network.ends.norm, network.ends.eps, normed)?;
    let logits = if network.ends.softcap.is_some() { "/logits" } else { "logits" };
    linear(&mut graph, layers, network.ends.projection(), normed, logits)?;
    if let Some(cap) = network.ends.softcap {
        let cap = graph.number(cap);
        graph.op("Div", &[logits, &cap], "/logits/shrunk", &[]);
        graph.op("Tanh", &["/logits/shrunk"], "/logits/bounded", &[]);
        graph.op("Mul", &["/logits/bounded", &cap], "logits", &[]);
    }
    graph.output("logits", Type::Float, &[batch, tokens, Dim::Of(config.vocab_size)]);
    for block in 0..network.blocks.len() {
        for part in ["key", "value"] {
            let dims = |tokens| [batch, Dim::Of(config.num_kv_heads), Dim::Named(tokens), Dim::Of(config.head_dim)];
            graph.input(&past(block, part), Type::Float, &dims("past_sequence_length"));
            graph.output(&present(block, part), Type::Float, &dims("total_sequence_length"));
        }
    }
    Ok(graph.model())
}

fn past(block: usize, part: &str) -> String {
    format!("past_key_values.{block}.{part}")
}

fn present(block: usize, part: &str) -> String {
    format!("present.{block}.{part}")
}

/// Names of the tables of cosines and sines of rotary positions.
fn table(rope: usize) -> [String; 2] {
    ["cos", "sin"].map(|part| format!("rotary.{rope}.{part}"))
}

/// Adds the tables of rotary positions to the data: positions x pairs of elements.
pub fn tables(config: &DecoderConfig, positions: usize, data: &mut Data) {
    for (n, rope) in config.ropes.iter().enumerate() {
        let (cos, sin) = rope.angles(&rope.frequencies(positions), 0..positions).unzip();
        let dims = [positions as u64, rope.dim as u64 / 2];
        for (name, values) in table(n).iter().zip([cos, sin]) {
            data.add_values(name, &dims, values);
        }
    }
}

/// Computes the tokens of each sequence but one, and the tokens of the longest, from the mask.
fn lengths(graph: &mut Graph) {
    let (axis, one) = (graph.integers(&[1]), graph.integers(&[1]));
    graph.op("ReduceSum", &["attention_mask", &axis], "/lengths/sums", &[("keepdims", Attribute::Int(0))]);
    graph.op("Sub", &["/lengths/sums", &one], "/lengths/last", &[]);
    let as_int32 = [("to", Attribute::Int(Type::Int32 as i64))];
    graph.op("Cast", &["/lengths/last"], LENGTHS, &as_int32);
    graph.op("Shape", &["attention_mask"], "/total/shape", &[]);
    graph.op("Gather", &["/total/shape", &one], "/total/one", &[]);
    graph.op("Cast", &["/total/one"], TOTAL, &as_int32);
}

/// Embeds the tokens.
fn embed(graph: &mut Graph, network: &Network) -> Result<String, String> {
    let ends = &network.ends;
    let name = &ends.embedding.name;
    let ty = graph.weight(name).ok_or_else(|| missing(name))?;
    let mut last = String::from("/embedded");
    graph.op("Gather", &[name, "input_ids"], &last, &[]);
    if ty != Type::Float {
        graph.op("Cast", &[&last], "/embedded/f32", &[("to", Attribute::Int(Type::Float as i64))]);
        last = "/embedded/f32".into();
    }
    if let Some(scale) = ends.scale {
        let scale = graph.number(scale);
        graph.op("Mul", &[&last, &scale], "/embedded/scaled", &[]);
        last = "/embedded/scaled".into();
    }
    Ok(last)
}

fn missing(name: &str) -> String {
    format!("its tensor {name:?} is not of floats")
}

/// Adds a norm of the last dimension of `x`.
fn norm(graph: &mut Graph, x: &str, weight: &VectorSpec, eps: f32, y: &str) -> Result<(), String> {
    let mut weights = float(graph, &weight.name).ok_or_else(|| missing(&weight.name))?;
    if weight.plus_one {
        let (one, more) = (graph.number(1.0), format!("{}.plus_one", weight.name));
        graph.once(&more, |graph| graph.op("Add", &[&weights, &one], &more, &[]));
        weights = more;
    }
    let attributes = [("epsilon", Attribute::Float(eps)), ("axis", Attribute::Int(-1))];
    graph.op("RMSNormalization", &[x, &weights], y, &attributes);
    Ok(())
}

/// Adds a linear layer, with its bias.
fn linear(
    graph: &mut Graph,
    layers: &BTreeMap<String, Layer>,
    spec: &LinearSpec,
    x: &str,
    y: &str,
) -> Result<(), String> {
    let module = spec.name.strip_suffix(".weight").unwrap_or(&spec.name);
    let layer = layers.get(module).ok_or_else(|| missing(&spec.name))?;
    let product = if spec.bias { format!("{y}/product") } else { y.to_owned() };
    layer.multiply(graph, x, &product).ok_or_else(|| missing(&spec.name))?;
    if spec.bias {
        let bias = float(graph, &spec.bias_name()).ok_or_else(|| missing(&spec.bias_name()))?;
        graph.op("Add", &[&product, &bias], y, &[]);
    }
    Ok(())
}

/// The operations of a sublayer, on their way into the graph.
struct Run<'r, 'd> {
    graph: &'r mut Graph<'d>,
    layers: &'r BTreeMap<String, Layer>,
    block: usize,
    part: usize,
    /// The names of values in the graph, and how they are to be rotated.
    values: BTreeMap<usize, (String, Option<Rotation>)>,
}

impl Run<'_, '_> {
    /// Adds a sublayer that reads `stream`, and returns the name of the stream after it.
    fn sublayer(&mut self, sublayer: &Sublayer, stream: String) -> Result<String, String> {
        self.values.insert(0, (stream, None));
        sublayer.ops.iter().try_for_each(|op| self.op(op))?;
        self.get(0)
    }

    /// The name of a value that is not to be rotated.
    fn get(&self, id: usize) -> Result<String, String> {
        match self.values.get(&id) {
            Some((name, None)) => Ok(name.clone()),
            _ => Err("rotary positions are not those of queries and keys".into()),
        }
    }

    /// Names a value that the next operator computes.
    fn name(&mut self, value: Value) -> String {
        let name = format!("/{}/{}/{}", self.block, self.part, value.id);
        self.values.insert(value.id, (name.clone(), None));
        name
    }

    fn op(&mut self, op: &Op<LinearSpec, VectorSpec>) -> Result<(), String> {
        match op {
            Op::Norm { x, y, weight, eps } => {
                let (input, output) = (self.get(x.id)?, self.name(*y));
                if weight.width == x.width {
                    return norm(self.graph, &input, weight, *eps, &output);
                }
                // Heads become a dimension of their own, and are put together again.
                let (apart, together) = (format!("{output}/heads"), format!("{output}/normed"));
                let to = self.graph.integers(&[0, 0, -1, weight.width as i64]);
                self.graph.op("Reshape", &[&input, &to], &apart, &[]);
                norm(self.graph, &apart, weight, *eps, &together)?;
                let back = self.graph.integers(&[0, 0, x.width as i64]);
                self.graph.op("Reshape", &[&together, &back], &output, &[]);
            }
            Op::Linear { x, layers, y } => {
                let input = self.get(x.id)?;
                for (layer, y) in layers.iter().zip(y) {
                    let output = self.name(*y);
                    linear(self.graph, self.layers, layer, &input, &output)?;
                }
            }
            Op::Split { x, y } => {
                let input = self.get(x.id)?;
                let widths = self.graph.integers(&y.iter().map(|y| y.width as i64).collect::<Vec<_>>());
                let outputs: Vec<String> = y.iter().map(|y| self.name(*y)).collect();
                let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
                self.graph.op_of("", "Split", &[&input, &widths], &outputs, &[("axis", Attribute::Int(-1))]);
            }
            Op::Rotate { x, y, by } => {
                let name = self.get(x.id)?;
                self.values.insert(y.id, (name, Some(*by)));
            }
            Op::Attend { q, k, v, y, how } => self.attend([*q, *k, *v], *y, how)?,
            Op::Gate { gate, up, y, activation } => {
                let (gate, up, output) = (self.get(gate.id)?, self.get(up.id)?, self.name(*y));
                let active = format!("{output}/active");
                match activation {
                    Activation::Silu => {
                        let sigmoid = format!("{output}/sigmoid");
                        self.graph.op("Sigmoid", &[&gate], &sigmoid, &[]);
                        self.graph.op("Mul", &[&gate, &sigmoid], &active, &[]);
                    }
                    Activation::GeluTanh => {
                        let tanh = [("approximate", Attribute::Text("tanh"))];
                        self.graph.op("Gelu", &[&gate], &active, &tanh);
                    }
                }
                self.graph.op("Mul", &[&active, &up], &output, &[]);
            }
            Op::Add { x } => {
                let (stream, x) = (self.get(0)?, self.get(x.id)?);
                let sum = self.name(Value { id: 0, slot: 0, width: 0 });
                self.graph.op("Add", &[&stream, &x], &sum, &[]);
            }
        }
        Ok(())
    }

    fn attend(&mut self, [q, k, v]: [Value; 3], y: Value, how: &Attention) -> Result<(), String> {
        let rotated = |id| self.values.get(&id).cloned().ok_or("a value is missing");
        let ((query, by), (key, same)) = (rotated(q.id)?, rotated(k.id)?);
        if by != same {
            return Err("queries and keys are rotated in different ways".into());
        }
        let value = self.get(v.id)?;
        let output = self.name(y);
        let (past, present) = (
            ["key", "value"].map(|part| past(self.block, part)),
            ["key", "value"].map(|part| present(self.block, part)),
        );
        let mut inputs = vec![query.as_str(), &key, &value, &past[0], &past[1], LENGTHS, TOTAL];
        let tables = by.map(|by| table(by.rope));
        for name in tables.iter().flatten() {
            self.graph.weight(name).ok_or_else(|| missing(name))?;
            inputs.push(name);
        }
        let mut attributes = vec![
            ("num_heads", Attribute::Int(how.query as i64)),
            ("kv_num_heads", Attribute::Int(how.kv as i64)),
            ("scale", Attribute::Float(how.scale)),
            ("do_rotary", Attribute::Int(by.is_some().into())),
        ];
        attributes.extend(how.softcap.map(|cap| ("softcap", Attribute::Float(cap))));
        attributes.extend(how.window.map(|window| ("local_window_size", Attribute::Int(window as i64))));
        let outputs = [output.as_str(), &present[0], &present[1]];
        self.graph.op_of(RUNTIME, "GroupQueryAttention", &inputs, &outputs, &attributes);
        Ok(())
    }
}
