//! Dot products of rows of weights with activations, in every format and with every instruction set.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};
use impasto_core::Isa;

/// Number of partial sums of a dot product, fixed so that all instruction sets add in the same order.
const LANES: usize = 32;

/// A format of weights. Zero bytes are the weight 0.
pub(super) trait Format: Copy + Default {
    fn widened(self) -> f32;

    /// Returns 8 weights.
    ///
    /// # Safety
    /// `at` points to 8 weights; the processor supports AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load8(at: *const Self) -> __m256;

    /// Returns 16 weights.
    ///
    /// # Safety
    /// `at` points to 16 weights; the processor supports AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load16(at: *const Self) -> __m512;
}

impl Format for f32 {
    fn widened(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(at: *const f32) -> __m256 {
        // SAFETY: the caller guarantees that the weights can be read.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(at: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(at) }
    }
}

impl Format for bf16 {
    fn widened(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(at: *const bf16) -> __m256 {
        // SAFETY: the caller guarantees that the weights can be read.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(at: *const bf16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())))) }
    }
}

impl Format for f16 {
    fn widened(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(at: *const f16) -> __m256 {
        // SAFETY: the caller guarantees that the weights can be read.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load16(at: *const f16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }
}

/// Writes the dot product of each row of `x` with each row of `w` to `out`: rows of `x` x rows of `w`. All rows have `inputs`
/// elements.
///
/// Each uses [`LANES`] partial sums by position, whose halves are added until one sum is left. So it depends neither on the
/// instruction set nor on what is computed beside it.
///
/// # Panics
/// Unless the rows are whole, and `out` has one element for each product.
pub(super) fn products<W: Format>(isa: Isa, w: &[W], x: &[f32], inputs: usize, out: &mut [f32]) {
    let inputs = inputs.max(1);
    let (rows, tokens) = (w.len() / inputs, x.len() / inputs);
    assert!(w.len() == rows * inputs && x.len() == tokens * inputs && out.len() == tokens * rows, "whole rows");
    if rows == 0 {
        return;
    }
    // As many tokens at a time as there are registers for, and then what is left.
    let tiles = &mut Tiles { w, x, inputs, rows, out };
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("fma") => {
            // SAFETY: `or_scalar` returned this variant, so the processor supports AVX-512; the guard checks FMA.
            tiles.run(|w, x| unsafe { avx512::<W, 8>(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx512::<W, 4>(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx512::<W, 2>(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx512::<W, 1>(w, x) });
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => {
            // SAFETY: as above, for AVX2; the guard checks FMA and F16C.
            tiles.run(|w, x| unsafe { avx2::<W, 3>(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx2::<W, 2>(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx2::<W, 1>(w, x) });
        }
        _ => tiles.run(|w, [x]| [portable(w, x)]),
    }
}

/// Products that are left to compute.
struct Tiles<'a, W> {
    w: &'a [W],
    x: &'a [f32],
    inputs: usize,
    rows: usize,
    out: &'a mut [f32],
}

impl<W> Tiles<'_, W> {
    /// Computes those of `N` tokens with a row of weights at a time, for as many tokens as `N` goes into.
    #[inline(always)]
    fn run<const N: usize>(&mut self, dot: impl Fn(&[W], [&[f32]; N]) -> [f32; N]) {
        let Tiles { w, inputs, rows, .. } = *self;
        let count = self.x.len() / inputs / N * N;
        let (x, x_left) = self.x.split_at(count * inputs);
        let (out, out_left) = std::mem::take(&mut self.out).split_at_mut(count * rows);
        for (x, out) in x.chunks_exact(N * inputs).zip(out.chunks_exact_mut(N * rows)) {
            let x: [&[f32]; N] = std::array::from_fn(|token| &x[token * inputs..(token + 1) * inputs]);
            for (row, w) in w.chunks_exact(inputs).enumerate() {
                dot(w, x).into_iter().enumerate().for_each(|(token, sum)| out[token * rows + row] = sum);
            }
        }
        (self.x, self.out) = (x_left, out_left);
    }
}

fn portable<W: Format>(w: &[W], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for_chunks(w, [x], |w, [x]| {
        for (sum, (w, x)) in sums.iter_mut().zip(w.iter().zip(x)) {
            *sum = w.widened().mul_add(*x, *sum);
        }
    });
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
        half /= 2;
    }
    sums[0]
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "two arrays, by token")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<W: Format, const N: usize>(w: &[W], x: [&[f32]; N]) -> [f32; N] {
    assert!(x.iter().all(|x| x.len() == w.len()), "rows of one length");
    let mut sums = [[_mm256_setzero_ps(); LANES / 8]; N];
    let whole = w.len() / LANES * LANES;
    // Plain loops over pointers keep the sums in registers.
    for at in (0..whole).step_by(LANES) {
        for i in 0..LANES / 8 {
            // SAFETY: `at + LANES` is at most the length of all rows.
            let weights = unsafe { W::load8(w.as_ptr().add(at + 8 * i)) };
            for token in 0..N {
                // SAFETY: as above.
                let x = unsafe { _mm256_loadu_ps(x[token].as_ptr().add(at + 8 * i)) };
                sums[token][i] = _mm256_fmadd_ps(weights, x, sums[token][i]);
            }
        }
    }
    if whole < w.len() {
        let (last_w, last_x) = padded(&w[whole..], x.map(|x| &x[whole..]));
        for i in 0..LANES / 8 {
            // SAFETY: the buffers have LANES elements.
            let weights = unsafe { W::load8(last_w.as_ptr().add(8 * i)) };
            for token in 0..N {
                // SAFETY: as above.
                let x = unsafe { _mm256_loadu_ps(last_x[token].as_ptr().add(8 * i)) };
                sums[token][i] = _mm256_fmadd_ps(weights, x, sums[token][i]);
            }
        }
    }
    sums.map(|[a, b, c, d]| sum8(_mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d))))
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "two arrays, by token")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
fn avx512<W: Format, const N: usize>(w: &[W], x: [&[f32]; N]) -> [f32; N] {
    assert!(x.iter().all(|x| x.len() == w.len()), "rows of one length");
    let mut sums = [[_mm512_setzero_ps(); LANES / 16]; N];
    let whole = w.len() / LANES * LANES;
    // As in `avx2`.
    for at in (0..whole).step_by(LANES) {
        for i in 0..LANES / 16 {
            // SAFETY: `at + LANES` is at most the length of all rows.
            let weights = unsafe { W::load16(w.as_ptr().add(at + 16 * i)) };
            for token in 0..N {
                // SAFETY: as above.
                let x = unsafe { _mm512_loadu_ps(x[token].as_ptr().add(at + 16 * i)) };
                sums[token][i] = _mm512_fmadd_ps(weights, x, sums[token][i]);
            }
        }
    }
    if whole < w.len() {
        let (last_w, last_x) = padded(&w[whole..], x.map(|x| &x[whole..]));
        for i in 0..LANES / 16 {
            // SAFETY: the buffers have LANES elements.
            let weights = unsafe { W::load16(last_w.as_ptr().add(16 * i)) };
            for token in 0..N {
                // SAFETY: as above.
                let x = unsafe { _mm512_loadu_ps(last_x[token].as_ptr().add(16 * i)) };
                sums[token][i] = _mm512_fmadd_ps(weights, x, sums[token][i]);
            }
        }
    }
    sums.map(|[a, b]| {
        let sum = _mm512_add_ps(a, b);
        sum8(_mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum)))
    })
}

/// Returns less than [`LANES`] weights and the activations of all tokens there, padded with zeros.
#[cfg(target_arch = "x86_64")]
fn padded<W: Format, const N: usize>(w: &[W], x: [&[f32]; N]) -> ([W; LANES], [[f32; LANES]; N]) {
    let (mut last_w, mut last_x) = ([W::default(); LANES], [[0.0; LANES]; N]);
    last_w[..w.len()].copy_from_slice(w);
    last_x.iter_mut().zip(x).for_each(|(to, x)| to[..x.len()].copy_from_slice(x));
    (last_w, last_x)
}

/// Adds 8 lanes: halves until one is left.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn sum8(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

/// Calls `each` with every [`LANES`] weights, and the activations of all tokens there, the last padded with zeros.
#[inline(always)]
fn for_chunks<W: Format, const N: usize>(
    w: &[W],
    x: [&[f32]; N],
    mut each: impl FnMut(&[W; LANES], [&[f32; LANES]; N]),
) {
    let (ws, w) = w.as_chunks();
    let parts = x.map(|x| x.as_chunks());
    let mut last_w = [W::default(); LANES];
    last_w[..w.len()].copy_from_slice(w);
    let last_x: [[f32; LANES]; N] = parts.map(|(_, x)| std::array::from_fn(|i| x.get(i).copied().unwrap_or(0.0)));
    // One call, which is inlined: with two, the sums of several rows would not stay in registers.
    for i in 0..ws.len() + usize::from(!w.is_empty()) {
        let (w, x) = match ws.get(i) {
            Some(w) => (w, parts.map(|(xs, _)| &xs[i])),
            None => (&last_w, last_x.each_ref()),
        };
        each(w, x);
    }
}

/// Converts weights to binary32.
///
/// # Panics
/// If `out` has another length than `w`.
pub(super) fn widen<W: Format>(isa: Isa, w: &[W], out: &mut [f32]) {
    assert_eq!(w.len(), out.len(), "one float per weight");
    let portable = |w: &[W], out: &mut [f32]| out.iter_mut().zip(w).for_each(|(out, w)| *out = w.widened());
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 if is_x86_feature_detected!("f16c") => {
            let ((w, w_rest), (out, out_rest)) = (w.as_chunks(), out.as_chunks_mut());
            // SAFETY: `or_scalar` returned a variant with AVX2; the guard checks F16C.
            unsafe { widen_avx2(w, out) };
            portable(w_rest, out_rest);
        }
        _ => portable(w, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_avx2<W: Format>(w: &[[W; 8]], out: &mut [[f32; 8]]) {
    for (w, out) in w.iter().zip(out) {
        // SAFETY: both arrays have 8 elements.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), W::load8(w.as_ptr())) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::rng::SplitMix64;

    #[test]
    fn every_isa_gives_the_same_bits_for_many_tokens_and_for_one() {
        fn check<W: Format>(of: impl Fn(f32) -> W) {
            let mut rng = SplitMix64::new(3);
            for length in [1, 31, 32, 33, 576, 1001] {
                let mut random = |n: usize| (0..n).map(|_| rng.next_f64() as f32 - 0.5).collect::<Vec<f32>>();
                let (w, x): (Vec<W>, _) = (random(3 * length).into_iter().map(&of).collect(), random(11 * length));
                let mut scalar = [0.0; 33];
                products(Isa::Scalar, &w, &x, length, &mut scalar);
                for (x, sums) in x.chunks(length).zip(scalar.chunks(3)) {
                    for (w, sum) in w.chunks(length).zip(sums) {
                        let terms = w.iter().zip(x).map(|(w, x)| f64::from(w.widened()) * f64::from(*x));
                        assert!((f64::from(*sum) - terms.sum::<f64>()).abs() < 1e-5);
                    }
                }
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                let widened: Vec<f32> = w.iter().map(|w| w.widened()).collect();
                for isa in Isa::available() {
                    let (mut out, mut wide) = ([0.0; 33], vec![0.0; w.len()]);
                    products(isa, &w, &x, length, &mut out);
                    widen(isa, &w, &mut wide);
                    assert_eq!(bits(&out), bits(&scalar), "{isa}");
                    // Each token alone.
                    for (x, many) in x.chunks(length).zip(out.chunks(3)) {
                        let mut alone = [0.0; 3];
                        products(isa, &w, x, length, &mut alone);
                        assert_eq!(bits(&alone), bits(many), "{isa}");
                    }
                    assert_eq!(bits(&wide), bits(&widened), "{isa}");
                }
            }
        }
        check(|x| x);
        check(bf16::from_f32);
        check(f16::from_f32);
    }
}
