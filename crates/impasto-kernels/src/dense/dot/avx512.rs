//! Dot products with AVX-512.

use std::arch::x86_64::*;

use crate::prefetch::prefetch;

use super::{Format, LANES, REDUCED, Tiles, length, padded};

/// Computes all products that are left.
///
/// # Safety
/// The processor supports AVX-512 (F and DQ) and FMA.
pub(super) unsafe fn run<W: Format>(tiles: &mut Tiles<W>) {
    // SAFETY: the caller guarantees these instructions.
    tiles.run(|w, x| unsafe { products::<W, 4, 6>(w, x) }, |w, x| unsafe { products(w, x) });
    // SAFETY: as above.
    tiles.run(|w, x| unsafe { products::<W, 4, 5>(w, x) }, |w, x| unsafe { products(w, x) });
    // SAFETY: as above.
    tiles.run(|w, x| unsafe { products::<W, 4, 4>(w, x) }, |w, x| unsafe { products(w, x) });
    // SAFETY: as above.
    tiles.run(|w, x| unsafe { products::<W, 4, 3>(w, x) }, |w, x| unsafe { products(w, x) });
    // SAFETY: as above.
    tiles.run(|w, x| unsafe { products::<W, 4, 2>(w, x) }, |w, x| unsafe { products(w, x) });
    // SAFETY: as above.
    tiles.run(|w, x| unsafe { products::<W, 8, 1>(w, x) }, |w, x| unsafe { products(w, x) });
}

/// Returns the dot products of each of `R` rows of weights with each of `N` rows of activations.
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
fn products<W: Format, const R: usize, const N: usize>(w: [&[W]; R], x: [&[f32]; N]) -> [[f32; N]; R] {
    /// Adds [`LANES`] products of each pair of rows.
    ///
    /// # Safety
    /// All pointers are to LANES elements.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
    unsafe fn add<W: Format, const R: usize, const N: usize>(
        w: [*const W; R],
        x: [*const f32; N],
        sums: &mut [[Sum; N]; R],
    ) {
        // SAFETY: the caller guarantees that the weights can be read.
        let w = w.map(|w| unsafe { W::load16(w) });
        for (token, x) in x.into_iter().enumerate() {
            // SAFETY: as above, for activations.
            let x = unsafe { _mm512_loadu_ps(x) };
            for (sums, w) in sums.iter_mut().zip(w) {
                sums[token] = _mm512_fmadd_ps(w, x, sums[token]);
            }
        }
    }
    let length = length(w, x);
    let mut sums = [[zero(); N]; R];
    let whole = length / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        // The rows that follow: processors do not see that several rows of a page are read in order at the same time.
        w.iter().for_each(|w| prefetch(w.as_ptr().wrapping_add(at + R * length)));
        // SAFETY: `at + LANES` is at most the length of all rows.
        unsafe { add(w.map(|w| w.as_ptr().add(at)), x.map(|x| x.as_ptr().add(at)), &mut sums) };
    }
    if whole < length {
        let (w, x) = (w.map(|w| padded(&w[whole..])), x.map(|x| padded(&x[whole..])));
        // SAFETY: the arrays have LANES elements.
        unsafe { add(w.each_ref().map(|w| w.as_ptr()), x.each_ref().map(|x| x.as_ptr()), &mut sums) };
    }
    let mut out = [[0.0; N]; R];
    for (out, sums) in out.as_flattened_mut().chunks_mut(REDUCED).zip(sums.as_flattened().chunks(REDUCED)) {
        let mut some = [zero(); REDUCED];
        some[..sums.len()].copy_from_slice(sums);
        out.copy_from_slice(&reduce(some)[..sums.len()]);
    }
    out
}

/// The partial sums of a product.
type Sum = __m512;

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> Sum {
    _mm512_setzero_ps()
}

/// Adds the halves of each vector of partial sums until one sum is left.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduce(v: [Sum; REDUCED]) -> [f32; REDUCED] {
    // Two vectors at a time: their lower halves, plus their upper halves.
    let quarters = |a, b| {
        let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
        _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
    };
    let blocks = |a, b| {
        let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
        _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
    };
    let four = |a, b, c, d| blocks(quarters(a, b), quarters(c, d));
    // A block of 128 bits of `low` and `high` has 4 partial sums of one of vectors 0 to 3, or 4 to 7.
    let (low, high) = (four(v[0], v[1], v[2], v[3]), four(v[4], v[5], v[6], v[7]));
    let (low, high) = (_mm512_castps_pd(low), _mm512_castps_pd(high));
    let first = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
    let pairs = _mm512_add_ps(first, _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    let sums = _mm512_add_ps(pairs, _mm512_shuffle_ps::<0b11_11_01_01>(pairs, pairs));
    let mut all = [0.0f32; 16];
    // SAFETY: the array has 16 elements.
    unsafe { _mm512_storeu_ps(all.as_mut_ptr(), sums) };
    std::array::from_fn(|i| all[i % 4 * 4 + i / 4 * 2])
}
