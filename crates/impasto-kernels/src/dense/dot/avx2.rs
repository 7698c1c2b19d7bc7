//! Dot products with AVX2.

use std::arch::x86_64::*;

use crate::prefetch::prefetch;

use super::{Format, LANES, REDUCED, Tiles, length, padded};

/// Computes all products that are left.
///
/// # Safety
/// The processor supports AVX2, FMA and F16C.
pub(super) unsafe fn run<W: Format>(tiles: &mut Tiles<W>) {
    // SAFETY: the caller guarantees these instructions.
    tiles.run(|w, x| unsafe { products::<W, 2, 3>(w, x) }, |w, x| unsafe { products(w, x) });
    // SAFETY: as above.
    tiles.run(|w, x| unsafe { products::<W, 2, 2>(w, x) }, |w, x| unsafe { products(w, x) });
    // SAFETY: as above.
    tiles.run(|w, x| unsafe { products::<W, 4, 1>(w, x) }, |w, x| unsafe { products(w, x) });
}

/// Returns the dot products of each of `R` rows of weights with each of `N` rows of activations.
#[target_feature(enable = "avx2,fma,f16c")]
fn products<W: Format, const R: usize, const N: usize>(w: [&[W]; R], x: [&[f32]; N]) -> [[f32; N]; R] {
    /// Adds [`LANES`] products of each pair of rows.
    ///
    /// # Safety
    /// All pointers are to LANES elements.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<W: Format, const R: usize, const N: usize>(
        w: [*const W; R],
        x: [*const f32; N],
        sums: &mut [[Sum; N]; R],
    ) {
        for half in 0..LANES / 8 {
            // SAFETY: the caller guarantees that the weights can be read.
            let w = w.map(|w| unsafe { W::load8(w.add(8 * half)) });
            for (token, x) in x.into_iter().enumerate() {
                // SAFETY: as above, for activations.
                let x = unsafe { _mm256_loadu_ps(x.add(8 * half)) };
                for (sums, w) in sums.iter_mut().zip(w) {
                    sums[token][half] = _mm256_fmadd_ps(w, x, sums[token][half]);
                }
            }
        }
    }
    let length = length(w, x);
    let mut sums = [[zero(); N]; R];
    let whole = length / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        // As in `avx512`.
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
type Sum = [__m256; LANES / 8];

#[inline]
#[target_feature(enable = "avx2")]
fn zero() -> Sum {
    [_mm256_setzero_ps(); LANES / 8]
}

/// Adds the halves of each vector of partial sums until one sum is left.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce(v: [Sum; REDUCED]) -> [f32; REDUCED] {
    let mut out = [0.0; REDUCED];
    for (out, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(v.as_chunks::<4>().0) {
        let v = v.map(|[low, high]| _mm256_add_ps(low, high));
        // Two vectors at a time: their lower halves, plus their upper halves.
        let halves = |a, b| {
            let low = _mm256_permute2f128_ps::<0x20>(a, b);
            _mm256_castps_pd(_mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(a, b)))
        };
        let (a, b) = (halves(v[0], v[1]), halves(v[2], v[3]));
        let first = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        let pairs = _mm256_add_ps(first, _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
        let sums = _mm256_add_ps(pairs, _mm256_shuffle_ps::<0b11_11_01_01>(pairs, pairs));
        let mut all = [0.0f32; 8];
        // SAFETY: the array has 8 elements.
        unsafe { _mm256_storeu_ps(all.as_mut_ptr(), sums) };
        *out = [all[0], all[4], all[2], all[6]];
    }
    out
}
