//! Weights by name.

use super::Frame;
use super::block::Block;
use super::projection::{Layer, Projection};
use crate::product::{Linear, Threads};
use crate::{ModelError, Result, WeightSource, config::DecoderConfig};

/// Values of tensor `name`, whose shape must be `expected`.
fn tensor(source: &dyn WeightSource, name: &str, expected: &[usize]) -> Result<Vec<f32>> {
    let wide: Vec<u64> = expected.iter().map(|&d| d as u64).collect();
    let Some(found) = source.shape(name) else {
        return Err(ModelError::MissingTensor { name: name.into(), expected: wide });
    };
    if found != wide {
        return Err(ModelError::Shape { name: name.into(), found, expected: wide });
    }
    let values = source.load_f32(name).map_err(|source| ModelError::Tensor { name: name.into(), source })?;
    if Some(values.len()) != expected.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
        return Err(ModelError::count(name, values.len(), expected));
    }
    Ok(values)
}

struct Loader<'a> {
    source: &'a dyn WeightSource,
    config: &'a DecoderConfig,
    /// What tensor names begin with.
    prefix: &'static str,
}

impl Loader<'_> {
    fn norm(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let mut weight = tensor(self.source, &format!("{}{name}.weight", self.prefix), &[width])?;
        if self.config.structure.norms_plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    fn layer(&self, name: String, bias: bool, outputs: usize, inputs: usize) -> Result<Layer> {
        let weight = tensor(self.source, &name, &[outputs, inputs])?;
        let bias_name = format!("{}bias", name.strip_suffix("weight").unwrap_or(&name));
        let bias = bias.then(|| tensor(self.source, &bias_name, &[outputs])).transpose()?;
        Ok(Layer { linear: Linear::new(weight, bias, outputs, inputs), name })
    }

    /// Layers of block `index` by name and outputs, or, where the family fuses them, one of the name `fused`.
    fn projection<const N: usize>(
        &self,
        index: usize,
        parts: [(&str, usize); N],
        fused: Option<&str>,
        bias: bool,
        inputs: usize,
    ) -> Result<Projection<N>> {
        let layer = |part: &str, outputs| {
            self.layer(format!("{}layers.{index}.{part}.weight", self.prefix), bias, outputs, inputs)
        };
        if let Some(fused) = fused.filter(|_| self.config.structure.fused) {
            let widths = parts.map(|(_, outputs)| outputs);
            return Ok(Projection::Fused(layer(fused, widths.iter().sum())?, widths));
        }
        let layers = parts.into_iter().map(|(part, outputs)| layer(part, outputs)).collect::<Result<Vec<_>>>()?;
        let layers = layers.try_into().unwrap_or_else(|_| unreachable!("a layer for each part"));
        Ok(Projection::Apart(layers))
    }

    fn block(&self, index: usize) -> Result<Block> {
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
}

/// The tensors of block `index`.
pub(super) fn block(source: &dyn WeightSource, frame: &Frame, index: usize) -> Result<Block> {
    Loader { source, config: &frame.config, prefix: frame.prefix }.block(index)
}

/// All tensors but those of blocks.
pub(super) fn frame(source: &dyn WeightSource, config: DecoderConfig, pool: rayon::ThreadPool) -> Result<Frame> {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let threads = match pool.current_num_threads() {
        1 => Threads::One,
        n => Threads::Rayon(n),
    };
    let embedding = |prefix: &str| format!("{prefix}embed_tokens.weight");
    let present = |(prefix, _): &&(&'static str, _)| source.shape(&embedding(prefix)).is_some();
    let &(prefix, head) = config.names.iter().find(present).or(config.names.first()).unwrap_or(&("", ""));
    let loader = Loader { source, config: &config, prefix };
    Ok(Frame {
        prefix,
        embedding: loader.layer(embedding(prefix), false, vocab, hidden)?,
        norm: loader.norm("norm", hidden)?,
        head: match config.tie_word_embeddings {
            true => None,
            false => Some(loader.layer(head.into(), false, vocab, hidden)?),
        },
        config,
        pool,
        threads,
    })
}
