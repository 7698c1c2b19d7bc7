//! The two halves of a block backwards: each turns the gradient of the residual stream behind it into that before it.

use rayon::prelude::*;

use super::attention::attention_backward;
use super::elementwise::{gated_backward, rms_norm_backward, rope_backward};
use crate::GradientProbe;
use crate::decoder::block::{Half, Step};
use crate::decoder::elementwise::{add, gated};
use crate::decoder::projection::Watch;

impl Step<'_> {
    /// A half whose input was `x`, whole windows of `window` tokens: turns the gradient of the residual stream behind it
    /// into that before it.
    pub(super) fn half_backward(
        &self,
        half: Half,
        x: &[f32],
        window: usize,
        gradient: &mut [f32],
        probe: &mut dyn GradientProbe,
    ) {
        match half {
            Half::Attention => self.attention_backward(x, window, gradient, probe),
            Half::Mlp => self.mlp_backward(x, gradient, probe),
        }
    }

    /// The gradient of what a half returns, given that of the stream it is added to; `out` is what goes into the norm
    /// between the two, where there is one.
    fn part(&self, norm: &Option<Vec<f32>>, gradient: &[f32], out: impl FnOnce() -> Vec<f32>) -> Vec<f32> {
        match norm {
            Some(norm) => rms_norm_backward(&out(), norm, self.config.rms_norm_eps, gradient),
            None => gradient.to_vec(),
        }
    }

    fn mlp_backward(&self, x: &[f32], gradient: &mut [f32], probe: &mut dyn GradientProbe) {
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

    fn attention_backward(&self, x: &[f32], window: usize, gradient: &mut [f32], probe: &mut dyn GradientProbe) {
        let Self { block, config, threads, .. } = *self;
        let eps = config.rms_norm_eps;
        let [q_raw, k_raw, v] = self.project(x, &mut Watch(None));
        let (mut q, mut k) = (q_raw.clone(), k_raw.clone());
        self.place(&mut q, &mut k);
        let out = self.part(&block.post_attention_norm, gradient, || {
            let mixed = self.attend(&q, &k, &v, window);
            let [out] = block.output.forward(&mixed, threads, &mut Watch(None));
            out
        });
        let mixed = block.output.backward([out], threads, probe);
        let [mut q, mut k, v] = self.attend_backward(&q, &k, &v, window, &mixed);
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
    /// Attention inside each window by itself: gradients of queries, keys and values, given that of what it makes of them.
    fn attend_backward(&self, q: &[f32], k: &[f32], v: &[f32], window: usize, gradient: &[f32]) -> [Vec<f32>; 3] {
        let (query, kv) = (window * self.config.query_width(), window * self.config.kv_width());
        let windows = q.par_chunks(query).zip(k.par_chunks(kv)).zip(v.par_chunks(kv)).zip(gradient.par_chunks(query));
        let parts: Vec<[Vec<f32>; 3]> =
            windows.map(|(((q, k), v), g)| attention_backward(q, k, v, &self.attention, g)).collect();
        std::array::from_fn(|which| parts.iter().map(|part| part[which].as_slice()).collect::<Vec<_>>().concat())
    }
}
