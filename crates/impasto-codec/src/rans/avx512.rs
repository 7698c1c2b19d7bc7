//! The AVX-512 decoder: 16 lanes a vector, two vectors a step.

use std::arch::x86_64::*;

use super::{Decoder, LANES, LOW, OutOfWords};
use crate::class::Kind;
use crate::tables::{ESCAPE, TABLE_BITS, TOTAL};

impl Decoder<'_> {
    /// As `rows_scalar`.
    ///
    /// # Safety
    /// The processor has the features below; `width <= columns.len()`, a multiple of 32; `values.len() == rows.len() * columns.len()`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    pub(super) unsafe fn rows_avx512(
        &mut self,
        rows: &[i32],
        columns: &[i32],
        width: usize,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        // SAFETY: as this function's own.
        unsafe {
            match self.lut.kind() {
                Kind::Float => self.rows_of::<false>(rows, columns, width, values, escapes),
                Kind::Lattice => self.rows_of::<true>(rows, columns, width, values, escapes),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    unsafe fn rows_of<const LATTICE: bool>(
        &mut self,
        rows: &[i32],
        columns: &[i32],
        width: usize,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        let slots = self.lut.slots().as_ptr().cast();
        let end = self.words.len() / 2;
        let words = self.words.as_ptr().cast::<u16>();
        let stride = columns.len();
        let (columns, values) = (columns.as_ptr(), values.as_mut_ptr());
        // SAFETY: `states` holds 32 u32. Columns and values are read and written in whole steps of 32 elements, and their length is a
        // multiple of 32. A step without masks is only taken where all its 32 words exist; else words are loaded under a mask of
        // those that exist. A slot index is below `tables << TABLE_BITS` by the clamp of the class, and the look-up table has
        // that many slots.
        unsafe {
            let states = self.states.as_mut_ptr();
            let mut x = [_mm512_loadu_si512(states.cast()), _mm512_loadu_si512(states.add(16).cast())];
            let mut used = self.used;
            for (r, &row) in rows.iter().enumerate() {
                let row = _mm512_set1_epi32(row);
                for c in (0..width).step_by(LANES) {
                    let active = u32::MAX >> (LANES - (width - c).min(LANES));
                    let whole = active == u32::MAX && end - used >= LANES;
                    for (half, x) in x.iter_mut().enumerate() {
                        let at = r * stride + c + 16 * half;
                        let classes = _mm512_add_epi32(row, _mm512_loadu_si512(columns.add(c + 16 * half).cast()));
                        let (value, next, escape) = step::<LATTICE>(slots, classes, *x);
                        _mm512_storeu_si512(values.add(at).cast(), value);
                        let low = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(LOW as i32));
                        let at_words = words.add(used);
                        let (active, low, loaded) = if whole {
                            (u16::MAX, low, _mm256_loadu_si256(at_words.cast()))
                        } else {
                            let active = (active >> (16 * half)) as u16;
                            let (low, left) = (low & active, end - used);
                            if low.count_ones() as usize > left {
                                return Err(OutOfWords);
                            }
                            let exist = if left >= 16 { u16::MAX } else { (1 << left) - 1 };
                            (active, low, _mm256_maskz_loadu_epi16(exist, at_words.cast()))
                        };
                        let taken = _mm512_maskz_expand_epi32(low, _mm512_cvtepu16_epi32(loaded));
                        let next = _mm512_mask_or_epi32(next, low, _mm512_slli_epi32::<16>(next), taken);
                        *x = if whole { next } else { _mm512_mask_mov_epi32(*x, active, next) };
                        used += low.count_ones() as usize;
                        let mut found = escape & active;
                        while found != 0 {
                            escapes.push(at as u32 + found.trailing_zeros());
                            found &= found - 1;
                        }
                    }
                }
            }
            _mm512_storeu_si512(states.cast(), x[0]);
            _mm512_storeu_si512(states.add(16).cast(), x[1]);
            self.used = used;
        }
        Ok(())
    }
}

/// Decodes one symbol in each of 16 lanes: values, states before renormalisation, lanes that hold an escape.
///
/// # Safety
/// `slots` points to all slots of the kind's tables.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn step<const LATTICE: bool>(slots: *const i32, classes: __m512i, x: __m512i) -> (__m512i, __m512i, __mmask16) {
    let set = |v: i32| _mm512_set1_epi32(v);
    let zero = _mm512_setzero_si512();
    let kind = if LATTICE { Kind::Lattice } else { Kind::Float };
    let t = _mm512_min_epi32(_mm512_max_epi32(classes, zero), set(kind.max_class()));
    // Low bits, as `class` says; none in kind float, where the octave moves the value instead.
    let (table, low_bits) = if LATTICE {
        let b = _mm512_max_epi32(_mm512_sub_epi32(_mm512_srli_epi32::<2>(t), set(5)), zero);
        (_mm512_sub_epi32(t, _mm512_slli_epi32::<2>(b)), b)
    } else {
        (_mm512_and_si512(t, set(3)), zero)
    };
    let y = if LATTICE { _mm512_srlv_epi32(x, low_bits) } else { x };
    let index = _mm512_add_epi32(_mm512_slli_epi32::<TABLE_BITS>(table), _mm512_and_si512(y, set(TOTAL as i32 - 1)));
    // SAFETY: the table is below the kind's number of tables and the slot below 2048.
    let slot = unsafe { _mm512_i32gather_epi32::<4>(index, slots) };
    let symbol = _mm512_and_si512(slot, set(0xFF));
    let frequency = _mm512_and_si512(_mm512_srli_epi32::<8>(slot), set(0xFFF));
    let next = _mm512_add_epi32(
        _mm512_mullo_epi32(frequency, _mm512_srli_epi32::<TABLE_BITS>(y)),
        _mm512_srli_epi32::<20>(slot),
    );
    let value = if LATTICE {
        let power = _mm512_sllv_epi32(set(1), low_bits);
        let low = _mm512_and_si512(x, _mm512_sub_epi32(power, set(1)));
        let high = _mm512_sllv_epi32(_mm512_sub_epi32(symbol, set(31)), low_bits);
        _mm512_sub_epi32(_mm512_add_epi32(high, low), _mm512_srli_epi32::<1>(power))
    } else {
        _mm512_add_epi32(symbol, _mm512_sub_epi32(_mm512_and_si512(t, set(!3)), set(48)))
    };
    (value, next, _mm512_cmpeq_epi32_mask(symbol, set(ESCAPE as i32)))
}
