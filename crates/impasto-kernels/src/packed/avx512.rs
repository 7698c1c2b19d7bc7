//! The kernels for AVX-512 with VNNI: a register holds a vector of a cell, which is 16 rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::ColumnOrder;
use super::activations::{FloatPanel, Panel, PanelMut};
use super::cell::{self, BLOCK_GROUPS, GROUP, Line, Pieces, QUAD, STRIP, VECTORS, low};
use super::fixes::{Fixes, sum_floats};
use super::row_group::{RowGroup, Strip};
use crate::prefetch::prefetch_ahead;

/// Independent chains of additions, which hide the latency of the products.
const CHAINS: usize = 2;

/// Computes the same as `activations::permute`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn permute(columns: &ColumnOrder, x: &[f32], out: &mut [f32]) {
    let inputs = columns.inputs();
    assert!(x.len() == inputs && out.len() == columns.padded());
    for first in (0..inputs).step_by(16) {
        let mask = u16::MAX >> (16 - (inputs - first).min(16));
        // SAFETY: the mask covers only positions of columns. The order and the steps have one entry per position, and
        // the order contains only valid columns.
        unsafe {
            let order = _mm256_maskz_loadu_epi16(mask, columns.order().as_ptr().add(first).cast());
            let order = _mm512_cvtepu16_epi32(order);
            let steps = _mm512_maskz_loadu_ps(mask, columns.steps().as_ptr().add(first));
            let x = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, order, x.as_ptr());
            _mm512_mask_storeu_ps(out.as_mut_ptr().add(first), mask, _mm512_mul_ps(x, steps));
        }
    }
    out[inputs..].fill(0.0);
}

/// The portable code, compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn quantize(panel: &mut PanelMut, token: usize, values: &[f32]) {
    panel.quantize(token, values);
}

/// Computes [`int8`] for strips of a row group, including outliers, and calls `each` with each strip and its sums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub(super) fn int8_strips<const TOKENS: usize, const OFFSET: bool>(
    group: &RowGroup,
    strips: Range<usize>,
    panel: Panel,
    offset: f32,
    fixes: &mut Fixes,
    mut each: impl FnMut(Strip, &[[f32; STRIP]]),
) {
    let mut sums = [[0.0; STRIP]; TOKENS];
    for index in strips {
        let strip = group.strip(index);
        fixes.sum::<TOKENS, OFFSET>(strip, panel, false);
        int8::<TOKENS, OFFSET>(strip, panel, offset, fixes, &mut sums);
        each(strip, &sums);
    }
}

/// Computes the same as `scalar::int8`. `OFFSET`: whether the offset is not 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
#[inline]
pub(super) fn int8<const TOKENS: usize, const OFFSET: bool>(
    strip: Strip,
    panel: Panel,
    offset: f32,
    fixes: &Fixes,
    out: &mut [[f32; STRIP]],
) {
    let groups = strip.widths.len();
    let blocks = groups.div_ceil(BLOCK_GROUPS);
    assert!(panel.tokens == TOKENS && out.len() >= TOKENS);
    assert!(panel.quads.len() >= groups * VECTORS * TOKENS && panel.scales.len() >= blocks * TOKENS);
    let zero = _mm512_setzero_si512();
    let mut results = [_mm512_setzero_ps(); TOKENS];
    let mut at = strip.cells.as_ptr();
    let mut quads = panel.quads.as_ptr();
    for (block, widths) in strip.widths.chunks(BLOCK_GROUPS).enumerate() {
        let mut sums = [[zero; CHAINS]; TOKENS];
        let mut signs = [zero; TOKENS];
        let mut biases = [0i32; TOKENS];
        let mut sign_biases = [0i32; TOKENS];
        for (group, &width) in widths.iter().enumerate() {
            if width > 0 {
                prefetch_ahead(at, width.into());
                // SAFETY: the strip has the lines of all its cells (`Strip::is_sound`).
                let u = unsafe { unpack(at, width) };
                let bias = cell::bias(width);
                for (v, &u) in u.iter().enumerate() {
                    for token in 0..TOKENS {
                        // SAFETY: there are VECTORS x TOKENS quads for each group, checked above.
                        let q = unsafe { broadcast(quads.add(v * TOKENS + token)) };
                        let sum = &mut sums[token][v % CHAINS];
                        *sum = _mm512_dpbusd_epi32(*sum, u, q);
                        if OFFSET {
                            signs[token] = _mm512_dpbusd_epi32(signs[token], sign_plus_1(u, bias), q);
                        }
                    }
                }
                let of_group = &panel.sums[(block * BLOCK_GROUPS + group) * TOKENS..][..TOKENS];
                for token in 0..TOKENS {
                    biases[token] += bias * of_group[token];
                    sign_biases[token] += of_group[token];
                }
            }
            // SAFETY: as above; the pointers end at most one past the last element.
            (at, quads) = unsafe { (at.add(width.into()), quads.add(VECTORS * TOKENS)) };
        }
        for token in 0..TOKENS {
            let i = block * TOKENS + token;
            let sum = sums[token].into_iter().fold(zero, |a, b| _mm512_add_epi32(a, b));
            let mut sum = _mm512_cvtepi32_ps(fixed(sum, biases[token], &fixes.sums[i]));
            if OFFSET {
                let signs = _mm512_cvtepi32_ps(fixed(signs[token], sign_biases[token], &fixes.signs[i]));
                sum = _mm512_fmadd_ps(signs, _mm512_set1_ps(offset), sum);
            }
            results[token] = _mm512_fmadd_ps(sum, _mm512_set1_ps(panel.scales[i]), results[token]);
        }
    }
    for (out, result) in out.iter_mut().zip(results) {
        store(out, result);
    }
}

/// Computes the same as `scalar::float`. `OFFSET`: whether the offset is not 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub(super) fn float<const TOKENS: usize, const OFFSET: bool>(
    strip: Strip,
    panel: FloatPanel,
    offset: f32,
    out: &mut [[f32; STRIP]],
) {
    assert!(panel.tokens == TOKENS && out.len() >= TOKENS);
    let mut sums = [[_mm512_setzero_ps(); QUAD]; TOKENS];
    let mut at = strip.cells.as_ptr();
    for (group, &width) in strip.widths.iter().enumerate() {
        if width > 0 {
            prefetch_ahead(at, width.into());
            // SAFETY: the strip has the lines of all its cells (`Strip::is_sound`).
            let u = unsafe { unpack(at, width) };
            let bias = _mm512_set1_epi32(cell::bias(width));
            let x = &panel.values[group * GROUP * TOKENS..][..GROUP * TOKENS];
            for (u, x) in u.into_iter().zip(x.chunks_exact(QUAD * TOKENS)) {
                let mut u = u;
                for (column, x) in x.chunks_exact(TOKENS).enumerate() {
                    let z = _mm512_sub_epi32(_mm512_and_si512(u, _mm512_set1_epi32(0xFF)), bias);
                    u = _mm512_srli_epi32::<8>(u);
                    let mut weight = _mm512_cvtepi32_ps(z);
                    if OFFSET {
                        let one = _mm512_set1_epi32(1);
                        let sign = _mm512_max_epi32(_mm512_min_epi32(z, one), _mm512_set1_epi32(-1));
                        weight = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sign), _mm512_set1_ps(offset), weight);
                    }
                    for (sums, &x) in sums.iter_mut().zip(x) {
                        sums[column] = _mm512_fmadd_ps(weight, _mm512_set1_ps(x), sums[column]);
                    }
                }
            }
        }
        // SAFETY: as above; the pointer ends at most one past the last line.
        at = unsafe { at.add(width.into()) };
    }
    let fixes = sum_floats::<TOKENS>(strip, panel, offset);
    for ((out, [a, b, c, d]), fixes) in out.iter_mut().zip(sums).zip(&fixes) {
        // SAFETY: the load reads 64 bytes, which are 16 floats.
        let fixes = unsafe { _mm512_loadu_ps(fixes.as_ptr()) };
        store(out, _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)), fixes));
    }
}

/// Returns the vectors of a cell, as integers plus bias.
///
/// Always inlined, so that the vectors stay in registers; it is compiled for the instructions of the caller.
///
/// # Safety
/// The processor supports AVX-512 F and BW. `at` points to `width` lines, 1 to 8.
#[inline(always)]
pub(crate) unsafe fn unpack(at: *const Line, width: u8) -> [__m512i; VECTORS] {
    // SAFETY: the caller guarantees the same for `unpack_width`.
    unsafe {
        match width {
            1 => unpack_width::<1>(at),
            2 => unpack_width::<2>(at),
            3 => unpack_width::<3>(at),
            4 => unpack_width::<4>(at),
            5 => unpack_width::<5>(at),
            6 => unpack_width::<6>(at),
            7 => unpack_width::<7>(at),
            // Lines are vectors.
            _ => {
                let line = at.cast::<__m512i>();
                let (a, b, c, d) = (line.read(), line.add(1).read(), line.add(2).read(), line.add(3).read());
                let (e, f, g, h) = (line.add(4).read(), line.add(5).read(), line.add(6).read(), line.add(7).read());
                [a, b, c, d, e, f, g, h]
            }
        }
    }
}

/// [`unpack`] for one width.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn unpack_width<const WIDTH: usize>(at: *const Line) -> [__m512i; VECTORS] {
    const { assert!(Pieces::of(WIDTH).get(14).is_none()) };
    // Unrolled, because a loop over pieces would keep the vectors in memory.
    macro_rules! pieces {
        ($u:ident: $($piece:literal)*) => { $(add_piece::<WIDTH, $piece>(at, &mut $u);)* };
    }
    // SAFETY: the caller guarantees the same for `add_piece`.
    unsafe {
        let mut u = [_mm512_setzero_si512(); VECTORS];
        pieces!(u: 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
        u
    }
}

/// Adds a piece to its vector. The lower bits of the vector must already be there.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn add_piece<const WIDTH: usize, const PIECE: usize>(at: *const Line, u: &mut [__m512i; VECTORS]) {
    let Some(piece) = (const { Pieces::of(WIDTH).get(PIECE) }) else { return };
    // SAFETY: the caller guarantees `WIDTH` lines at `at`, and pieces are in lines below the width.
    unsafe {
        let line = _mm512_load_si512(at.add(piece.line).cast());
        // The shift also moves in bits of the neighbouring byte, but only above the piece, where the next piece of the
        // vector or the mask replaces them.
        let moved = _mm512_srl_epi16(line, _mm_cvtsi32_si128((piece.from - piece.to) as i32));
        let below = _mm512_set1_epi8(low(piece.to) as i8);
        let u = &mut u[piece.vector];
        *u = _mm512_or_si512(_mm512_and_si512(*u, below), _mm512_andnot_si512(below, moved));
        if piece.to + piece.bits == WIDTH {
            *u = _mm512_and_si512(*u, _mm512_set1_epi8(low(WIDTH) as i8));
        }
    }
}

/// Returns the sign of `u - bias`, plus 1, in each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sign_plus_1(u: __m512i, bias: i32) -> __m512i {
    let set = |byte: i32| _mm512_set1_epi8(byte as i8);
    let clamped = _mm512_min_epu8(_mm512_max_epu8(u, set(bias - 1)), set(bias + 1));
    _mm512_sub_epi8(clamped, set(bias - 1))
}

/// Returns a sum minus the contribution of the bias, plus that of outliers.
#[inline]
#[target_feature(enable = "avx512f")]
fn fixed(sum: __m512i, bias: i32, fix: &[i32; STRIP]) -> __m512i {
    // SAFETY: the load reads 64 bytes, which are 16 integers.
    let fix = unsafe { _mm512_loadu_si512(fix.as_ptr().cast()) };
    _mm512_add_epi32(_mm512_sub_epi32(sum, _mm512_set1_epi32(bias)), fix)
}

/// Returns four activations, repeated in each lane.
///
/// # Safety
/// `quad` points to a quad.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn broadcast(quad: *const [i8; QUAD]) -> __m512i {
    // SAFETY: the caller guarantees that the quad can be read.
    _mm512_set1_epi32(unsafe { quad.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(out: &mut [f32; STRIP], values: __m512) {
    // SAFETY: the store writes 64 bytes, which are 16 floats.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) }
}
