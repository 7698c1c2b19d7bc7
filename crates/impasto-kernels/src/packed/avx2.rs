//! The kernels for AVX2 with FMA: a register holds half a vector of a cell, which is 8 rows.

use std::arch::x86_64::*;

use super::ColumnOrder;
use super::activations::{self, FloatPanel, Panel, PanelMut};
use super::cell::{self, BLOCK_GROUPS, GROUP, Line, Pieces, QUAD, STRIP, VECTORS, WIDEST, low};
use super::fixes::{Fixes, sum_floats};
use super::row_group::Strip;
use crate::prefetch::prefetch_ahead;

/// Rows per register.
const HALF: usize = STRIP / 2;

/// The portable code, compiled for AVX2.
#[target_feature(enable = "avx2")]
pub(super) fn permute(columns: &ColumnOrder, x: &[f32], out: &mut [f32]) {
    activations::permute(columns, x, out);
}

/// The portable code, compiled for AVX2.
#[target_feature(enable = "avx2")]
pub(super) fn quantize(panel: &mut PanelMut, token: usize, values: &[f32]) {
    panel.quantize(token, values);
}

/// Computes the same as `scalar::int8`. `OFFSET`: whether the offset is not 0.
#[target_feature(enable = "avx2,fma")]
pub(super) fn int8<const TOKENS: usize, const OFFSET: bool>(
    strip: Strip,
    panel: Panel,
    offset: f32,
    fixes: &Fixes,
    out: &mut [[f32; STRIP]],
) {
    let groups = strip.widths.len();
    assert!(panel.tokens == TOKENS && out.len() >= TOKENS && panel.quads.len() >= groups * VECTORS * TOKENS);
    for half in 0..2 {
        let mut results = [_mm256_setzero_ps(); TOKENS];
        let (mut at, mut quads) = (strip.cells.as_ptr(), panel.quads.as_ptr());
        for (block, widths) in strip.widths.chunks(BLOCK_GROUPS).enumerate() {
            let mut sums = [_mm256_setzero_si256(); TOKENS];
            let mut signs = [_mm256_setzero_si256(); TOKENS];
            for (group, &width) in widths.iter().enumerate() {
                if width > 0 {
                    if half == 0 {
                        prefetch_ahead(at, width.into());
                    }
                    // SAFETY: the strip has the lines of all its cells (`Strip::is_sound`).
                    let u = unsafe { unpack(at, width, half) };
                    let bias = _mm256_set1_epi8(cell::bias(width) as i8);
                    for (v, &u) in u.iter().enumerate() {
                        for token in 0..TOKENS {
                            // SAFETY: there are VECTORS x TOKENS quads for each group, checked above.
                            let q = unsafe { broadcast(quads.add(v * TOKENS + token)) };
                            // Sums of two products fit 16 bits: at most 2 * 127 * 127 with unsigned bytes, 2 * 128 *
                            // 127 with signed ones.
                            let product =
                                if width < WIDEST { dot(u, q) } else { signed_dot(_mm256_xor_si256(u, bias), q) };
                            sums[token] = _mm256_add_epi32(sums[token], product);
                            if OFFSET {
                                let sign = _mm256_sign_epi8(_mm256_set1_epi8(1), _mm256_sub_epi8(u, bias));
                                signs[token] = _mm256_add_epi32(signs[token], signed_dot(sign, q));
                            }
                        }
                    }
                    if width < WIDEST {
                        let of_group = &panel.sums[(block * BLOCK_GROUPS + group) * TOKENS..][..TOKENS];
                        for token in 0..TOKENS {
                            let bias = _mm256_set1_epi32(cell::bias(width) * of_group[token]);
                            sums[token] = _mm256_sub_epi32(sums[token], bias);
                        }
                    }
                }
                // SAFETY: as above; the pointers end at most one past the last element.
                (at, quads) = unsafe { (at.add(width.into()), quads.add(VECTORS * TOKENS)) };
            }
            for token in 0..TOKENS {
                let i = block * TOKENS + token;
                let mut sum = fixed(sums[token], &fixes.sums[i], half);
                if OFFSET {
                    sum = _mm256_fmadd_ps(fixed(signs[token], &fixes.signs[i], half), _mm256_set1_ps(offset), sum);
                }
                results[token] = _mm256_fmadd_ps(sum, _mm256_set1_ps(panel.scales[i]), results[token]);
            }
        }
        for token in 0..TOKENS {
            store(&mut out[token], half, results[token]);
        }
    }
}

/// Computes the same as `scalar::float`. `OFFSET`: whether the offset is not 0.
#[target_feature(enable = "avx2,fma")]
pub(super) fn float<const TOKENS: usize, const OFFSET: bool>(
    strip: Strip,
    panel: FloatPanel,
    offset: f32,
    out: &mut [[f32; STRIP]],
) {
    assert!(panel.tokens == TOKENS && out.len() >= TOKENS);
    let fixes = sum_floats::<TOKENS>(strip, panel, offset);
    for half in 0..2 {
        let mut sums = [[_mm256_setzero_ps(); QUAD]; TOKENS];
        let mut at = strip.cells.as_ptr();
        for (group, &width) in strip.widths.iter().enumerate() {
            if width > 0 {
                // SAFETY: the strip has the lines of all its cells (`Strip::is_sound`).
                let u = unsafe { unpack(at, width, half) };
                let bias = _mm256_set1_epi32(cell::bias(width));
                let x = &panel.values[group * GROUP * TOKENS..][..GROUP * TOKENS];
                for (v, x) in x.chunks_exact(QUAD * TOKENS).enumerate() {
                    let mut u = u[v];
                    for column in 0..QUAD {
                        let z = _mm256_sub_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0xFF)), bias);
                        u = _mm256_srli_epi32::<8>(u);
                        let mut weight = _mm256_cvtepi32_ps(z);
                        if OFFSET {
                            let sign = _mm256_cvtepi32_ps(_mm256_sign_epi32(_mm256_set1_epi32(1), z));
                            weight = _mm256_fmadd_ps(sign, _mm256_set1_ps(offset), weight);
                        }
                        for token in 0..TOKENS {
                            let x = _mm256_set1_ps(x[column * TOKENS + token]);
                            sums[token][column] = _mm256_fmadd_ps(weight, x, sums[token][column]);
                        }
                    }
                }
            }
            // SAFETY: as above; the pointer ends at most one past the last line.
            at = unsafe { at.add(width.into()) };
        }
        for token in 0..TOKENS {
            let [a, b, c, d] = sums[token];
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            let fixes = &fixes[token].as_chunks::<HALF>().0[half];
            // SAFETY: the load reads 32 bytes, which are 8 floats.
            store(&mut out[token], half, _mm256_add_ps(sum, unsafe { _mm256_loadu_ps(fixes.as_ptr()) }));
        }
    }
}

/// Returns half of each vector of a cell, as integers plus bias. Always inlined, like `avx512::unpack`.
///
/// # Safety
/// The processor supports AVX2. `at` points to `width` lines, 1 to 8; `half` is 0 or 1.
#[inline(always)]
pub(crate) unsafe fn unpack(at: *const Line, width: u8, half: usize) -> [__m256i; VECTORS] {
    // SAFETY: the caller guarantees the same for `unpack_width`.
    unsafe {
        match width {
            1 => unpack_width::<1>(at, half),
            2 => unpack_width::<2>(at, half),
            3 => unpack_width::<3>(at, half),
            4 => unpack_width::<4>(at, half),
            5 => unpack_width::<5>(at, half),
            6 => unpack_width::<6>(at, half),
            7 => unpack_width::<7>(at, half),
            _ => unpack_width::<8>(at, half),
        }
    }
}

/// [`unpack`] for one width.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn unpack_width<const WIDTH: usize>(at: *const Line, half: usize) -> [__m256i; VECTORS] {
    const { assert!(Pieces::of(WIDTH).get(14).is_none()) };
    // Unrolled, because a loop over pieces would keep the vectors in memory.
    macro_rules! pieces {
        ($u:ident: $($piece:literal)*) => { $(add_piece::<WIDTH, $piece>(at, half, &mut $u);)* };
    }
    // SAFETY: the caller guarantees the same for `add_piece`.
    unsafe {
        let mut u = [_mm256_setzero_si256(); VECTORS];
        pieces!(u: 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
        u
    }
}

/// Adds a piece to its vector. The lower bits of the vector must already be there.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn add_piece<const WIDTH: usize, const PIECE: usize>(at: *const Line, half: usize, u: &mut [__m256i; VECTORS]) {
    let Some(piece) = (const { Pieces::of(WIDTH).get(PIECE) }) else { return };
    // SAFETY: the caller guarantees `WIDTH` lines at `at`, and pieces are in lines below the width.
    unsafe {
        let line = load(at.add(piece.line), half);
        // The shift also moves in bits of the neighbouring byte, but only above the piece, where the next piece of the
        // vector or the mask replaces them.
        let moved = _mm256_srl_epi16(line, _mm_cvtsi32_si128((piece.from - piece.to) as i32));
        let below = _mm256_set1_epi8(low(piece.to) as i8);
        let u = &mut u[piece.vector];
        *u = _mm256_or_si256(_mm256_and_si256(*u, below), _mm256_andnot_si256(below, moved));
        if piece.to + piece.bits == WIDTH {
            *u = _mm256_and_si256(*u, _mm256_set1_epi8(low(WIDTH) as i8));
        }
    }
}

/// Loads half of a line.
///
/// # Safety
/// The processor supports AVX2, `at` points to a line, and `half` is 0 or 1.
#[inline(always)]
unsafe fn load(at: *const Line, half: usize) -> __m256i {
    // SAFETY: the caller guarantees that the line exists; its halves are aligned.
    unsafe { _mm256_load_si256(at.cast::<__m256i>().add(half)) }
}

/// Returns the sums of four products of unsigned and signed bytes in each lane. Sums of two products must fit 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn dot(u: __m256i, q: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), _mm256_set1_epi16(1))
}

/// Like [`dot`], for signed bytes; `q` must not be -128.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn signed_dot(z: __m256i, q: __m256i) -> __m256i {
    dot(_mm256_abs_epi8(z), _mm256_sign_epi8(q, z))
}

/// Returns a sum plus the contribution of outliers, as floats.
#[inline]
#[target_feature(enable = "avx2")]
fn fixed(sum: __m256i, fix: &[i32; STRIP], half: usize) -> __m256 {
    let fix = &fix.as_chunks::<HALF>().0[half];
    // SAFETY: the load reads 32 bytes, which are 8 integers.
    let fix = unsafe { _mm256_loadu_si256(fix.as_ptr().cast()) };
    _mm256_cvtepi32_ps(_mm256_add_epi32(sum, fix))
}

/// Returns four activations, repeated in each lane.
///
/// # Safety
/// `quad` points to a quad.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast(quad: *const [i8; QUAD]) -> __m256i {
    // SAFETY: the caller guarantees that the quad can be read.
    _mm256_set1_epi32(unsafe { quad.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut [f32; STRIP], half: usize, values: __m256) {
    let out = &mut out.as_chunks_mut::<HALF>().0[half];
    // SAFETY: the store writes 32 bytes, which are 8 floats.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) }
}
