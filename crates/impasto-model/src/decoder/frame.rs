//! A decoder without its blocks.

use super::Block;
use super::elementwise::{rms_norm, rope_table};
use super::layer::Layer;
use crate::config::DecoderConfig;
use crate::graph::{self, Ends, LinearSpec, Loader};
use crate::product::{Linear, Threads};
use crate::{LinearInfo, ModelError, Result, WeightSource};

/// A decoder without its blocks: embedding, final norm, output projection, and the thread pool.
///
/// With it, blocks can be loaded and run one at a time ([`Walk`](super::Walk)), so a model larger than memory can run
/// over many windows.
pub struct Frame {
    pub(super) config: DecoderConfig,
    /// Descriptions of the blocks.
    blocks: Vec<graph::Block>,
    pub(super) ends: Ends<Layer, Vec<f32>>,
    pub(super) pool: rayon::ThreadPool,
    pub(super) threads: Threads,
}

impl Frame {
    /// Loads the embedding, norm and output projection. The shape of each tensor is checked before its values are read.
    ///
    /// 0 `threads` means one per processor.
    ///
    /// # Errors
    /// A tensor that is missing, has the wrong shape or cannot be read; threads that cannot be started.
    pub fn load(source: &dyn WeightSource, mut config: DecoderConfig, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| ModelError::Threads(e.to_string()))?;
        let threads = match pool.current_num_threads() {
            1 => Threads::One,
            n => Threads::Rayon(n),
        };
        let network = graph::describe_source(source, &mut config)?;
        let ends = Loader::new(source, &|spec, bias| float(source, spec, bias)).ends(&network.ends)?;
        Ok(Self { config, blocks: network.blocks, ends, pool, threads })
    }

    /// Loads block `index`.
    ///
    /// # Errors
    /// A tensor that is missing, has the wrong shape or cannot be read.
    ///
    /// # Panics
    /// If the configuration has no such block.
    pub fn load_block(&self, source: &dyn WeightSource, index: usize) -> Result<Block> {
        Loader::new(source, &|spec, bias| float(source, spec, bias)).block(&self.blocks[index])
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Name of the embedding tensor, vocabulary x hidden size.
    pub fn embedding(&self) -> &str {
        &self.ends.embedding.name
    }

    /// The output projection (the embedding matrix if they are tied). Its input is numbered after the inputs of all
    /// blocks.
    pub fn head(&self) -> LinearInfo<'_> {
        let input = self.blocks.last().map_or(0, |block| block.first_input + block.inputs());
        self.ends.projection().info(input)
    }

    /// The thread pool that blocks run on, for work between blocks.
    pub fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    /// Embeddings of `tokens`, tokens x hidden size.
    pub(super) fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let mut x: Vec<f32> =
            tokens.iter().flat_map(|&t| self.ends.embedding.linear.row(t as usize)).copied().collect();
        if let Some(scale) = self.ends.scale {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        x
    }

    /// Returns the input of the output projection, given the residual stream after the last block.
    pub(super) fn normed(&self, x: &[f32]) -> Vec<f32> {
        rms_norm(x, &self.ends.norm, self.ends.eps)
    }

    /// The angle table of each set of rotary positions, for `tokens` positions from `past` on in a context of `context`
    /// tokens.
    pub(super) fn rope_tables(&self, past: usize, tokens: usize, context: usize) -> Vec<Vec<(f32, f32)>> {
        self.config.ropes.iter().map(|rope| rope_table(past, tokens, context, rope)).collect()
    }
}

/// Loads a layer in binary32.
fn float(source: &dyn WeightSource, spec: &LinearSpec, bias: Option<Vec<f32>>) -> Result<Layer> {
    let weight = graph::tensor(source, &spec.name, &[spec.outputs, spec.inputs])?;
    Ok(Layer { linear: Linear::new(weight, bias, spec.outputs, spec.inputs), name: spec.name.clone() })
}
