//! Dot products of rows of weights with activations, in every format and with every instruction set.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};
use impasto_core::Isa;

/// Number of partial sums of a dot product, fixed so that all instruction sets add in the same order.
const LANES: usize = 32;
/// Number of rows of activations whose dot products with a row of weights are computed together.
const TOGETHER: usize = 4;

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

/// Writes the dot products of each row of `x` with each row of `w` to `out`: rows of `x` x rows of `w`. All rows have
/// `inputs` elements.
///
/// Each uses [`LANES`] partial sums by position, whose halves are added until one sum is left. So all instruction sets
/// give the same bits, for any number of rows.
///
/// # Panics
/// If the slices have other lengths.
pub(super) fn rows<W: Format>(isa: Isa, w: &[W], x: &[f32], inputs: usize, out: &mut [f32]) {
    let (tokens, height) = (x.len() / inputs.max(1), w.len() / inputs.max(1));
    assert!(x.len() == tokens * inputs && w.len() == height * inputs && out.len() == tokens * height, "products");
    for first in (0..tokens).step_by(TOGETHER) {
        let count = TOGETHER.min(tokens - first);
        let (x, out) = (&x[first * inputs..][..count * inputs], &mut out[first * height..][..count * height]);
        match count {
            1 => together::<W, 1>(isa, w, x, inputs, out),
            2 => together::<W, 2>(isa, w, x, inputs, out),
            3 => together::<W, 3>(isa, w, x, inputs, out),
            _ => together::<W, TOGETHER>(isa, w, x, inputs, out),
        }
    }
}

/// [`rows`] for `T` rows of `x`. Each weight is widened once.
fn together<W: Format, const T: usize>(isa: Isa, w: &[W], x: &[f32], inputs: usize, out: &mut [f32]) {
    let height = out.len() / T;
    let x: [&[f32]; T] = std::array::from_fn(|token| &x[token * inputs..][..inputs]);
    let mut write = |row: usize, sums: [f32; T]| {
        sums.into_iter().enumerate().for_each(|(token, sum)| out[token * height + row] = sum);
    };
    let each = w.chunks_exact(inputs.max(1)).enumerate();
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` returned this variant, so the processor supports AVX-512; the guard checks FMA.
        Isa::Avx512 if is_x86_feature_detected!("fma") => each.for_each(|(row, w)| write(row, unsafe { avx512(w, x) })),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => {
            // SAFETY: as above, for AVX2; the guard checks FMA and F16C.
            each.for_each(|(row, w)| write(row, unsafe { avx2(w, x) }));
        }
        _ => each.for_each(|(row, w)| write(row, x.map(|x| portable(w, x)))),
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
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<W: Format, const T: usize>(w: &[W], x: [&[f32]; T]) -> [f32; T] {
    let mut sums = [[_mm256_setzero_ps(); LANES / 8]; T];
    for_chunks(w, x, |w, x| {
        for i in 0..LANES / 8 {
            // SAFETY: the chunks have LANES elements.
            let w = unsafe { W::load8(w.as_ptr().add(8 * i)) };
            for (sums, x) in sums.iter_mut().zip(x) {
                // SAFETY: as above.
                sums[i] = _mm256_fmadd_ps(w, unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) }, sums[i]);
            }
        }
    });
    sums.map(|[a, b, c, d]| sum8(_mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d))))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
fn avx512<W: Format, const T: usize>(w: &[W], x: [&[f32]; T]) -> [f32; T] {
    let mut sums = [[_mm512_setzero_ps(); LANES / 16]; T];
    for_chunks(w, x, |w, x| {
        for i in 0..LANES / 16 {
            // SAFETY: the chunks have LANES elements.
            let w = unsafe { W::load16(w.as_ptr().add(16 * i)) };
            for (sums, x) in sums.iter_mut().zip(x) {
                // SAFETY: as above.
                sums[i] = _mm512_fmadd_ps(w, unsafe { _mm512_loadu_ps(x.as_ptr().add(16 * i)) }, sums[i]);
            }
        }
    });
    sums.map(|[a, b]| {
        let sum = _mm512_add_ps(a, b);
        sum8(_mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum)))
    })
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

/// Calls `each` with every [`LANES`] weights and activations, the last padded with zeros.
#[inline(always)]
fn for_chunks<W: Format, const T: usize>(
    w: &[W],
    x: [&[f32]; T],
    mut each: impl FnMut(&[W; LANES], [&[f32; LANES]; T]),
) {
    let (ws, w) = w.as_chunks();
    let parts = x.map(|x| x.as_chunks());
    let mut last_w = [W::default(); LANES];
    last_w[..w.len()].copy_from_slice(w);
    let last_x: [[f32; LANES]; T] = parts.map(|(_, x)| std::array::from_fn(|i| x.get(i).copied().unwrap_or(0.0)));
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
    fn every_isa_gives_the_same_bits() {
        fn check<W: Format>(of: impl Fn(f32) -> W) {
            let mut rng = SplitMix64::new(3);
            for length in [1, 31, 32, 33, 576, 1001] {
                let mut random = |n: usize| (0..n).map(|_| rng.next_f64() as f32 - 0.5).collect::<Vec<f32>>();
                let (w, x): (Vec<W>, _) = (random(3 * length).into_iter().map(&of).collect(), random(length));
                let mut scalar = [0.0; 3];
                rows(Isa::Scalar, &w, &x, length, &mut scalar);
                for (w, sum) in w.chunks(length).zip(scalar) {
                    let terms = w.iter().zip(&x).map(|(w, x)| f64::from(w.widened()) * f64::from(*x));
                    assert!((f64::from(sum) - terms.sum::<f64>()).abs() < 1e-5);
                }
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                let widened: Vec<f32> = w.iter().map(|w| w.widened()).collect();
                for isa in Isa::available() {
                    let (mut out, mut wide) = ([0.0; 3], vec![0.0; w.len()]);
                    rows(isa, &w, &x, length, &mut out);
                    widen(isa, &w, &mut wide);
                    assert_eq!(bits(&out), bits(&scalar), "{isa}");
                    assert_eq!(bits(&wide), bits(&widened), "{isa}");
                    // Each row of activations has the bits that it has alone.
                    for tokens in [2, 3, 4, 5, 9] {
                        let many: Vec<f32> =
                            (0..tokens).flat_map(|token| x.iter().map(move |x| x * (token + 1) as f32)).collect();
                        let mut out = vec![0.0; 3 * tokens];
                        rows(isa, &w, &many, length, &mut out);
                        for (x, out) in many.chunks(length).zip(out.chunks(3)) {
                            let mut alone = [0.0; 3];
                            rows(Isa::Scalar, &w, x, length, &mut alone);
                            assert_eq!(bits(out), bits(&alone), "{isa} {tokens}");
                        }
                    }
                }
            }
        }
        check(|x| x);
        check(bf16::from_f32);
        check(f16::from_f32);
    }
}
