//! Lanes in one register of AVX-512.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX-512 F, BW, DQ and VL.
pub(in super::super) struct Avx512;

type V = __m512;

// SAFETY of all below: the caller vouches for the features and for what pointers lead to.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx512 {
    type V = V;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> V {
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(at: *mut f32, v: V) {
        unsafe { _mm512_storeu_ps(at, v) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> V {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_i8(at: *const u8) -> V {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_i4(at: *const u8) -> [V; 2] {
        unsafe {
            // A permutation looks at the lower four bits of an index alone.
            let of = _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()));
            [_mm512_permutexvar_ps(bytes, of), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), of)]
        }
    }

    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn round(a: V) -> V {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    unsafe fn power_of_two(n: V) -> V {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(x: V, limit: V, v: V) -> V {
        unsafe { _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit), _mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn keep(v: V, from: usize, to: usize) -> V {
        unsafe {
            let mask = ((1u32 << to) - 1) & !((1u32 << from) - 1);
            _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), mask as __mmask16, v)
        }
    }

    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn largest(v: V) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
}
