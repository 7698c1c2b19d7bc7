//! One transformer block, in the pieces that the forward and the backward pass share.

use rayon::prelude::*;

use super::attention::{Attention, attention};
use super::elementwise::{add, gated, rms_norm, rope};
use super::projection::{Layer, Projection, Watch};
use crate::config::DecoderConfig;
use crate::product::Threads;

/// One of the two parts of a block that add to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Queries, keys and values from one input; the output projection from another.
    Attention,
    /// Gate and up from one input; down from another.
    Mlp,
}

impl Half {
    /// Both, in the order in which they run.
    pub const BOTH: [Half; 2] = [Half::Attention, Half::Mlp];
}

/// The weights of a block, its linear layers as `L`.
#[derive(Clone)]
pub struct Block<L = Layer> {
    /// Its number in the network.
    pub index: usize,
    /// The norm before attention.
    pub attention_norm: Vec<f32>,
    /// Queries, keys and values.
    pub qkv: Projection<3, L>,
    /// The norm of each query head.
    pub q_norm: Option<Vec<f32>>,
    /// The norm of each key head.
    pub k_norm: Option<Vec<f32>>,
    /// The output of attention.
    pub output: Projection<1, L>,
    /// The norm behind attention.
    pub post_attention_norm: Option<Vec<f32>>,
    /// The norm before the MLP.
    pub mlp_norm: Vec<f32>,
    /// Gate and up.
    pub gate_up: Projection<2, L>,
    /// Down.
    pub down: Projection<1, L>,
    /// The norm behind the MLP.
    pub post_mlp_norm: Option<Vec<f32>>,
}

/// A block with what it takes to run it on some tokens. Its two halves, attention and MLP, each add to the residual
/// stream.
pub(super) struct Step<'a> {
    pub(super) block: &'a Block,
    pub(super) config: &'a DecoderConfig,
    pub(super) attention: Attention,
    /// Elements of a head that are rotated, and the table for the tokens; `None` without rotary positions.
    pub(super) rope: Option<(usize, &'a [(f32, f32)])>,
    pub(super) threads: Threads,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        block: &'a Block,
        config: &'a DecoderConfig,
        tables: &'a [Vec<(f32, f32)>],
        threads: Threads,
    ) -> Self {
        let rope = config.blocks[block.index].rope;
        Self {
            block,
            config,
            attention: Attention::of(config, block.index),
            rope: rope.map(|which| (config.ropes[which].dim, tables[which].as_slice())),
            threads,
        }
    }
}

impl Step<'_> {
    /// Queries, keys and values of the residual stream `x`, as the projections give them.
    pub(super) fn project(&self, x: &[f32], watch: &mut Watch<'_>) -> [Vec<f32>; 3] {
        let normed = rms_norm(x, &self.block.attention_norm, self.config.rms_norm_eps);
        self.block.qkv.forward(&normed, self.threads, watch)
    }

    /// Normalises queries and keys where the family does, and gives them their positions.
    pub(super) fn place(&self, q: &mut Vec<f32>, k: &mut Vec<f32>) {
        let Self { block, config, .. } = self;
        for (heads, width, norm) in [(q, config.query_width(), &block.q_norm), (k, config.kv_width(), &block.k_norm)] {
            if let Some(norm) = norm {
                *heads = rms_norm(heads, norm, config.rms_norm_eps);
            }
            if let Some((dim, table)) = self.rope {
                rope(heads, config.head_dim, width, dim, table);
            }
        }
    }

    /// Adds to `x` what the output projection makes of the mixed values.
    pub(super) fn close(&self, x: &mut [f32], mixed: &[f32], watch: &mut Watch<'_>) {
        let [out] = self.block.output.forward(mixed, self.threads, watch);
        self.join(x, &out, &self.block.post_attention_norm);
    }

    /// Adds to `x` what the MLP makes of it.
    pub(super) fn mlp(&self, x: &mut [f32], watch: &mut Watch<'_>) {
        let gated = self.inside(Half::Mlp, x, 1, watch);
        let [out] = self.block.down.forward(&gated, self.threads, watch);
        self.join(x, &out, &self.block.post_mlp_norm);
    }

    /// Adds to `x`, whole windows of `window` tokens, what a half makes of each of them with nothing before it.
    pub(super) fn half(&self, half: Half, x: &mut [f32], window: usize, watch: &mut Watch<'_>) {
        match half {
            Half::Attention => self.close(x, &self.inside(half, x, window, watch), watch),
            Half::Mlp => self.mlp(x, watch),
        }
    }

    /// What the last projection of a half takes, given the residual stream `x` of whole windows.
    pub(super) fn inside(&self, half: Half, x: &[f32], window: usize, watch: &mut Watch<'_>) -> Vec<f32> {
        match half {
            Half::Attention => {
                let [mut q, mut k, v] = self.project(x, watch);
                self.place(&mut q, &mut k);
                self.attend(&q, &k, &v, window)
            }
            Half::Mlp => {
                let [mut gate, up] = self.widen(x, watch);
                gated(&mut gate, &up, self.config.intermediate_size, self.config.activation);
                gate
            }
        }
    }

    /// Attention inside each window by itself.
    pub(super) fn attend(&self, q: &[f32], k: &[f32], v: &[f32], window: usize) -> Vec<f32> {
        let (query, kv) = (window * self.config.query_width(), window * self.config.kv_width());
        let windows = q.par_chunks(query).zip(k.par_chunks(kv)).zip(v.par_chunks(kv));
        let mixed: Vec<Vec<f32>> = windows.map(|((q, k), v)| attention(q, k, v, 0, &self.attention)).collect();
        mixed.concat()
    }

    /// Shows `watch` the inputs of a half.
    pub(super) fn observe(&self, half: Half, x: &[f32], window: usize, watch: &mut Watch<'_>) {
        let inside = self.inside(half, x, window, watch);
        let last = match half {
            Half::Attention => &self.block.output,
            Half::Mlp => &self.block.down,
        };
        watch.show(last.layers(), &inside);
    }

    /// Gate and up of the residual stream `x`.
    pub(super) fn widen(&self, x: &[f32], watch: &mut Watch<'_>) -> [Vec<f32>; 2] {
        let normed = rms_norm(x, &self.block.mlp_norm, self.config.rms_norm_eps);
        self.block.gate_up.forward(&normed, self.threads, watch)
    }

    /// Adds the output of a half to the residual stream, through the norm behind it where the family has one.
    fn join(&self, x: &mut [f32], out: &[f32], norm: &Option<Vec<f32>>) {
        match norm {
            Some(norm) => add(x, &rms_norm(out, norm, self.config.rms_norm_eps)),
            None => add(x, out),
        }
    }
}
