//! Lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::{Lanes, OnLanes, lanes};
use crate::packed::avx2;
use crate::packed::cell::{Line, QUAD, STRIP, VECTORS};

type Ints = [__m256i; 2];
type Floats = [__m256; 2];

/// Returns four activations, repeated.
#[inline]
#[target_feature(enable = "avx2")]
fn quad(q: &[i8; QUAD]) -> __m256i {
    _mm256_set1_epi32(i32::from_ne_bytes(bytemuck::cast(*q)))
}

/// Converts exponents plus 128 to powers of two.
#[inline]
#[target_feature(enable = "avx2")]
fn powers(exponents: __m256i) -> __m256 {
    let one = _mm256_set1_epi32(1);
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, one));
    // 2^-128 or 2^-127, which are subnormal.
    let least = _mm256_slli_epi32::<21>(_mm256_add_epi32(_mm256_min_epi32(exponents, one), one));
    _mm256_castsi256_ps(_mm256_max_epi32(normal, least))
}

lanes! {
    /// AVX2, FMA and F16C.
    Avx2, "avx2,fma,f16c", "avx2" && "fma" && "f16c";
    type Ints = Ints;
    type Floats = Floats;
    const PANEL: usize = 2;
    const STRIPS: usize = 1;
    const CENTRED: bool = true;

    fn ints(x: i32) -> Ints { [_mm256_set1_epi32(x); 2] }

    fn floats(x: f32) -> Floats { [_mm256_set1_ps(x); 2] }

    fn load(from: &Line) -> Ints {
        let at: *const __m256i = from.0.as_ptr().cast();
        [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
    }

    fn store(to: &mut Line, v: Ints) {
        let at: *mut __m256i = to.0.as_mut_ptr().cast();
        _mm256_storeu_si256(at, v[0]);
        _mm256_storeu_si256(at.add(1), v[1]);
    }

    fn load_floats(from: &Line) -> Floats {
        let at: *const f32 = from.0.as_ptr().cast();
        [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))]
    }

    fn store_floats(to: &mut Line, v: Floats) {
        let at: *mut f32 = to.0.as_mut_ptr().cast();
        _mm256_storeu_ps(at, v[0]);
        _mm256_storeu_ps(at.add(8), v[1]);
    }

    fn halves(from: &[u8; 2 * STRIP]) -> Floats {
        let at: *const __m128i = from.as_ptr().cast();
        [_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))]
    }

    fn signed(from: &[u8; STRIP]) -> Floats {
        let bytes = _mm_loadu_si128(from.as_ptr().cast());
        let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
        [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
    }

    fn nibbles(from: &[u8; STRIP], high: bool) -> Floats {
        let bytes = _mm_loadu_si128(from.as_ptr().cast());
        let moved = if high { _mm_srli_epi16::<4>(bytes) } else { bytes };
        let bytes = _mm_and_si128(moved, _mm_set1_epi8(15));
        let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
        [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
    }

    fn powers(from: &[u8; STRIP]) -> Floats {
        let bytes = _mm_loadu_si128(from.as_ptr().cast());
        [powers(_mm256_cvtepu8_epi32(bytes)), powers(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes)))]
    }

    fn unpack(cell: &[Line], width: u8) -> [Ints; VECTORS] {
        assert!(matches!(width, 1..=8) && cell.len() == usize::from(width));
        let (low, high) = (avx2::unpack(cell.as_ptr(), width, 0), avx2::unpack(cell.as_ptr(), width, 1));
        let mut u = [[_mm256_setzero_si256(); 2]; VECTORS];
        for v in 0..VECTORS {
            u[v] = [low[v], high[v]];
        }
        u
    }

    fn look_up(table: &[u8; 16], v: Ints) -> Ints {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        [_mm256_shuffle_epi8(table, v[0]), _mm256_shuffle_epi8(table, v[1])]
    }

    fn dot(sum: Ints, u: Ints, q: &[i8; QUAD]) -> Ints {
        // Sums of two products fit 16 bits: at most 2 * 63 * 127.
        let q = quad(q);
        [_mm256_add_epi32(sum[0], avx2::dot(u[0], q)), _mm256_add_epi32(sum[1], avx2::dot(u[1], q))]
    }

    fn wide_dot(sum: Ints, u: Ints, q: &[i8; QUAD]) -> Ints {
        // Signed bytes, whose sums of two products fit 16 bits: at most 2 * 128 * 127.
        let q = quad(q);
        let half = _mm256_set1_epi8(i8::MIN);
        let z = [_mm256_xor_si256(u[0], half), _mm256_xor_si256(u[1], half)];
        [_mm256_add_epi32(sum[0], avx2::signed_dot(z[0], q)), _mm256_add_epi32(sum[1], avx2::signed_dot(z[1], q))]
    }

    fn add(a: Ints, b: Ints) -> Ints { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }

    fn to_floats(v: Ints) -> Floats { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }

    fn mul(a: Floats, b: Floats) -> Floats { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }

    fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }
}
