//! Lanes in one AVX-512 register.

use std::arch::x86_64::*;

use super::{Lanes, OnLanes, lanes};
use crate::packed::avx512;
use crate::packed::cell::{Line, QUAD, STRIP, VECTORS};

lanes! {
    /// AVX-512 F, BW, DQ, VL and VNNI, and FMA.
    Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma",
        "avx512f" && "avx512bw" && "avx512dq" && "avx512vl" && "avx512vnni" && "fma";
    type Ints = __m512i;
    type Floats = __m512;
    const PANEL: usize = 6;
    const STRIPS: usize = 2;
    const CENTRED: bool = false;

    fn ints(x: i32) -> __m512i { _mm512_set1_epi32(x) }

    fn floats(x: f32) -> __m512 { _mm512_set1_ps(x) }

    fn load(from: &Line) -> __m512i { _mm512_loadu_si512(from.0.as_ptr().cast()) }

    fn store(to: &mut Line, v: __m512i) { _mm512_storeu_si512(to.0.as_mut_ptr().cast(), v) }

    fn load_floats(from: &Line) -> __m512 { _mm512_loadu_ps(from.0.as_ptr().cast()) }

    fn store_floats(to: &mut Line, v: __m512) { _mm512_storeu_ps(to.0.as_mut_ptr().cast(), v) }

    fn halves(from: &[u8; 2 * STRIP]) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }

    fn signed(from: &[u8; STRIP]) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
    }

    fn nibbles(from: &[u8; STRIP], high: bool) -> __m512 {
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()));
        let moved = if high { _mm512_srli_epi32::<4>(bytes) } else { bytes };
        _mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(15)))
    }

    fn powers(from: &[u8; STRIP]) -> __m512 {
        let (one, exponents) = (_mm512_set1_epi32(1), _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())));
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponents, one));
        // 2^-128 or 2^-127, which are subnormal.
        let least = _mm512_slli_epi32::<21>(_mm512_add_epi32(_mm512_min_epi32(exponents, one), one));
        _mm512_castsi512_ps(_mm512_max_epi32(normal, least))
    }

    fn unpack(cell: &[Line], width: u8) -> [__m512i; VECTORS] {
        assert!(matches!(width, 1..=8) && cell.len() == usize::from(width));
        avx512::unpack(cell.as_ptr(), width)
    }

    fn look_up(table: &[u8; 16], v: __m512i) -> __m512i {
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), v)
    }

    fn dot(sum: __m512i, u: __m512i, q: &[i8; QUAD]) -> __m512i {
        _mm512_dpbusd_epi32(sum, u, _mm512_set1_epi32(i32::from_ne_bytes(bytemuck::cast(*q))))
    }

    fn wide_dot(sum: __m512i, u: __m512i, q: &[i8; QUAD]) -> __m512i {
        _mm512_dpbusd_epi32(sum, u, _mm512_set1_epi32(i32::from_ne_bytes(bytemuck::cast(*q))))
    }

    fn add(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }

    fn to_floats(v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }

    fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }

    fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
}
