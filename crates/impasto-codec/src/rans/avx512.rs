//! The AVX-512 decoder: 16 lanes per vector, two vectors per step.

use std::arch::x86_64::*;

use super::kinds::{EXACT, FLOAT, LATTICE, REFINEMENT, max_class};
use super::{Columns, Decoder, LANES, LOW, OutOfWords};
use crate::class::Kind;
use crate::tables::{ESCAPE, TABLE_BITS, TOTAL};

impl Decoder<'_> {
    /// Decodes rows, as `rows_scalar` does.
    ///
    /// # Safety
    /// The processor supports the target features below; `values.len() == rows.len() * columns.padded()`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    pub(super) unsafe fn rows_avx512(
        &mut self,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        // SAFETY: the caller guarantees what `rows_of` requires, and each arm passes the kind of the tables.
        unsafe {
            match self.lut.kind() {
                Kind::Float => self.rows_of::<FLOAT>(rows, columns, values, escapes),
                Kind::Lattice => self.rows_of::<LATTICE>(rows, columns, values, escapes),
                Kind::Refinement => self.rows_of::<REFINEMENT>(rows, columns, values, escapes),
                Kind::Exact => self.rows_of::<EXACT>(rows, columns, values, escapes),
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    unsafe fn rows_of<const KIND: u8>(
        &mut self,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        let slots = self.lut.slots().as_ptr().cast();
        let end = self.words.len() / 2;
        let words = self.words.as_ptr().cast::<u16>();
        let (stride, width) = (columns.padded(), columns.width);
        let (classes, values) = (columns.classes.as_ptr(), values.as_mut_ptr());
        // SAFETY: `states` holds 32 u32. `columns` and each row of `values` hold `stride` elements, a multiple of 32
        // that is at least `width`. Rows are decoded as plain only if `is_plain` says so.
        unsafe {
            let states = self.states.as_mut_ptr();
            let mut x = [_mm512_loadu_si512(states.cast()), _mm512_loadu_si512(states.add(16).cast())];
            let mut used = self.used;
            for (r, &row) in rows.iter().enumerate() {
                let values = values.add(r * stride);
                let mut steps = Steps { slots, words, end, used, columns: classes, values, first: r * stride, x };
                if columns.is_plain(self.lut.kind(), row) {
                    steps.row::<KIND, true>(row, width, escapes)?;
                } else {
                    steps.row::<KIND, false>(row, width, escapes)?;
                }
                (x, used) = (steps.x, steps.used);
            }
            _mm512_storeu_si512(states.cast(), x[0]);
            _mm512_storeu_si512(states.add(16).cast(), x[1]);
            self.used = used;
        }
        Ok(())
    }
}

/// The state of decoding a row. A step reads and changes it in registers.
struct Steps {
    slots: *const i32,
    words: *const u16,
    /// Number of words, and number of words read.
    end: usize,
    used: usize,
    columns: *const i32,
    values: *mut i32,
    /// Index of the row's first value among all values.
    first: usize,
    x: [__m512i; 2],
}

impl Steps {
    /// Decodes a row. `PLAIN`: none of its classes is clamped or has low bits.
    ///
    /// # Safety
    /// The processor supports the target features below. `columns` and `values` hold `width` elements, rounded up to a
    /// multiple of 32. `words` holds `end` words, of which `used` have been read. `slots` points to all slots of the
    /// kind's tables. If `PLAIN`, [`Columns::is_plain`] is true of the row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    unsafe fn row<const KIND: u8, const PLAIN: bool>(
        &mut self,
        row: i32,
        width: usize,
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        let row = _mm512_set1_epi32(row);
        let [mut x0, mut x1] = self.x;
        let mut used = self.used;
        // SAFETY: columns and values are read and written in whole steps of 32 elements, to which they are padded. A
        // step loads words without a mask only if there are 32 more; otherwise the mask covers only words that exist.
        // The caller guarantees what `step` requires.
        unsafe {
            for c in (0..width).step_by(LANES) {
                let active = u32::MAX >> (LANES - (width - c).min(LANES));
                let whole = active == u32::MAX && self.end - used >= LANES;
                for (half, x) in [&mut x0, &mut x1].into_iter().enumerate() {
                    let at = c + 16 * half;
                    let classes = _mm512_add_epi32(row, _mm512_loadu_si512(self.columns.add(at).cast()));
                    let (value, next, escape) = step::<KIND, PLAIN>(self.slots, classes, *x);
                    _mm512_storeu_si512(self.values.add(at).cast(), value);
                    let low = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(LOW as i32));
                    let at_words = self.words.add(used);
                    let (active, low, loaded) = if whole {
                        (u16::MAX, low, _mm256_loadu_si256(at_words.cast()))
                    } else {
                        let active = (active >> (16 * half)) as u16;
                        let (low, left) = (low & active, self.end - used);
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
                        escapes.push((self.first + at) as u32 + found.trailing_zeros());
                        found &= found - 1;
                    }
                }
            }
        }
        (self.x, self.used) = ([x0, x1], used);
        Ok(())
    }
}

/// Decodes one symbol in each of 16 lanes. Returns the values, the states before renormalization, and the lanes with an
/// escape.
///
/// # Safety
/// `slots` points to all slots of the kind's tables. If `PLAIN`, the classes satisfy [`Columns::is_plain`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn step<const KIND: u8, const PLAIN: bool>(
    slots: *const i32,
    classes: __m512i,
    x: __m512i,
) -> (__m512i, __m512i, __mmask16) {
    let set = |v: i32| _mm512_set1_epi32(v);
    let zero = _mm512_setzero_si512();
    let most = const { max_class(KIND) };
    let t = if PLAIN { classes } else { _mm512_min_epi32(_mm512_max_epi32(classes, zero), set(most)) };
    // Low bits as in `class`. Kind float has none; there the octave is part of the value.
    let with_low_bits = !PLAIN && (KIND == LATTICE || KIND == EXACT);
    let (table, low_bits) = if !with_low_bits {
        (if KIND == FLOAT { _mm512_and_si512(t, set(3)) } else { t }, zero)
    } else if KIND == LATTICE {
        let b = _mm512_max_epi32(_mm512_sub_epi32(_mm512_srli_epi32::<2>(t), set(5)), zero);
        (_mm512_sub_epi32(t, _mm512_slli_epi32::<2>(b)), b)
    } else {
        let octave = _mm512_srli_epi32::<2>(_mm512_add_epi32(t, set(1)));
        (t, _mm512_max_epi32(_mm512_sub_epi32(octave, set(3)), zero))
    };
    let y = if with_low_bits { _mm512_srlv_epi32(x, low_bits) } else { x };
    let index = _mm512_add_epi32(_mm512_slli_epi32::<TABLE_BITS>(table), _mm512_and_si512(y, set(TOTAL as i32 - 1)));
    // SAFETY: the table is below the kind's number of tables, and the slot is below 2048.
    let slot = unsafe { _mm512_i32gather_epi32::<4>(index, slots) };
    let symbol = _mm512_and_si512(slot, set(0xFF));
    let frequency = _mm512_and_si512(_mm512_srli_epi32::<8>(slot), set(0xFFF));
    let next = _mm512_add_epi32(
        _mm512_mullo_epi32(frequency, _mm512_srli_epi32::<TABLE_BITS>(y)),
        _mm512_srli_epi32::<20>(slot),
    );
    let value = if with_low_bits {
        let power = _mm512_sllv_epi32(set(1), low_bits);
        let low = _mm512_and_si512(x, _mm512_sub_epi32(power, set(1)));
        let high = _mm512_sllv_epi32(_mm512_sub_epi32(symbol, set(31)), low_bits);
        _mm512_sub_epi32(_mm512_add_epi32(high, low), _mm512_srli_epi32::<1>(power))
    } else if KIND != FLOAT {
        _mm512_sub_epi32(symbol, set(31))
    } else {
        _mm512_add_epi32(symbol, _mm512_sub_epi32(_mm512_and_si512(t, set(!3)), set(48)))
    };
    (value, next, _mm512_cmpeq_epi32_mask(symbol, set(ESCAPE as i32)))
}
