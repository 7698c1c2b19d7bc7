//! Builds the description of a network from its configuration. Tensor names are those of transformers.

use super::{Attention, Block, Ends, LinearSpec, Network, Op, Rotation, Sublayer, Value, VectorSpec};
use crate::config::{Activation, DecoderConfig};

/// Collects the operations of a sublayer.
struct Builder<'a> {
    config: &'a DecoderConfig,
    /// Prefix of the names of the block's tensors.
    prefix: String,
    ops: Vec<Op<LinearSpec, VectorSpec>>,
    values: usize,
}

impl<'a> Builder<'a> {
    fn new(config: &'a DecoderConfig, prefix: &str, block: usize) -> Self {
        Self { config, prefix: format!("{prefix}layers.{block}."), ops: Vec::new(), values: 1 }
    }

    /// The residual stream.
    fn stream(&self) -> Value {
        Value { id: 0, slot: 0, width: self.config.hidden_size }
    }

    /// A new value, the output of the next operation.
    fn value(&mut self, width: usize) -> Value {
        let id = self.values;
        self.values += 1;
        Value { id, slot: 0, width }
    }

    /// Applies the norm `part` to each piece of `width` elements of `x`.
    fn norm(&mut self, x: Value, part: &str, width: usize) -> Value {
        let y = self.value(x.width);
        let weight = vector(self.config, format!("{}{part}.weight", self.prefix), width);
        self.ops.push(Op::Norm { x, y, weight, eps: self.config.rms_norm_eps });
        y
    }

    /// Applies linear layers with these names and numbers of outputs to `x`.
    fn linear<const N: usize>(&mut self, x: Value, parts: [(&str, usize); N], bias: bool) -> [Value; N] {
        let layer = |(part, outputs): (&str, usize)| {
            let name = format!("{}{part}.weight", self.prefix);
            LinearSpec { name, outputs, inputs: x.width, bias }
        };
        let layers = parts.map(layer).into();
        let y = parts.map(|(_, outputs)| self.value(outputs));
        self.ops.push(Op::Linear { x, layers, y: y.into() });
        y
    }

    /// Applies linear layers, or a single layer named `fused` and a split if the family fuses them.
    fn projections<const N: usize>(
        &mut self,
        x: Value,
        parts: [(&str, usize); N],
        fused: &str,
        bias: bool,
    ) -> [Value; N] {
        if !self.config.structure.fused {
            return self.linear(x, parts, bias);
        }
        let widths = parts.map(|(_, outputs)| outputs);
        let [wide] = self.linear(x, [(fused, widths.iter().sum())], bias);
        let y = widths.map(|width| self.value(width));
        self.ops.push(Op::Split { x: wide, y: y.into() });
        y
    }

    /// Adds `x` to the residual stream, after the norm `post` if the family has it, and returns the sublayer.
    fn finish(mut self, x: Value, post: &str) -> Sublayer {
        let x = match self.config.structure.post_norms {
            true => self.norm(x, post, x.width),
            false => x,
        };
        self.ops.push(Op::Add { x });
        let mut sublayer = Sublayer { ops: self.ops };
        sublayer.assign_slots();
        sublayer
    }
}

fn vector(config: &DecoderConfig, name: String, width: usize) -> VectorSpec {
    VectorSpec { name, width, plus_one: config.structure.norms_plus_one }
}

fn attention(config: &DecoderConfig, prefix: &str, block: usize) -> Sublayer {
    let mut b = Builder::new(config, prefix, block);
    let (query, kv, head) = (config.query_width(), config.kv_width(), config.head_dim);
    let normed = b.norm(b.stream(), "input_layernorm", config.hidden_size);
    let parts = [("self_attn.q_proj", query), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
    let [mut q, mut k, v] = b.projections(normed, parts, "self_attn.qkv_proj", config.biases.qkv);
    for (heads, norm) in [(&mut q, "self_attn.q_norm"), (&mut k, "self_attn.k_norm")] {
        if config.structure.qk_norms {
            *heads = b.norm(*heads, norm, head);
        }
        if let Some(rope) = config.blocks[block].rope {
            let y = b.value(heads.width);
            b.ops.push(Op::Rotate { x: *heads, y, by: Rotation { rope, dim: config.ropes[rope].dim, head } });
            *heads = y;
        }
    }
    let mixed = b.value(query);
    let how = Attention {
        query: config.num_heads,
        kv: config.num_kv_heads,
        dim: head,
        scale: config.attention_scale,
        softcap: config.attention_softcap,
        window: config.blocks[block].window,
    };
    b.ops.push(Op::Attend { q, k, v, y: mixed, how });
    let [out] = b.linear(mixed, [("self_attn.o_proj", config.hidden_size)], config.biases.output);
    b.finish(out, "post_attention_layernorm")
}

fn mlp(config: &DecoderConfig, prefix: &str, block: usize) -> Sublayer {
    let mut b = Builder::new(config, prefix, block);
    let inner = config.intermediate_size;
    let bias = config.biases.mlp;
    // Families without a norm after attention use this name for the norm before the MLP.
    let name = if config.structure.post_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
    let normed = b.norm(b.stream(), name, config.hidden_size);
    let parts = [("mlp.gate_proj", inner), ("mlp.up_proj", inner)];
    let [gate, up] = b.projections(normed, parts, "mlp.gate_up_proj", bias);
    let gated = b.value(inner);
    let activation: Activation = config.activation;
    b.ops.push(Op::Gate { gate, up, y: gated, activation });
    let [out] = b.linear(gated, [("mlp.down_proj", config.hidden_size)], bias);
    b.finish(out, "post_feedforward_layernorm")
}

/// Returns the network of a configuration. `names` is the prefix of its tensor names and the name of the output
/// projection: one of [`DecoderConfig::names`].
pub fn describe(config: &DecoderConfig, names: (&str, &str)) -> Network {
    let ((prefix, output), hidden) = (names, config.hidden_size);
    let matrix = |name: String| LinearSpec { name, outputs: config.vocab_size, inputs: hidden, bias: false };
    let ends = Ends {
        embedding: matrix(super::source::embedding(prefix)),
        scale: config.embedding_scale(),
        norm: vector(config, format!("{prefix}norm.weight"), hidden),
        eps: config.rms_norm_eps,
        output: (!config.tie_word_embeddings).then(|| matrix(output.into())),
        softcap: config.logit_softcap,
    };
    let mut first_input = 0;
    let block = |index| {
        let sublayers = vec![attention(config, prefix, index), mlp(config, prefix, index)];
        let block = Block { index, first_input, sublayers };
        first_input += block.inputs();
        block
    };
    Network { ends, blocks: (0..config.blocks.len()).map(block).collect() }
}
