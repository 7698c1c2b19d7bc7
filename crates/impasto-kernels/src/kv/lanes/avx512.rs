//! Lanes in one AVX-512 register.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, lanes};

type V = __m512;

lanes! {
    /// AVX-512 F, BW, DQ and VL.
    Avx512, "avx512f,avx512bw,avx512dq,avx512vl", "avx512f" && "avx512bw" && "avx512dq" && "avx512vl";
    type V = V;
    const ROWS: usize = 6;

    fn splat(x: f32) -> V { _mm512_set1_ps(x) }

    fn load(from: &[f32; 16]) -> V { _mm512_loadu_ps(from.as_ptr()) }

    fn load_f32(from: &[u8; 64]) -> V { _mm512_loadu_ps(from.as_ptr().cast::<f32>()) }

    fn store(to: &mut [f32; 16], v: V) { _mm512_storeu_ps(to.as_mut_ptr(), v) }

    fn load_f16(from: &[u8; 32]) -> V { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }

    fn load_bf16(from: &[u8; 32]) -> V {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }

    fn load_i8(from: &[u8; 16]) -> V { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }

    fn load_i4(from: &[u8; 16]) -> [V; 2] {
        // A permutation ignores all but the lowest four bits of an index.
        let of = _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()));
        [_mm512_permutexvar_ps(bytes, of), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes), of)]
    }

    fn add(a: V, b: V) -> V { _mm512_add_ps(a, b) }

    fn sub(a: V, b: V) -> V { _mm512_sub_ps(a, b) }

    fn mul(a: V, b: V) -> V { _mm512_mul_ps(a, b) }

    fn div(a: V, b: V) -> V { _mm512_div_ps(a, b) }

    fn fma(a: V, b: V, c: V) -> V { _mm512_fmadd_ps(a, b, c) }

    fn max(a: V, b: V) -> V { _mm512_max_ps(a, b) }

    fn min(a: V, b: V) -> V { _mm512_min_ps(a, b) }

    fn round(a: V) -> V { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }

    fn power_of_two(n: V) -> V {
        let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
    }

    fn zero_below(x: V, limit: V, v: V) -> V { _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, limit), _mm512_setzero_ps()) }

    fn keep(v: V, from: usize, to: usize) -> V {
        let mask = ((1u32 << to) - 1) & !((1u32 << from) - 1);
        _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), mask as __mmask16, v)
    }

    fn prefetch(at: *const u8) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }

    fn largest(v: V) -> f32 { _mm512_reduce_max_ps(v) }
}
