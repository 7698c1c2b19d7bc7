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
    // As many sums at a time as there are registers for, and then the tokens that are left.
    let tiles = &mut Tiles { w, x, inputs, rows, out };
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("fma") => {
            // SAFETY: `or_scalar` returned this variant, so the processor supports AVX-512; the guard checks FMA.
            tiles.run(|w, x| unsafe { avx512::<W, 2, 6>(w, x) }, |w, x| unsafe { avx512(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx512::<W, 4, 3>(w, x) }, |w, x| unsafe { avx512(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx512::<W, 4, 1>(w, x) }, |w, x| unsafe { avx512(w, x) });
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => {
            // SAFETY: as above, for AVX2; the guard checks FMA and F16C.
            tiles.run(|w, x| unsafe { avx2::<W, 1, 3>(w, x) }, |w, x| unsafe { avx2(w, x) });
            // SAFETY: as above.
            tiles.run(|w, x| unsafe { avx2::<W, 2, 1>(w, x) }, |w, x| unsafe { avx2(w, x) });
        }
        _ => tiles.run(|[w], [x]| [[portable(w, x)]], |[w], [x]| [[portable(w, x)]]),
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
    /// Computes those of `N` tokens with `R` rows of weights at a time by `many`, and with the rows that are left by `one`, for as
    /// many tokens as `N` goes into.
    #[inline(always)]
    fn run<const R: usize, const N: usize>(
        &mut self,
        many: impl Fn([&[W]; R], [&[f32]; N]) -> [[f32; N]; R],
        one: impl Fn([&[W]; 1], [&[f32]; N]) -> [[f32; N]; 1],
    ) {
        let Tiles { w, inputs, rows, .. } = *self;
        let count = self.x.len() / inputs / N * N;
        let (x, x_left) = self.x.split_at(count * inputs);
        let (out, out_left) = std::mem::take(&mut self.out).split_at_mut(count * rows);
        for (x, out) in x.chunks_exact(N * inputs).zip(out.chunks_exact_mut(N * rows)) {
            let x: [&[f32]; N] = std::array::from_fn(|token| &x[token * inputs..(token + 1) * inputs]);
            let mut write = |first: usize, sums: &[[f32; N]]| {
                for (row, sums) in (first..).zip(sums) {
                    sums.iter().enumerate().for_each(|(token, sum)| out[token * rows + row] = *sum);
                }
            };
            let whole = rows / R * R;
            for row in (0..whole).step_by(R) {
                write(row, &many(std::array::from_fn(|r| &w[(row + r) * inputs..(row + r + 1) * inputs]), x));
            }
            for row in whole..rows {
                write(row, &one([&w[row * inputs..(row + 1) * inputs]], x));
            }
        }
        (self.x, self.out) = (x_left, out_left);
    }
}

fn portable<W: Format>(w: &[W], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (w, x) in w.chunks(LANES).zip(x.chunks(LANES)) {
        for (sum, (w, x)) in sums.iter_mut().zip(w.iter().zip(x)) {
            *sum = w.widened().mul_add(*x, *sum);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
        half /= 2;
    }
    sums[0]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<W: Format, const R: usize, const N: usize>(w: [&[W]; R], x: [&[f32]; N]) -> [[f32; N]; R] {
    /// Adds [`LANES`] products of each pair of rows.
    ///
    /// # Safety
    /// All pointers are to LANES elements.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<W: Format, const R: usize, const N: usize>(
        w: [*const W; R],
        x: [*const f32; N],
        sums: &mut [[[__m256; LANES / 8]; N]; R],
    ) {
        for i in 0..LANES / 8 {
            // SAFETY: the caller guarantees that the weights can be read.
            let w = w.map(|w| unsafe { W::load8(w.add(8 * i)) });
            for (token, x) in x.into_iter().enumerate() {
                // SAFETY: as above, for activations.
                let x = unsafe { _mm256_loadu_ps(x.add(8 * i)) };
                for (sums, w) in sums.iter_mut().zip(w) {
                    sums[token][i] = _mm256_fmadd_ps(w, x, sums[token][i]);
                }
            }
        }
    }
    let length = length(w, x);
    let mut sums = [[[_mm256_setzero_ps(); LANES / 8]; N]; R];
    let whole = length / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        // SAFETY: `at + LANES` is at most the length of all rows.
        unsafe { add(w.map(|w| w.as_ptr().add(at)), x.map(|x| x.as_ptr().add(at)), &mut sums) };
    }
    if whole < length {
        let (w, x) = (w.map(|w| padded(&w[whole..])), x.map(|x| padded(&x[whole..])));
        // SAFETY: the arrays have LANES elements.
        unsafe { add(w.each_ref().map(|w| w.as_ptr()), x.each_ref().map(|x| x.as_ptr()), &mut sums) };
    }
    sums.map(|sums| sums.map(|[a, b, c, d]| sum8(_mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d)))))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
fn avx512<W: Format, const R: usize, const N: usize>(w: [&[W]; R], x: [&[f32]; N]) -> [[f32; N]; R] {
    /// Adds [`LANES`] products of each pair of rows.
    ///
    /// # Safety
    /// All pointers are to LANES elements.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
    unsafe fn add<W: Format, const R: usize, const N: usize>(
        w: [*const W; R],
        x: [*const f32; N],
        sums: &mut [[[__m512; LANES / 16]; N]; R],
    ) {
        for i in 0..LANES / 16 {
            // SAFETY: the caller guarantees that the weights can be read.
            let w = w.map(|w| unsafe { W::load16(w.add(16 * i)) });
            for (token, x) in x.into_iter().enumerate() {
                // SAFETY: as above, for activations.
                let x = unsafe { _mm512_loadu_ps(x.add(16 * i)) };
                for (sums, w) in sums.iter_mut().zip(w) {
                    sums[token][i] = _mm512_fmadd_ps(w, x, sums[token][i]);
                }
            }
        }
    }
    let length = length(w, x);
    let mut sums = [[[_mm512_setzero_ps(); LANES / 16]; N]; R];
    let whole = length / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        // SAFETY: `at + LANES` is at most the length of all rows.
        unsafe { add(w.map(|w| w.as_ptr().add(at)), x.map(|x| x.as_ptr().add(at)), &mut sums) };
    }
    if whole < length {
        let (w, x) = (w.map(|w| padded(&w[whole..])), x.map(|x| padded(&x[whole..])));
        // SAFETY: the arrays have LANES elements.
        unsafe { add(w.each_ref().map(|w| w.as_ptr()), x.each_ref().map(|x| x.as_ptr()), &mut sums) };
    }
    sums.map(|sums| {
        sums.map(|[a, b]| {
            let sum = _mm512_add_ps(a, b);
            sum8(_mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum)))
        })
    })
}

/// Returns the length of all rows.
///
/// # Panics
/// If they have not the same.
#[cfg(target_arch = "x86_64")]
fn length<W, const R: usize, const N: usize>(w: [&[W]; R], x: [&[f32]; N]) -> usize {
    let length = w.first().map_or(0, |w| w.len());
    assert!(w.iter().all(|w| w.len() == length) && x.iter().all(|x| x.len() == length), "rows of one length");
    length
}

/// Returns at most [`LANES`] elements, padded with zeros.
#[cfg(target_arch = "x86_64")]
fn padded<T: Copy + Default>(elements: &[T]) -> [T; LANES] {
    let mut padded = [T::default(); LANES];
    padded[..elements.len()].copy_from_slice(elements);
    padded
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
