//! Weights of the Llama layout by name.

use super::{Block, Llama};
use crate::product::{Linear, Threads};
use crate::{ModelError, Result, WeightSource, config::LlamaConfig};

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
        let source = format!("{} values for shape {expected:?}", values.len()).into();
        return Err(ModelError::Tensor { name: name.into(), source });
    }
    Ok(values)
}

fn linear(source: &dyn WeightSource, name: &str, outputs: usize, inputs: usize) -> Result<Linear> {
    Ok(Linear::new(tensor(source, name, &[outputs, inputs])?, outputs, inputs))
}

fn block(source: &dyn WeightSource, config: &LlamaConfig, index: usize) -> Result<Block> {
    let name = |part: &str| format!("model.layers.{index}.{part}.weight");
    let matrix = |part: &str, outputs, inputs| linear(source, &name(part), outputs, inputs);
    let norm = |part: &str| tensor(source, &name(part), &[config.hidden_size]);
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (query, kv) = (config.query_width(), config.kv_width());
    Ok(Block {
        attention_norm: norm("input_layernorm")?,
        q: matrix("self_attn.q_proj", query, hidden)?,
        k: matrix("self_attn.k_proj", kv, hidden)?,
        v: matrix("self_attn.v_proj", kv, hidden)?,
        o: matrix("self_attn.o_proj", hidden, query)?,
        mlp_norm: norm("post_attention_layernorm")?,
        gate: matrix("mlp.gate_proj", inner, hidden)?,
        up: matrix("mlp.up_proj", inner, hidden)?,
        down: matrix("mlp.down_proj", hidden, inner)?,
    })
}

pub(super) fn load(source: &dyn WeightSource, config: LlamaConfig, pool: rayon::ThreadPool) -> Result<Llama> {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let threads = match pool.current_num_threads() {
        1 => Threads::One,
        n => Threads::Rayon(n),
    };
    Ok(Llama {
        max_context: config.max_position_embeddings,
        embedding: linear(source, "model.embed_tokens.weight", vocab, hidden)?,
        blocks: (0..config.num_blocks).map(|i| block(source, &config, i)).collect::<Result<_>>()?,
        norm: tensor(source, "model.norm.weight", &[hidden])?,
        head: match config.tie_word_embeddings {
            true => None,
            false => Some(linear(source, "lm_head.weight", vocab, hidden)?),
        },
        config,
        pool,
        threads,
    })
}
