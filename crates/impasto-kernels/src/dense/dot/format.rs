//! Formats of weights, and their conversion to binary32.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};
use impasto_core::Isa;

/// A format of weights. Zero bytes are the weight 0.
pub(in crate::dense) trait Format: Copy + Default {
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

/// Converts weights to binary32.
///
/// # Panics
/// If `out` has another length than `w`.
pub(in crate::dense) fn widen<W: Format>(isa: Isa, w: &[W], out: &mut [f32]) {
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
