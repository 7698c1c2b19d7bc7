//! The AVX-512 kernel for joining values and raw fields, 16 elements at a time.

use std::arch::x86_64::*;

use impasto_core::FloatLayout;

/// The permutation that moves the raw fields of 16 elements to their lanes; the same for all rows of a tile.
///
/// A group of 16 fields is `q` words of 16 bits and begins at a byte, since a field has `q` bits. If `q` is at most 17,
/// field `j` lies within two words from word `j q / 16` on. A permutation moves these words to lane `j`, and a shift
/// aligns the field.
#[derive(Clone)]
pub(super) struct Fields {
    words: [u16; 32],
    shifts: [u32; 16],
}

impl Fields {
    /// Creates the permutation for a layout; `None` if its raw fields are longer than 17 bits.
    pub(super) fn new(layout: FloatLayout) -> Option<Fields> {
        let q = layout.raw_bits() as u16;
        let mut fields = Fields { words: [0; 32], shifts: [0; 16] };
        for (j, (words, shift)) in (0..).zip(fields.words.as_chunks_mut::<2>().0.iter_mut().zip(&mut fields.shifts)) {
            *words = [j * q / 16, j * q / 16 + 1];
            *shift = u32::from(j * q % 16);
        }
        (q <= 17).then_some(fields)
    }
}

/// Joins whole groups of 16 elements, as `join_from` does. Returns the number of elements joined.
///
/// # Safety
/// The processor supports the target features below; `fields` was created for `layout`; `out` holds `v.len()` floats,
/// and `plane` as many fields.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn join_row(fields: &Fields, layout: FloatLayout, v: &[i32], plane: &[u8], out: &mut [u8]) -> usize {
    let q = layout.raw_bits() as usize;
    let low_bits = layout.mantissa - 2;
    let group_mask = u64::MAX >> (64 - 2 * q);
    let set = |bits: u32| _mm512_set1_epi32(bits as i32);
    let count = |bits: u32| _mm_cvtsi32_si128(bits as i32);
    let groups = v.len() / 16;
    // SAFETY: group g reads 16 values and, under its mask, the 2 q bytes of its 16 fields; it writes 16 floats. There
    // are at least 16 * groups of each.
    unsafe {
        let words = _mm512_loadu_si512(fields.words.as_ptr().cast());
        let shifts = _mm512_loadu_si512(fields.shifts.as_ptr().cast());
        for g in 0..groups {
            let at = plane.as_ptr().add(2 * q * g).cast();
            let raw = _mm512_permutexvar_epi16(words, _mm512_maskz_loadu_epi8(group_mask, at));
            let raw = _mm512_and_si512(_mm512_srlv_epi32(raw, shifts), set((1 << q) - 1));
            let value = _mm512_and_si512(
                _mm512_loadu_si512(v.as_ptr().add(16 * g).cast()),
                set((1 << layout.value_bits()) - 1),
            );
            let sign =
                _mm512_sll_epi32(_mm512_srl_epi32(raw, count(low_bits)), count(layout.exponent + layout.mantissa));
            let low = _mm512_and_si512(raw, set((1 << low_bits) - 1));
            let float = _mm512_or_si512(_mm512_or_si512(sign, low), _mm512_sll_epi32(value, count(low_bits)));
            let to = out.as_mut_ptr().add(16 * g * layout.size());
            match layout.size() {
                4 => _mm512_storeu_si512(to.cast(), float),
                2 => _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(float)),
                _ => _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(float)),
            }
        }
    }
    16 * groups
}
