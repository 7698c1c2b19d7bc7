//! The matrix product at the core of Cholesky factorization and error feedback.
//!
//! Each result is a sum of products in a fixed order. Each product is added by a fused multiply-add, which IEEE 754
//! defines to the bit, and the lanes of a vector are separate results, never parts of one sum. Results are therefore the
//! same on every processor and for every vector width; the versions below differ only in speed.

use std::ops::AddAssign;

/// Results in a row of the product.
pub const WIDTH: usize = 16;

/// A row of [`WIDTH`] numbers.
pub type Row<T> = [T; WIDTH];

/// A number: `f32` or `f64`.
pub trait Real: Copy + AddAssign + Send + Sync {
    /// Returns `self + a * b`, rounded once.
    fn plus(self, a: Self, b: Self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn plus(self, a: f32, b: f32) -> f32 {
        a.mul_add(b, self)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn plus(self, a: f64, b: f64) -> f64 {
        a.mul_add(b, self)
    }
}

/// Adds to each `out[i]` the sum over `k` of `a[i * stride + k] * b[k]`. Each sum is computed first, with `k`
/// ascending.
///
/// Row `i` of `a` is the `b.len()` numbers from `i * stride` on. `zero` is the zero of `T`.
pub fn multiply_add<T: Real>(out: &mut [Row<T>], a: &[T], stride: usize, b: &[Row<T>], zero: T) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor supports AVX-512F, as just checked.
            return unsafe { avx512(out, a, stride, b, zero) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor supports AVX2 and FMA, as just checked.
            return unsafe { avx2(out, a, stride, b, zero) };
        }
    }
    portable::<T, 4>(out, a, stride, b, zero);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<T: Real>(out: &mut [Row<T>], a: &[T], stride: usize, b: &[Row<T>], zero: T) {
    portable::<T, 12>(out, a, stride, b, zero);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Real>(out: &mut [Row<T>], a: &[T], stride: usize, b: &[Row<T>], zero: T) {
    portable::<T, 4>(out, a, stride, b, zero);
}

/// The product with `TALL` rows accumulated together: about as many as fit in the registers.
#[inline(always)]
fn portable<T: Real, const TALL: usize>(out: &mut [Row<T>], a: &[T], stride: usize, b: &[Row<T>], zero: T) {
    let n = b.len();
    let mut groups = out.chunks_exact_mut(TALL);
    let mut first = 0;
    for out in &mut groups {
        let rows: [&[T]; TALL] = std::array::from_fn(|i| &a[(first + i) * stride..][..n]);
        let mut sums = [[zero; WIDTH]; TALL];
        // Indices, since a call of `zip` here costs as much as the arithmetic where it is not inlined.
        for k in 0..n {
            let b = b[k];
            for i in 0..TALL {
                let a = rows[i][k];
                for lane in 0..WIDTH {
                    sums[i][lane] = sums[i][lane].plus(a, b[lane]);
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            for (out, sum) in out.iter_mut().zip(sum) {
                *out += sum;
            }
        }
        first += TALL;
    }
    for (i, out) in groups.into_remainder().iter_mut().enumerate() {
        let row = &a[(first + i) * stride..][..n];
        let mut sum = [zero; WIDTH];
        for (&a, b) in row.iter().zip(b) {
            for (sum, &b) in sum.iter_mut().zip(b) {
                *sum = sum.plus(a, b);
            }
        }
        for (out, sum) in out.iter_mut().zip(sum) {
            *out += sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The same bits as the simplest loop, on any processor.
        #[test]
        fn equals_its_definition(rows in 0usize..20, n in 0usize..40, spare in 0usize..3, seed in 0u64..1000) {
            let mut state = seed * 77 + 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / 1e6 - 8.0
            };
            let stride = n + spare;
            let a: Vec<f32> = (0..rows * stride).map(|_| next()).collect();
            let b: Vec<Row<f32>> = (0..n).map(|_| std::array::from_fn(|_| next())).collect();
            let mut out: Vec<Row<f32>> = (0..rows).map(|_| std::array::from_fn(|_| next())).collect();
            let mut expected = out.clone();
            for (i, row) in expected.iter_mut().enumerate() {
                for (lane, value) in row.iter_mut().enumerate() {
                    let mut sum = 0.0f32;
                    for k in 0..n {
                        sum = a[i * stride + k].mul_add(b[k][lane], sum);
                    }
                    *value += sum;
                }
            }
            multiply_add(&mut out, &a, stride, &b, 0.0);
            prop_assert_eq!(out, expected);
        }
    }
}
