//! Lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::{Kernel, Lanes, lanes};

type V = [__m256; 2];

/// Applies an instruction to both halves of one or two vectors.
macro_rules! halves {
    ($f:expr, $a:expr) => {{
        let a: V = $a;
        [$f(a[0]), $f(a[1])]
    }};
    ($f:expr, $a:expr, $b:expr) => {{
        let (a, b): (V, V) = ($a, $b);
        [$f(a[0], b[0]), $f(a[1], b[1])]
    }};
}

lanes! {
    /// AVX2, FMA and F16C.
    Avx2, "avx2,fma,f16c", "avx2" && "fma" && "f16c";
    type V = V;
    const ROWS: usize = 1;

    fn splat(x: f32) -> V { [_mm256_set1_ps(x); 2] }

    fn load(from: &[f32; 16]) -> V { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }

    fn load_f32(from: &[u8; 64]) -> V { [_mm256_loadu_ps(from.as_ptr().cast::<f32>()), _mm256_loadu_ps(from.as_ptr().cast::<f32>().add(8))] }

    fn store(to: &mut [f32; 16], v: V) {
        _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
        _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
    }

    fn load_f16(from: &[u8; 32]) -> V { [_mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(16).cast()))] }

    fn load_bf16(from: &[u8; 32]) -> V {
        let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()));
        let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().add(16).cast()));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
    }

    fn load_i8(from: &[u8; 16]) -> V {
        let low = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().cast()));
        let high = _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.as_ptr().add(8).cast()));
        [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
    }

    fn load_i4(from: &[u8; 16]) -> [V; 2] {
        // Subtracts 8 while the numbers are bytes, which takes one instruction for 16 of them.
        let bytes = _mm_loadu_si128(from.as_ptr().cast());
        let (four, eight) = (_mm_set1_epi8(15), _mm_set1_epi8(8));
        let low = _mm_sub_epi8(_mm_and_si128(bytes, four), eight);
        let high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16::<4>(bytes), four), eight);
        let mut out = [[_mm256_setzero_ps(); 2]; 2];
        out[0][0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
        out[0][1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(low, low)));
        out[1][0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high));
        out[1][1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(high, high)));
        out
    }

    fn add(a: V, b: V) -> V { halves!(_mm256_add_ps, a, b) }

    fn sub(a: V, b: V) -> V { halves!(_mm256_sub_ps, a, b) }

    fn mul(a: V, b: V) -> V { halves!(_mm256_mul_ps, a, b) }

    fn div(a: V, b: V) -> V { halves!(_mm256_div_ps, a, b) }

    fn fma(a: V, b: V, c: V) -> V { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }

    fn max(a: V, b: V) -> V { halves!(_mm256_max_ps, a, b) }

    fn min(a: V, b: V) -> V { halves!(_mm256_min_ps, a, b) }

    fn round(a: V) -> V { halves!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>, a) }

    fn power_of_two(n: V) -> V {
        let bias = _mm256_set1_epi32(127);
        let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias));
        let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias));
        [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
    }

    fn zero_below(x: V, limit: V, v: V) -> V {
        let below = halves!(_mm256_cmp_ps::<_CMP_LT_OQ>, x, limit);
        halves!(_mm256_andnot_ps, below, v)
    }

    fn keep(v: V, from: usize, to: usize) -> V {
        let infinite = _mm256_set1_ps(f32::NEG_INFINITY);
        let (from, to) = (_mm256_set1_ps(from as f32), _mm256_set1_ps(to as f32));
        let mut out = v;
        let mut lane = _mm256_setr_ps(0., 1., 2., 3., 4., 5., 6., 7.);
        for out in &mut out {
            let before = _mm256_cmp_ps::<_CMP_LT_OQ>(lane, from);
            let after = _mm256_cmp_ps::<_CMP_GE_OQ>(lane, to);
            *out = _mm256_blendv_ps(*out, infinite, _mm256_or_ps(before, after));
            lane = _mm256_add_ps(lane, _mm256_set1_ps(8.0));
        }
        out
    }

    fn prefetch(at: *const u8) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }

    fn largest(v: V) -> f32 {
        let eight = _mm256_max_ps(v[0], v[1]);
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}
