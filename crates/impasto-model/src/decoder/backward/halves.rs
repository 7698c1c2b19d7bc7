//! The two halves of a block backwards: each turns the gradient of the residual stream behind it into that before it.

use super::attention::attention_backward;
use super::elementwise::{gated_backward, rms_norm_backward, rope_backward};
use crate::GradientProbe;
use crate::decoder::attention::attention;
use crate::decoder::block::Step;
use crate::decoder::elementwise::{add, gated};
use crate::decoder::projection::Watch;

impl Step<'_> {
    /// The gradient of what a half returns, given that of the stream it is added to; `out` is what goes into the norm
    /// between the two, where there is one.
    fn part(&self, norm: &Option<Vec<f32>>, gradient: &[f32], out: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
        match norm {
            Some(norm) => rms_norm_backward(&out(), norm, self.config.rms_norm_eps, gradient),
            None => gradient.to_vec(),
        }
    }

    /// The MLP, whose input was `x`.
    pub(super) fn mlp_backward(&self, x: &[f32], gradient: &mut [f32], probe: &mut dyn GradientProbe) {
        let Self { block, config, threads, .. } = *self;
        let (inner, activation) = (config.intermediate_size, config.activation);
        let [mut gate, mut up] = self.widen(x, &mut Watch(None));
        let out = self.part(&block.post_mlp_norm, gradient, || {
            let mut product = gate.clone();
            gated(&mut product, &up, inner, activation);
            let [out] = block.down.forward(&product, threads, &mut Watch(None));
            out
        });
        let product = block.down.backward([out], threads, probe);
        gated_backward(&mut gate, &mut up, inner, activation, &product);
        let normed = block.gate_up.backward([gate, up], threads, probe);
        add(gradient, &rms_norm_backward(x, &block.mlp_norm, config.rms_norm_eps, &normed));
    }

    /// Attention, whose input was `x`.
    pub(super) fn attention_backward(&self, x: &[f32], gradient: &mut [f32], probe: &mut dyn GradientProbe) {
        let Self { block, config, threads, .. } = *self;
        let eps = config.rms_norm_eps;
        let [q_raw, k_raw, v] = self.project(x, &mut Watch(None));
        let (mut q, mut k) = (q_raw.clone(), k_raw.clone());
        self.place(&mut q, &mut k);
        let out = self.part(&block.post_attention_norm, gradient, || {
            let mixed = attention(&q, &k, &v, 0, &self.attention);
            let [out] = block.output.forward(&mixed, threads, &mut Watch(None));
            out
        });
        let mixed = block.output.backward([out], threads, probe);
        let [mut q, mut k, v] = attention_backward(&q, &k, &v, &self.attention, &mixed);
        for (heads, width, raw, norm) in
            [(&mut q, config.query_width(), &q_raw, &block.q_norm), (&mut k, config.kv_width(), &k_raw, &block.k_norm)]
        {
            if let Some((dim, table)) = self.rope {
                rope_backward(heads, config.head_dim, width, dim, table);
            }
            if let Some(norm) = norm {
                *heads = rms_norm_backward(raw, norm, eps, heads);
            }
        }
        let normed = block.qkv.backward([q, k, v], threads, probe);
        add(gradient, &rms_norm_backward(x, &block.attention_norm, eps, &normed));
    }
}
