//! The decoder-only transformer in binary32.
//!
//! Token embedding; per block RMSNorm, grouped-query attention, residual, RMSNorm, gated MLP, residual; a last RMSNorm
//! and the output projection: the layout of Llama (Touvron et al., arXiv 2302.13971 and 2307.09288), with what other
//! families add to it where [`DecoderConfig`] says so. Tensor names and the order of rotary pairs are those of Hugging
//! Face transformers.

mod attention;
mod backward;
mod block;
mod elementwise;
mod load;
mod projection;
mod weights;

use std::ops::Range;

use crate::network::check_tokens;
use crate::product::Threads;
use crate::{CausalLm, Hidden, KvCache, ModelError, Probe, Result, Want, WeightSource, config::DecoderConfig};
use attention::{Attention, attention};
pub use backward::Labels;
use block::{Block, Step};
use elementwise::{rms_norm, rope_table, softcap};
use projection::{Layer, Watch};

/// Tokens run through the blocks at a time: bounds the working memory of a long prompt.
const PREFILL: usize = 512;

/// A decoder-only transformer with its weights in memory, binary32.
pub struct Decoder {
    config: DecoderConfig,
    max_context: usize,
    embedding: Layer,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    /// `None` when the embedding is tied.
    head: Option<Layer>,
    pool: rayon::ThreadPool,
    threads: Threads,
}

impl Decoder {
    /// Loads the weights that `config` calls for, one tensor at a time, every shape checked before its values are read.
    ///
    /// `threads` of 0 takes all processors.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or cannot be read; threads that cannot be started.
    pub fn load(source: &dyn WeightSource, config: DecoderConfig, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| ModelError::Threads(e.to_string()))?;
        load::load(source, config, pool)
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Sets a context shorter than the configuration's.
    pub fn limit_context(&mut self, tokens: usize) {
        self.max_context = self.config.max_position_embeddings.min(tokens);
    }

    /// [`CausalLm::hidden`], with `probe` watching the inputs of the linear layers.
    ///
    /// # Errors
    /// Those of [`CausalLm::hidden`]; the probe has then seen nothing.
    pub fn hidden_probed(
        &self,
        cache: &mut KvCache,
        tokens: &[u32],
        want: Want,
        probe: &mut dyn Probe,
    ) -> Result<Hidden> {
        self.run(cache, tokens, want, &mut Watch(Some(probe)))
    }

    fn run(&self, cache: &mut KvCache, tokens: &[u32], want: Want, watch: &mut Watch<'_>) -> Result<Hidden> {
        if !cache.fits(self.config.blocks.len(), self.config.kv_width()) {
            return Err(ModelError::ForeignCache);
        }
        check_tokens(tokens, self.config.vocab_size, cache.len(), self.max_context)?;
        cache.reserve(tokens.len())?;
        let context = cache.len() + tokens.len();
        let width = self.config.hidden_size;
        let first = want.first(tokens.len());
        let data = self.pool.install(|| {
            self.renew(cache, context);
            let mut wanted = Vec::new();
            let mut start = 0;
            for piece in tokens.chunks(PREFILL) {
                let x = self.run_blocks(cache, piece, context, watch);
                let skip = first.saturating_sub(start).min(piece.len());
                let normed = rms_norm(&x[skip * width..], &self.norm, self.config.rms_norm_eps);
                if !normed.is_empty() {
                    watch.show(std::slice::from_ref(self.head()), &normed);
                }
                wanted.extend(normed);
                start += piece.len();
            }
            wanted
        });
        Ok(Hidden::new(data, width))
    }

    /// Runs the tokens of `cache` again if a context of `context` tokens gives them other rotary positions than those
    /// that their keys have.
    fn renew(&self, cache: &mut KvCache, context: usize) {
        let stale = |r: &crate::config::Rope| r.is_long(cache.context()) != r.is_long(context);
        if cache.is_empty() || !self.config.ropes.iter().any(stale) {
            return;
        }
        let tokens = cache.tokens().to_vec();
        cache.clear();
        for piece in tokens.chunks(PREFILL) {
            self.run_blocks(cache, piece, context, &mut Watch(None));
        }
    }

    fn head(&self) -> &Layer {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Embeddings of `tokens`, tokens x hidden size.
    fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let mut x: Vec<f32> = tokens.iter().flat_map(|&t| self.embedding.linear.row(t as usize)).copied().collect();
        if let Some(scale) = self.config.embedding_scale() {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        x
    }

    /// The table of each set of rotary positions, for `tokens` positions from `past` on in a context of `context`.
    fn rope_tables(&self, past: usize, tokens: usize, context: usize) -> Vec<Vec<(f32, f32)>> {
        self.config.ropes.iter().map(|rope| rope_table(past, tokens, context, rope)).collect()
    }

    /// Block `index`, to be run under the rotary positions of `tables`.
    fn step<'a>(&'a self, index: usize, tables: &'a [Vec<(f32, f32)>]) -> Step<'a> {
        let rope = self.config.blocks[index].rope;
        Step {
            block: &self.blocks[index],
            config: &self.config,
            attention: Attention::of(&self.config, index),
            rope: rope.map(|which| (self.config.ropes[which].dim, tables[which].as_slice())),
            threads: self.threads,
        }
    }

    /// Runs a piece of at most [`PREFILL`] tokens in a context that grows to `context`; returns the residual stream after
    /// the last block.
    fn run_blocks(&self, cache: &mut KvCache, tokens: &[u32], context: usize, watch: &mut Watch<'_>) -> Vec<f32> {
        let past = cache.len();
        let tables = self.rope_tables(past, tokens.len(), context);
        let mut x = self.embed(tokens);
        for index in 0..self.blocks.len() {
            let step = self.step(index, &tables);
            let [mut q, mut k, v] = step.project(&x, watch);
            step.place(&mut q, &mut k);
            let (keys, values) = cache.extend(index, &k, &v);
            step.close(&mut x, &attention(&q, keys, values, past, &step.attention), watch);
            step.mlp(&mut x, watch);
        }
        cache.advance(tokens, context);
        x
    }
}

impl CausalLm for Decoder {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        KvCache::new(self.config.blocks.len(), self.config.kv_width(), tokens.min(self.max_context))
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        self.run(cache, tokens, want, &mut Watch(None))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        let x = hidden.slice(rows)?;
        let mut logits = self.pool.install(|| self.head().linear.forward(x, self.threads));
        if let Some(cap) = self.config.logit_softcap {
            softcap(&mut logits, cap);
        }
        Ok(logits)
    }
}
