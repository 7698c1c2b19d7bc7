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

/// Writes the dot product of each row of `w` with `x` to `out`.
///
/// Each uses [`LANES`] partial sums by position, whose halves are added until one sum is left. So all instruction sets
/// give the same bits.
///
/// # Panics
/// Unless `w` has one row for each element of `out`, each as long as `x`.
pub(super) fn rows<W: Format>(isa: Isa, w: &[W], x: &[f32], out: &mut [f32]) {
    assert_eq!(w.len(), x.len() * out.len(), "rows of weights");
    let each = w.chunks_exact(x.len().max(1)).zip(out);
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` returned this variant, so the processor supports AVX-512; the guard checks FMA.
        Isa::Avx512 if is_x86_feature_detected!("fma") => each.for_each(|(w, out)| *out = unsafe { avx512(w, x) }),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => {
            // SAFETY: as above, for AVX2; the guard checks FMA and F16C.
            each.for_each(|(w, out)| *out = unsafe { avx2(w, x) });
        }
        _ => each.for_each(|(w, out)| *out = portable(w, x)),
    }
}

fn portable<W: Format>(w: &[W], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for_chunks(w, x, |w, x| {
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
fn avx2<W: Format>(w: &[W], x: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); LANES / 8];
    for_chunks(w, x, |w, x| {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the chunks have LANES elements.
            let (w, x) = unsafe { (W::load8(w.as_ptr().add(8 * i)), _mm256_loadu_ps(x.as_ptr().add(8 * i))) };
            *sum = _mm256_fmadd_ps(w, x, *sum);
        }
    });
    let [a, b, c, d] = sums;
    sum8(_mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
fn avx512<W: Format>(w: &[W], x: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); LANES / 16];
    for_chunks(w, x, |w, x| {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the chunks have LANES elements.
            let (w, x) = unsafe { (W::load16(w.as_ptr().add(16 * i)), _mm512_loadu_ps(x.as_ptr().add(16 * i))) };
            *sum = _mm512_fmadd_ps(w, x, *sum);
        }
    });
    let sum = _mm512_add_ps(sums[0], sums[1]);
    sum8(_mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps::<1>(sum)))
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
fn for_chunks<W: Format>(w: &[W], x: &[f32], mut each: impl FnMut(&[W; LANES], &[f32; LANES])) {
    let ((ws, w), (xs, x)) = (w.as_chunks(), x.as_chunks());
    for (w, x) in ws.iter().zip(xs) {
        each(w, x);
    }
    if !w.is_empty() {
        let (mut last_w, mut last_x) = ([W::default(); LANES], [0.0; LANES]);
        last_w[..w.len()].copy_from_slice(w);
        last_x[..x.len()].copy_from_slice(x);
        each(&last_w, &last_x);
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
                rows(Isa::Scalar, &w, &x, &mut scalar);
                for (w, sum) in w.chunks(length).zip(scalar) {
                    let terms = w.iter().zip(&x).map(|(w, x)| f64::from(w.widened()) * f64::from(*x));
                    assert!((f64::from(sum) - terms.sum::<f64>()).abs() < 1e-5);
                }
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                let widened: Vec<f32> = w.iter().map(|w| w.widened()).collect();
                for isa in Isa::available() {
                    let (mut out, mut wide) = ([0.0; 3], vec![0.0; w.len()]);
                    rows(isa, &w, &x, &mut out);
                    widen(isa, &w, &mut wide);
                    assert_eq!(bits(&out), bits(&scalar), "{isa}");
                    assert_eq!(bits(&wide), bits(&widened), "{isa}");
                }
            }
        }
        check(|x| x);
        check(bf16::from_f32);
        check(f16::from_f32);
    }
}
