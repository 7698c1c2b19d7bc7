//! One transformer block, in the pieces that the forward and the backward pass share.

use super::attention::Attention;
use super::elementwise::{add, gated, rms_norm, rope};
use super::projection::{Projection, Watch};
use crate::config::DecoderConfig;
use crate::product::Threads;

/// The weights of a block.
pub(super) struct Block {
    pub(super) attention_norm: Vec<f32>,
    pub(super) qkv: Projection<3>,
    pub(super) q_norm: Option<Vec<f32>>,
    pub(super) k_norm: Option<Vec<f32>>,
    pub(super) output: Projection<1>,
    pub(super) post_attention_norm: Option<Vec<f32>>,
    pub(super) mlp_norm: Vec<f32>,
    pub(super) gate_up: Projection<2>,
    pub(super) down: Projection<1>,
    pub(super) post_mlp_norm: Option<Vec<f32>>,
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
        let [mut gate, up] = self.widen(x, watch);
        gated(&mut gate, &up, self.config.intermediate_size, self.config.activation);
        let [out] = self.block.down.forward(&gate, self.threads, watch);
        self.join(x, &out, &self.block.post_mlp_norm);
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
