//! The Llama layout in binary32.
//!
//! Token embedding; per block RMSNorm, grouped-query attention with rotary positions, residual, RMSNorm, SwiGLU,
//! residual; a last RMSNorm and the output projection (Touvron et al., arXiv 2302.13971 and 2307.09288). Tensor names
//! and the order of rotary pairs are those of Hugging Face transformers.

mod attention;
mod elementwise;
mod load;

use std::ops::Range;

use crate::network::check_tokens;
use crate::product::{Linear, Threads};
use crate::{CausalLm, Hidden, KvCache, ModelError, Result, Want, WeightSource, config::LlamaConfig};
use attention::{Heads, attention};
use elementwise::{add, rms_norm, rope, rope_table, swiglu};

/// Tokens run through the blocks at a time: bounds the working memory of a long prompt.
const PREFILL: usize = 512;

/// A model of the Llama layout with its weights in memory, binary32.
pub struct Llama {
    config: LlamaConfig,
    max_context: usize,
    embedding: Linear,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    /// `None` when the embedding is tied.
    head: Option<Linear>,
    pool: rayon::ThreadPool,
    threads: Threads,
}

struct Block {
    attention_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    mlp_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Llama {
    /// Loads the weights that `config` calls for, one tensor at a time, every shape checked before its values are read.
    ///
    /// `threads` of 0 takes all processors.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or cannot be read; threads that cannot be started.
    pub fn load(source: &dyn WeightSource, config: LlamaConfig, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| ModelError::Threads(e.to_string()))?;
        load::load(source, config, pool)
    }

    /// The configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Sets a context shorter than the configuration's.
    pub fn limit_context(&mut self, tokens: usize) {
        self.max_context = self.config.max_position_embeddings.min(tokens);
    }

    /// Bytes of all weights in memory.
    pub fn memory_bytes(&self) -> usize {
        let norms = |v: &Vec<f32>| size_of_val(v.as_slice());
        let block = |b: &Block| {
            let linears = [&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down];
            linears.iter().map(|l| l.memory_bytes()).sum::<usize>() + norms(&b.attention_norm) + norms(&b.mlp_norm)
        };
        let ends = self.embedding.memory_bytes() + self.head.as_ref().map_or(0, Linear::memory_bytes);
        ends + norms(&self.norm) + self.blocks.iter().map(block).sum::<usize>()
    }

    /// Runs a piece of at most [`PREFILL`] tokens; returns the residual stream after the last block.
    fn run_blocks(&self, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
        let past = cache.len();
        let config = &self.config;
        let heads = Heads::of(config);
        let rotary = rope_table(past, tokens.len(), config.head_dim, config.rope_theta);
        let mut x: Vec<f32> = tokens.iter().flat_map(|&t| self.embedding.row(t as usize)).copied().collect();
        for (index, block) in self.blocks.iter().enumerate() {
            let normed = rms_norm(&x, &block.attention_norm, config.rms_norm_eps);
            let mut q = block.q.forward(&normed, self.threads);
            let mut k = block.k.forward(&normed, self.threads);
            let v = block.v.forward(&normed, self.threads);
            rope(&mut q, config.head_dim, config.num_heads, &rotary);
            rope(&mut k, config.head_dim, config.num_kv_heads, &rotary);
            let (keys, values) = cache.extend(index, &k, &v);
            let mixed = attention(&q, keys, values, past, heads);
            add(&mut x, &block.o.forward(&mixed, self.threads));

            let normed = rms_norm(&x, &block.mlp_norm, config.rms_norm_eps);
            let mut gate = block.gate.forward(&normed, self.threads);
            swiglu(&mut gate, &block.up.forward(&normed, self.threads), config.intermediate_size);
            add(&mut x, &block.down.forward(&gate, self.threads));
        }
        cache.advance(tokens.len());
        x
    }
}

impl CausalLm for Llama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        KvCache::new(self.config.num_blocks, self.config.kv_width(), tokens.min(self.max_context))
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        if !cache.fits(self.config.num_blocks, self.config.kv_width()) {
            return Err(ModelError::ForeignCache);
        }
        check_tokens(tokens, self.config.vocab_size, cache.len(), self.max_context)?;
        cache.reserve(tokens.len())?;
        let width = self.config.hidden_size;
        let first = want.first(tokens.len());
        let data = self.pool.install(|| {
            let mut wanted = Vec::new();
            let mut start = 0;
            for piece in tokens.chunks(PREFILL) {
                let x = self.run_blocks(cache, piece);
                let skip = first.saturating_sub(start).min(piece.len());
                wanted.extend(rms_norm(&x[skip * width..], &self.norm, self.config.rms_norm_eps));
                start += piece.len();
            }
            wanted
        });
        Ok(Hidden::new(data, width))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        let x = hidden.slice(rows)?;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Ok(self.pool.install(|| head.forward(x, self.threads)))
    }
}
