//! A decoder without its blocks.

use super::block::{Block, Step};
use super::elementwise::{rms_norm, rope_table};
use super::load;
use super::projection::Layer;
use crate::config::DecoderConfig;
use crate::product::Threads;
use crate::{LinearInfo, ModelError, Result, WeightSource};

/// What stands before and behind the blocks of a decoder, and the threads that run them: embedding, last norm, output
/// projection.
///
/// With it, blocks can be loaded and run one at a time ([`Walk`](super::Walk)), so that a model larger than memory runs
/// over many windows, too.
pub struct Frame {
    pub(super) config: DecoderConfig,
    /// What the names of tensors begin with.
    pub(super) prefix: &'static str,
    pub(super) embedding: Layer,
    pub(super) norm: Vec<f32>,
    /// `None` when the embedding is tied.
    pub(super) head: Option<Layer>,
    pub(super) pool: rayon::ThreadPool,
    pub(super) threads: Threads,
}

impl Frame {
    /// Loads embedding, norm and output projection, every shape checked before its values are read.
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
        load::frame(source, config, pool)
    }

    /// Loads block `index`.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or cannot be read.
    ///
    /// # Panics
    /// If the configuration has no such block.
    pub fn load_block(&self, source: &dyn WeightSource, index: usize) -> Result<Block> {
        assert!(index < self.config.blocks.len(), "no block {index}");
        load::block(source, self, index)
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The tensor of the embedding, vocabulary x hidden size.
    pub fn embedding(&self) -> &str {
        &self.embedding.name
    }

    /// The output projection: the embedding again where that is tied. Its input is the one behind those of all blocks.
    pub fn head(&self) -> LinearInfo<'_> {
        self.projection().info(4 * self.config.blocks.len())
    }

    /// The threads that blocks run on, for work between two of them.
    pub fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    pub(super) fn projection(&self) -> &Layer {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.head.iter().chain([&self.embedding])
    }

    pub(super) fn layers_mut(&mut self) -> impl Iterator<Item = &mut Layer> {
        self.head.iter_mut().chain([&mut self.embedding])
    }

    /// Embeddings of `tokens`, tokens x hidden size.
    pub(super) fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let mut x: Vec<f32> = tokens.iter().flat_map(|&t| self.embedding.linear.row(t as usize)).copied().collect();
        if let Some(scale) = self.config.embedding_scale() {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        x
    }

    /// The input of the output projection, given the residual stream after the last block.
    pub(super) fn normed(&self, x: &[f32]) -> Vec<f32> {
        rms_norm(x, &self.norm, self.config.rms_norm_eps)
    }

    /// The table of each set of rotary positions, for `tokens` positions from `past` on in a context of `context`.
    pub(super) fn rope_tables(&self, past: usize, tokens: usize, context: usize) -> Vec<Vec<(f32, f32)>> {
        self.config.ropes.iter().map(|rope| rope_table(past, tokens, context, rope)).collect()
    }

    /// A block, to be run under the rotary positions of `tables`.
    pub(super) fn step<'a>(&'a self, block: &'a Block, tables: &'a [Vec<(f32, f32)>]) -> Step<'a> {
        Step::new(block, &self.config, tables, self.threads)
    }
}
