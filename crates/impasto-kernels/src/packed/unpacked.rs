//! The kernel for many tokens with AVX-512 and VNNI: unpacks strips to bytes once, then multiplies them by one panel of
//! tokens at a time.
//!
//! With two strips and six tokens, 12 integer sums, 12 float sums, two weights and an activation take 27 of the 32
//! registers, and there are 8 loads per 12 products.

use std::arch::x86_64::*;

use super::activations::Panel;
use super::avx512::{broadcast, store, unpack};
use super::cell::{self, BLOCK, BLOCK_GROUPS, Line, QUAD, STRIP, VECTORS, WIDEST};
use super::fixes::Fixes;
use super::kernel::STRIPS;
use super::row_group::Strip;

/// Writes the integers of a strip plus 128 to lines `index`, `index + strips`, ... of `out`. The parts of far outliers
/// beyond 8 bits are not included.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn unpack_strip(strip: Strip, index: usize, strips: usize, out: &mut [Line]) {
    let out = &mut out[..strip.widths.len() * VECTORS * strips];
    let mut at = strip.cells.as_ptr();
    for (&width, out) in strip.widths.iter().zip(out.chunks_exact_mut(VECTORS * strips)) {
        let shift = _mm512_set1_epi8((cell::bias(WIDEST) - cell::bias(width)) as i8);
        // SAFETY: the strip has the lines of all its cells (`Strip::is_sound`).
        let u = if width > 0 { unsafe { unpack(at, width) } } else { [_mm512_setzero_si512(); VECTORS] };
        for (line, u) in out.iter_mut().skip(index).step_by(strips).zip(u) {
            // SAFETY: a line is 64 aligned bytes.
            unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), _mm512_add_epi8(u, shift)) };
        }
        // SAFETY: as above; the pointer ends at most one past the last line.
        at = unsafe { at.add(width.into()) };
    }
    for outlier in strip.near_outliers() {
        let Line(bytes) = &mut out[outlier.column / QUAD * strips + index];
        let byte = &mut bytes[outlier.row * QUAD + outlier.column % QUAD];
        *byte = byte.wrapping_add(outlier.delta as u8);
    }
}

/// Computes the sums of `S` strips for the `T` tokens of a panel, as `scalar::int8` does.
///
/// - `weights`: the output of [`unpack_strip`] for strips 0 to `S - 1` of `S`
/// - `fixes`: for each strip, the sums over its far outliers, if it has any
/// - `out`: for each strip, the sums of each token
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
#[allow(clippy::needless_range_loop, reason = "with plain indices the sums stay in registers")]
pub(super) fn multiply<const S: usize, const T: usize>(
    weights: &[Line],
    panel: Panel,
    fixes: [Option<&Fixes>; STRIPS],
    out: &mut [[[f32; STRIP]; T]; S],
) {
    assert!(panel.tokens == T && weights.len() * T == panel.quads.len() * S);
    assert!(weights.len().is_multiple_of(VECTORS * S));
    let mut results = [[_mm512_setzero_ps(); T]; S];
    let (mut weight, mut quad) = (weights.as_ptr(), panel.quads.as_ptr());
    let lines_of_block = BLOCK / QUAD * S;
    for (block, lines) in weights.chunks(lines_of_block).enumerate() {
        let scales: &[f32; T] = panel.scales[block * T..].first_chunk().expect("scales of each block");
        // The weights include a bias of 128, which is subtracted here.
        let mut biases = [0; T];
        for sums in panel.sums[block * BLOCK_GROUPS * T..].as_chunks::<T>().0.iter().take(BLOCK_GROUPS) {
            biases.iter_mut().zip(sums).for_each(|(bias, sum)| *bias -= cell::bias(WIDEST) * sum);
        }
        let mut sums = [[_mm512_setzero_si512(); T]; S];
        for s in 0..S {
            for t in 0..T {
                sums[s][t] = _mm512_set1_epi32(biases[t]);
            }
            if let Some(fixes) = fixes[s] {
                let fixes: &[[i32; STRIP]; T] = fixes.sums[block * T..].first_chunk().expect("sums of each block");
                for t in 0..T {
                    // SAFETY: the load reads 64 bytes, which are 16 integers.
                    sums[s][t] = _mm512_add_epi32(sums[s][t], unsafe { _mm512_loadu_si512(fixes[t].as_ptr().cast()) });
                }
            }
        }
        for _ in 0..lines.len() / S {
            // SAFETY: there are S lines and T activations for each quad of columns, checked above.
            unsafe {
                let w: [__m512i; S] = std::array::from_fn(|s| _mm512_load_si512(weight.add(s).cast()));
                for t in 0..T {
                    let q = broadcast(quad.add(t));
                    for s in 0..S {
                        sums[s][t] = _mm512_dpbusd_epi32(sums[s][t], w[s], q);
                    }
                }
                (weight, quad) = (weight.add(S), quad.add(T));
            }
        }
        for s in 0..S {
            for t in 0..T {
                let sum = _mm512_cvtepi32_ps(sums[s][t]);
                results[s][t] = _mm512_fmadd_ps(sum, _mm512_set1_ps(scales[t]), results[s][t]);
            }
        }
    }
    for s in 0..S {
        for t in 0..T {
            store(&mut out[s][t], results[s][t]);
        }
    }
}
