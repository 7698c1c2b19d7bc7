//! Portable lanes, which are the reference for the others.

use half::{bf16, f16};

use super::{Kernel, Lanes, WIDTH};

/// Sixteen floats in an array.
#[derive(Clone, Copy)]
pub(in super::super) struct Scalar;

type V = [f32; WIDTH];

fn each(f: impl Fn(usize) -> f32) -> V {
    std::array::from_fn(f)
}

impl Lanes for Scalar {
    type V = V;
    const ROWS: usize = 1;

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    fn splat(self, x: f32) -> V {
        [x; WIDTH]
    }

    fn load(self, from: &[f32; 16]) -> V {
        *from
    }

    fn store(self, to: &mut [f32; 16], v: V) {
        *to = v;
    }

    fn load_f32(self, from: &[u8; 64]) -> V {
        let parts = from.as_chunks::<4>().0;
        each(|i| f32::from_ne_bytes(parts[i]))
    }

    fn load_f16(self, from: &[u8; 32]) -> V {
        let parts = from.as_chunks::<2>().0;
        each(|i| f16::from_ne_bytes(parts[i]).to_f32())
    }

    fn load_bf16(self, from: &[u8; 32]) -> V {
        let parts = from.as_chunks::<2>().0;
        each(|i| bf16::from_ne_bytes(parts[i]).to_f32())
    }

    fn load_i8(self, from: &[u8; 16]) -> V {
        from.map(|b| f32::from(b as i8))
    }

    fn load_i4(self, from: &[u8; 16]) -> [V; 2] {
        [from.map(|b| f32::from(b & 15) - 8.0), from.map(|b| f32::from(b >> 4) - 8.0)]
    }

    fn add(self, a: V, b: V) -> V {
        each(|i| a[i] + b[i])
    }

    fn sub(self, a: V, b: V) -> V {
        each(|i| a[i] - b[i])
    }

    fn mul(self, a: V, b: V) -> V {
        each(|i| a[i] * b[i])
    }

    fn div(self, a: V, b: V) -> V {
        each(|i| a[i] / b[i])
    }

    fn fma(self, a: V, b: V, c: V) -> V {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    fn max(self, a: V, b: V) -> V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    fn min(self, a: V, b: V) -> V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    fn round(self, a: V) -> V {
        each(|i| a[i].round_ties_even())
    }

    fn power_of_two(self, n: V) -> V {
        each(|i| f32::from_bits((n[i] as i32).wrapping_add(127).cast_unsigned() << 23))
    }

    fn zero_below(self, x: V, limit: V, v: V) -> V {
        each(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }

    fn keep(self, v: V, from: usize, to: usize) -> V {
        each(|i| if (from..to).contains(&i) { v[i] } else { f32::NEG_INFINITY })
    }

    fn prefetch(self, _: *const u8) {}

    fn largest(self, v: V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
