//! The operations of a block that are not matrix products. Rows run in parallel on the current Rayon pool.

use impasto_core::{Isa, at_each_isa};
use rayon::prelude::*;

use super::exp::{capped, exp, tanh};
use crate::config::{Activation, Rope};

/// `x += y`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// RMSNorm (Zhang and Sennrich, arXiv 1910.07467): each row divided by its root mean square, times `weight`.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(out, x)| {
        let mean = x.iter().map(|v| f64::from(v * v)).sum::<f64>() / width as f64;
        let scale = 1.0 / (mean as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = w * (x * scale);
        }
    });
    out
}

/// `x = cap * tanh(x / cap)`.
pub(super) fn softcap(x: &mut [f32], cap: f32) {
    capped(Isa::best(), x, cap);
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SCALE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    0.5 * x * (1.0 + tanh(SCALE * (x + 0.044715 * (x * x * x))))
}

at_each_isa! {
    fn gated_row(gate: &mut [f32], up: &[f32], activation: Activation) {
        let values = gate.iter_mut().zip(up);
        match activation {
            Activation::Silu => values.for_each(|(g, u)| *g = silu(*g) * u),
            Activation::GeluTanh => values.for_each(|(g, u)| *g = gelu_tanh(*g) * u),
        }
    }
}

/// Gated linear unit (Shazeer, arXiv 2002.05202): `gate = activation(gate) * up`. Rows have `width` elements.
pub(super) fn gated(gate: &mut [f32], up: &[f32], width: usize, activation: Activation) {
    let isa = Isa::best();
    let rows = gate.par_chunks_mut(width).zip(up.par_chunks(width));
    rows.for_each(|(gate, up)| gated_row(isa, gate, up, activation));
}

/// Cosine and sine of each rotary angle for `tokens` positions from `past` on, in a context of `total` tokens: tokens x
/// dim / 2 pairs.
pub(super) fn rope_table(past: usize, tokens: usize, total: usize, rope: &Rope) -> Vec<(f32, f32)> {
    rope.angles(&rope.frequencies(total), past..past + tokens).collect()
}

/// Rotary position embedding (Su et al., arXiv 2104.09864): rotates the first `dim` elements of each head, element i
/// together with element i + dim / 2. `x` is tokens x `width`, `table` tokens x dim / 2.
pub(super) fn rope(x: &mut [f32], head_dim: usize, width: usize, dim: usize, table: &[(f32, f32)]) {
    let rows = x.par_chunks_mut(width).zip(table.par_chunks(dim / 2));
    rows.for_each(|(row, angles)| {
        for head in row.chunks_exact_mut(head_dim) {
            let (low, high) = head[..dim].split_at_mut(dim / 2);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Scaling;

    #[test]
    fn rms_norm_by_hand() {
        let out = rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], 0.0);
        let rms = 12.5f32.sqrt();
        assert!((out[0] - 3.0 / rms).abs() < 1e-6 && (out[1] - 8.0 / rms).abs() < 1e-6);
        assert!(out[2].is_nan(), "a zero row with no eps has no norm");
        assert_eq!(rms_norm(&[0.0, 0.0], &[1.0, 1.0], 1e-5), [0.0, 0.0]);
    }

    #[test]
    fn rotation_keeps_norms_and_depends_on_distance_alone() {
        let (q, k) = ([0.3f32, -1.2, 0.7, 2.0, 5.0], [1.0f32, 0.4, -0.6, 0.1, 3.0]);
        let positions = Rope { theta: 100.0, dim: 4, scale: 1.0, scaling: Scaling::None };
        let dot_at = |pq: usize, pk: usize| {
            let (mut q, mut k) = (q, k);
            rope(&mut q, 5, 5, 4, &rope_table(pq, 1, pq + 1, &positions));
            rope(&mut k, 5, 5, 4, &rope_table(pk, 1, pk + 1, &positions));
            assert_eq!((q[4], k[4]), (5.0, 3.0), "elements past dim are unchanged");
            q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>()
        };
        assert!((dot_at(9, 4) - dot_at(25, 20)).abs() < 1e-5);
        assert!((dot_at(7, 7) - q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>()).abs() < 1e-5);
        assert!((dot_at(9, 4) - dot_at(9, 3)).abs() > 1e-2);
    }

    #[test]
    fn gate_limits() {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut gate = [0.0, 100.0, -100.0];
            gated(&mut gate, &[5.0, 2.0, 3.0], 3, activation);
            assert_eq!(gate[0], 0.0);
            assert_eq!(gate[1], 200.0);
            assert!(gate[2].abs() < 1e-30);
        }
        // x Phi(x), within the error of the approximation.
        assert!((gelu_tanh(1.0) - 0.841_345).abs() < 3e-4 && (gelu_tanh(-0.5) + 0.154_269).abs() < 3e-4);
    }

    #[test]
    fn caps() {
        let mut x = [0.01, 1e6, -1e6];
        softcap(&mut x, 30.0);
        assert!((x[0] - 0.01).abs() < 1e-6);
        assert_eq!(x[1..], [30.0, -30.0]);
    }
}
