//! Gradients of the operations that are not matrix products. Rows run in parallel on the current Rayon pool.

use impasto_core::{Isa, at_each_isa};
use rayon::prelude::*;

use crate::config::Activation;
use crate::decoder::exp::{exp, tanh};

/// Returns the gradient of `x` in `rms_norm(x, weight, eps)`, given that of the result.
///
/// With r the inverse root mean square of a row of n values: d x = r w d - r^3 x (w d . x) / n.
pub(super) fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, gradient: &[f32]) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0.0; x.len()];
    let rows = out.par_chunks_mut(width).zip(x.par_chunks(width)).zip(gradient.par_chunks(width));
    rows.for_each(|((out, x), gradient)| {
        let (mut squares, mut dot) = (0.0f64, 0.0f64);
        for (((out, x), w), g) in out.iter_mut().zip(x).zip(weight).zip(gradient) {
            *out = w * g;
            squares += f64::from(x * x);
            dot += f64::from(*out) * f64::from(*x);
        }
        let scale = 1.0 / ((squares / width as f64) as f32 + eps).sqrt();
        let along = (dot / width as f64) as f32 * scale * scale;
        for (out, x) in out.iter_mut().zip(x) {
            *out = scale * (*out - along * x);
        }
    });
    out
}

/// Turns the gradient of the result of `rope` into that of its input, in place: the inverse rotation, with the same
/// factor.
pub(super) fn rope_backward(gradient: &mut [f32], head_dim: usize, width: usize, dim: usize, table: &[(f32, f32)]) {
    let half = dim / 2;
    gradient.par_chunks_mut(width).zip(table.par_chunks(half)).for_each(|(row, angles)| {
        for head in row.chunks_exact_mut(head_dim) {
            let (low, high) = head[..dim].split_at_mut(half);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
            }
        }
    });
}

/// Slope of c tanh(x / c) at the point where its value is `capped`.
pub(super) fn softcap_slope(capped: f32, cap: f32) -> f32 {
    let tanh = capped / cap;
    (1.0 - tanh) * (1.0 + tanh)
}

/// x / (1 + exp(-x)) and its slope.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

/// The tanh approximation of GELU, and its slope.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const SCALE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    const CUBIC: f32 = 0.044715;
    let tanh = tanh(SCALE * (x + CUBIC * (x * x * x)));
    let slope = (1.0 - tanh) * (1.0 + tanh) * SCALE * (1.0 + 3.0 * CUBIC * (x * x));
    (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh + x * slope))
}

at_each_isa! {
    fn gated_row_backward(gate: &mut [f32], up: &mut [f32], gradient: &[f32], activation: Activation) {
        #[inline(always)]
        fn both(gate: &mut f32, up: &mut f32, g: f32, (value, slope): (f32, f32)) {
            (*gate, *up) = (g * *up * slope, g * value);
        }
        let values = gate.iter_mut().zip(up).zip(gradient);
        match activation {
            Activation::Silu => values.for_each(|((gate, up), g)| both(gate, up, *g, silu(*gate))),
            Activation::GeluTanh => values.for_each(|((gate, up), g)| both(gate, up, *g, gelu_tanh(*gate))),
        }
    }
}

/// Replaces `gate` and `up` by their gradients, given the gradient of activation(gate) * up. Rows have `width`
/// elements.
pub(super) fn gated_backward(gate: &mut [f32], up: &mut [f32], width: usize, activation: Activation, gradient: &[f32]) {
    let isa = Isa::best();
    let rows = gate.par_chunks_mut(width).zip(up.par_chunks_mut(width)).zip(gradient.par_chunks(width));
    rows.for_each(|((gate, up), gradient)| gated_row_backward(isa, gate, up, gradient, activation));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::elementwise::{gated, rms_norm, rope};
    use impasto_core::rng::SplitMix64;

    fn random(rng: &mut SplitMix64, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.next_f64() as f32 * 4.0 - 2.0).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// Compares `expected` with the slope of `gradient . f` at `x` along each axis, by finite differences.
    fn check(x: &[f32], gradient: &[f32], expected: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) {
        const STEP: f32 = 1.0 / 128.0;
        for (at, e) in expected.iter().enumerate() {
            let moved = |by: f32| {
                let mut x = x.to_vec();
                x[at] += by;
                dot(&f(&x), gradient)
            };
            let slope = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
            assert!((slope - f64::from(*e)).abs() < 2e-3 * (1.0 + slope.abs()), "{at}: {slope} {e}");
        }
    }

    #[test]
    fn norms_rotations_and_gates_by_differences() {
        let mut rng = SplitMix64::new(8);
        let mut random = |count| random(&mut rng, count);
        let (x, gradient, weight) = (random(18), random(18), random(6));
        check(&x, &gradient, &rms_norm_backward(&x, &weight, 0.1, &gradient), |x| rms_norm(x, &weight, 0.1));

        // Two tokens of three heads of three elements, two of which are rotated, with a scale factor in the table.
        let table: Vec<(f32, f32)> = [(0.3f32, 1.25), (2.0, 1.25)].map(|(a, s)| (a.cos() * s, a.sin() * s)).into();
        let mut turned = gradient.clone();
        rope_backward(&mut turned, 3, 9, 2, &table);
        check(&x, &gradient, &turned, |x| {
            let mut x = x.to_vec();
            rope(&mut x, 3, 9, 2, &table);
            x
        });

        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (mut gate, mut up) = (x.clone(), random(18));
            let (old_gate, old_up) = (gate.clone(), up.clone());
            gated_backward(&mut gate, &mut up, 6, activation, &gradient);
            let f = |gate: &[f32], up: &[f32]| {
                let mut out = gate.to_vec();
                gated(&mut out, up, 6, activation);
                out
            };
            check(&old_gate, &gradient, &gate, |gate| f(gate, &old_up));
            check(&old_up, &gradient, &up, |up| f(&old_gate, up));
        }
    }

    #[test]
    fn slopes_far_out_are_finite() {
        for f in [silu, gelu_tanh] {
            assert_eq!(f(200.0), (200.0, 1.0));
            let (value, slope) = f(-200.0);
            assert!(value.abs() < 1e-30 && slope.abs() < 1e-30);
        }
        assert_eq!((softcap_slope(0.0, 30.0), softcap_slope(30.0, 30.0)), (1.0, 0.0));
    }
}
