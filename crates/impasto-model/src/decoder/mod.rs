//! The reference decoder: a decoder-only transformer in binary32.
//!
//! It runs the operations of the network's description ([`crate::graph`]) with kernels written for clarity: each value
//! is a separate matrix, and the `gemm` crate computes the products.
//!
//! A [`Decoder`] holds all weights and runs a text. A [`Frame`] holds everything but the blocks; with it, a [`Walk`]
//! takes many windows forward through one block after another, and a [`WalkBack`] takes their gradients backward.

mod attention;
mod backward;
mod elementwise;
mod exp;
mod frame;
mod layer;
mod pass;
mod walk;
mod weights;

use std::ops::Range;

use crate::cache::Plain;
use crate::network::check_tokens;
use crate::{CausalLm, Hidden, KvCache, ModelError, Probe, Result, Want, WeightSource, config::DecoderConfig};
pub use backward::{Labels, Predictions, WalkBack};
use elementwise::softcap;
pub use frame::Frame;
pub use layer::Layer;
use layer::Watch;
use pass::{Over, Pass};
pub use walk::Walk;

/// Tokens that run through the blocks at a time: bounds the working memory of a long prompt.
const PREFILL: usize = 512;

/// A block with its weights.
pub type Block = crate::graph::Block<Layer, Vec<f32>>;
/// A sublayer with its weights.
pub type Sublayer = crate::graph::Sublayer<Layer, Vec<f32>>;

/// A decoder-only transformer with its weights in memory, in binary32.
pub struct Decoder {
    frame: Frame,
    blocks: Vec<Block>,
    max_context: usize,
}

impl Decoder {
    /// Loads the weights that `config` requires, one tensor at a time. Each shape is checked before the values are
    /// read.
    ///
    /// 0 `threads` means one per processor.
    ///
    /// # Errors
    /// A tensor that is missing, has the wrong shape or cannot be read; threads that cannot be started.
    pub fn load(source: &dyn WeightSource, config: DecoderConfig, threads: usize) -> Result<Self> {
        let max_context = config.max_position_embeddings;
        let frame = Frame::load(source, config, threads)?;
        let blocks = (0..frame.config.blocks.len()).map(|i| frame.load_block(source, i)).collect::<Result<_>>()?;
        Ok(Self { frame, blocks, max_context })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.frame.config
    }

    /// The decoder without its blocks.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Limits the context to `tokens`, if that is less than the configuration's.
    pub fn limit_context(&mut self, tokens: usize) {
        self.max_context = self.frame.config.max_position_embeddings.min(tokens);
    }

    /// [`CausalLm::hidden`] with a `probe` that receives the inputs of the linear layers.
    ///
    /// # Errors
    /// Those of [`CausalLm::hidden`]; the probe has then received nothing.
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
        let (blocks, width) = (self.frame.config.blocks.len(), self.frame.config.kv_width());
        if !cache.store::<Plain>().is_some_and(|plain| plain.fits(blocks, width)) {
            return Err(ModelError::ForeignCache);
        }
        check_tokens(tokens, self.frame.config.vocab_size, cache.len(), self.max_context)?;
        cache.reserve(tokens.len())?;
        let context = cache.len() + tokens.len();
        let width = self.frame.config.hidden_size;
        let first = want.first(tokens.len());
        let data: Result<Vec<f32>> = self.frame.pool.install(|| {
            self.renew(cache, context)?;
            let mut wanted = Vec::new();
            let mut start = 0;
            for piece in tokens.chunks(PREFILL) {
                let x = self.run_blocks(cache, piece, context, watch)?;
                let skip = first.saturating_sub(start).min(piece.len());
                let normed = self.frame.normed(&x[skip * width..]);
                if !normed.is_empty() {
                    watch.show(std::slice::from_ref(self.frame.ends.projection()), &normed);
                }
                wanted.extend(normed);
                start += piece.len();
            }
            Ok(wanted)
        });
        Ok(Hidden::new(data?, width))
    }

    /// Evaluates the tokens in `cache` again if a context of `context` tokens gives them other rotary positions than
    /// their keys have.
    fn renew(&self, cache: &mut KvCache, context: usize) -> Result<()> {
        let stale = |r: &crate::config::Rope| r.is_long(cache.context()) != r.is_long(context);
        if cache.is_empty() || !self.frame.config.ropes.iter().any(stale) {
            return Ok(());
        }
        let tokens = cache.tokens().to_vec();
        cache.clear();
        for piece in tokens.chunks(PREFILL) {
            self.run_blocks(cache, piece, context, &mut Watch(None))?;
        }
        Ok(())
    }

    /// Runs at most [`PREFILL`] tokens in a context of `context` tokens; returns the residual stream after the last
    /// block.
    fn run_blocks(
        &self,
        cache: &mut KvCache,
        tokens: &[u32],
        context: usize,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<f32>> {
        let past = cache.len();
        let store = cache.store::<Plain>().ok_or(ModelError::ForeignCache)?;
        let tables = self.frame.rope_tables(past, tokens.len(), context);
        let mut x = self.frame.embed(tokens);
        for (index, block) in self.blocks.iter().enumerate() {
            let over = Over::After { store, block: index, past };
            let mut pass = Pass::new(&mut x, over, &tables, self.frame.threads, watch);
            block.sublayers.iter().for_each(|sublayer| pass.run(&sublayer.ops));
        }
        cache.advance(tokens, context);
        Ok(x)
    }
}

impl CausalLm for Decoder {
    fn vocab_size(&self) -> usize {
        self.frame.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        KvCache::new(self.frame.config.blocks.len(), self.frame.config.kv_width(), tokens.min(self.max_context))
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        self.run(cache, tokens, want, &mut Watch(None))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        let x = hidden.slice(rows)?;
        let mut logits = self.frame.pool.install(|| self.frame.ends.projection().linear.forward(x, self.frame.threads));
        if let Some(cap) = self.frame.ends.softcap {
            softcap(&mut logits, cap);
        }
        Ok(logits)
    }
}
