//! Weights by name.

use super::Frame;
use super::block::Block;
use super::projection::{Layer, Projection};
use crate::product::{Linear, Threads};
use crate::{ModelError, Result, WeightSource, config::DecoderConfig};

/// Is the shape of tensor `name` the `expected` one?
///
/// # Errors
/// [`ModelError::MissingTensor`] or [`ModelError::Shape`].
pub fn check_shape(source: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<()> {
    let wide: Vec<u64> = expected.iter().map(|&d| d as u64).collect();
    match source.shape(name) {
        None => Err(ModelError::MissingTensor { name: name.into(), expected: wide }),
        Some(found) if found != wide => Err(ModelError::Shape { name: name.into(), found, expected: wide }),
        Some(_) => Ok(()),
    }
}

/// Values of tensor `name`, whose shape must be `expected`.
pub fn tensor(source: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
    check_shape(source, name, expected)?;
    let values = source.load_f32(name).map_err(|source| ModelError::Tensor { name: name.into(), source })?;
    if Some(values.len()) != expected.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
        return Err(ModelError::count(name, values.len(), expected));
    }
    Ok(values)
}

/// What makes a linear layer of its parts: the tensor's name, its outputs and inputs, and a bias.
type Make<'a, L> = dyn Fn(String, [usize; 2], Option<Vec<f32>>) -> Result<L> + 'a;

/// Reads the parts of a decoder, its linear layers as `make` makes them.
pub struct Loader<'a, L> {
    source: &'a dyn WeightSource,
    config: &'a DecoderConfig,
    /// What tensor names begin with.
    prefix: &'static str,
    make: &'a Make<'a, L>,
}

/// What stands around the blocks.
#[derive(Clone)]
pub struct Ends<L> {
    /// The embedding of tokens.
    pub embedding: L,
    /// The weight of the last norm.
    pub norm: Vec<f32>,
    /// The output projection; `None` when the embedding is tied.
    pub head: Option<L>,
}

/// What tensor names begin with, and the name of the output projection.
pub fn names(source: &dyn WeightSource, config: &DecoderConfig) -> (&'static str, &'static str) {
    let present = |(prefix, _): &&(&'static str, _)| source.shape(&embedding(prefix)).is_some();
    config.names.iter().find(present).or(config.names.first()).copied().unwrap_or(("", ""))
}

fn embedding(prefix: &str) -> String {
    format!("{prefix}embed_tokens.weight")
}

impl<'a, L> Loader<'a, L> {
    /// Reads tensors of `source` whose names begin with `prefix`.
    pub fn new(
        source: &'a dyn WeightSource,
        config: &'a DecoderConfig,
        prefix: &'static str,
        make: &'a Make<'a, L>,
    ) -> Self {
        Loader { source, config, prefix, make }
    }

    fn norm(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let mut weight = tensor(self.source, &format!("{}{name}.weight", self.prefix), &[width])?;
        if self.config.structure.norms_plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    fn layer(&self, name: String, bias: bool, outputs: usize, inputs: usize) -> Result<L> {
        check_shape(self.source, &name, &[outputs, inputs])?;
        let bias_name = format!("{}bias", name.strip_suffix("weight").unwrap_or(&name));
        let bias = bias.then(|| tensor(self.source, &bias_name, &[outputs])).transpose()?;
        (self.make)(name, [outputs, inputs], bias)
    }

    /// Layers of block `index` by name and outputs, or, where the family fuses them, one of the name `fused`.
    fn projection<const N: usize>(
        &self,
        index: usize,
        parts: [(&str, usize); N],
        fused: Option<&str>,
        bias: bool,
        inputs: usize,
    ) -> Result<Projection<N, L>> {
        let (prefix, is_fused) = (self.prefix, self.config.structure.fused);
        let layer =
            |part: &str, outputs| self.layer(format!("{prefix}layers.{index}.{part}.weight"), bias, outputs, inputs);
        if let Some(fused) = fused.filter(|_| is_fused) {
            let widths = parts.map(|(_, outputs)| outputs);
            return Ok(Projection::Fused(layer(fused, widths.iter().sum())?, widths));
        }
        let layers = parts.into_iter().map(|(part, outputs)| layer(part, outputs)).collect::<Result<Vec<_>>>()?;
        let layers = layers.try_into().unwrap_or_else(|_| unreachable!("a layer for each part"));
        Ok(Projection::Apart(layers))
    }

    /// The tensors of block `index`.
    pub fn block(&self, index: usize) -> Result<Block<L>> {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (query, kv) = (config.query_width(), config.kv_width());
        let norm = |part: &str, width| self.norm(&format!("layers.{index}.{part}"), width);
        let optional = |wanted: bool, part: &str, width| wanted.then(|| norm(part, width)).transpose();
        // The families without norms behind attention have this name for the one before the MLP.
        let post = config.structure.post_norms;
        let mlp_norm = if post { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let qk = config.structure.qk_norms;
        let qkv = [("self_attn.q_proj", query), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)];
        let gate_up = [("mlp.gate_proj", inner), ("mlp.up_proj", inner)];
        let biases = config.biases;
        Ok(Block {
            index,
            attention_norm: norm("input_layernorm", hidden)?,
            qkv: self.projection(index, qkv, Some("self_attn.qkv_proj"), biases.qkv, hidden)?,
            q_norm: optional(qk, "self_attn.q_norm", config.head_dim)?,
            k_norm: optional(qk, "self_attn.k_norm", config.head_dim)?,
            output: self.projection(index, [("self_attn.o_proj", hidden)], None, biases.output, query)?,
            post_attention_norm: optional(post, "post_attention_layernorm", hidden)?,
            mlp_norm: norm(mlp_norm, hidden)?,
            gate_up: self.projection(index, gate_up, Some("mlp.gate_up_proj"), biases.mlp, hidden)?,
            down: self.projection(index, [("mlp.down_proj", hidden)], None, biases.mlp, inner)?,
            post_mlp_norm: optional(post, "post_feedforward_layernorm", hidden)?,
        })
    }

    /// All tensors but those of blocks, the output projection under the name `head`.
    pub fn ends(&self, head: &str) -> Result<Ends<L>> {
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        Ok(Ends {
            embedding: self.layer(embedding(self.prefix), false, vocab, hidden)?,
            norm: self.norm("norm", hidden)?,
            head: match self.config.tie_word_embeddings {
                true => None,
                false => Some(self.layer(head.into(), false, vocab, hidden)?),
            },
        })
    }
}

/// The tensors of block `index`.
pub(super) fn block(source: &dyn WeightSource, frame: &Frame, index: usize) -> Result<Block> {
    Loader::new(source, &frame.config, frame.prefix, &|name, shape, bias| float(source, name, shape, bias)).block(index)
}

/// A layer in binary32.
fn float(
    source: &dyn WeightSource,
    name: String,
    [outputs, inputs]: [usize; 2],
    bias: Option<Vec<f32>>,
) -> Result<Layer> {
    let weight = tensor(source, &name, &[outputs, inputs])?;
    Ok(Layer { linear: Linear::new(weight, bias, outputs, inputs), name })
}

/// All tensors but those of blocks.
pub(super) fn frame(source: &dyn WeightSource, config: DecoderConfig, pool: rayon::ThreadPool) -> Result<Frame> {
    let threads = match pool.current_num_threads() {
        1 => Threads::One,
        n => Threads::Rayon(n),
    };
    let (prefix, head) = names(source, &config);
    let make = |name, shape, bias| float(source, name, shape, bias);
    let Ends { embedding, norm, head } = Loader::new(source, &config, prefix, &make).ends(head)?;
    Ok(Frame { prefix, embedding, norm, head, config, pool, threads })
}
