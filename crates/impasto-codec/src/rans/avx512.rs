//! The AVX-512 kernels of decoder and coder: 16 lanes per vector, two vectors per step.

use std::arch::x86_64::*;

use super::kinds::{EXACT, FLOAT, LATTICE, REFINEMENT, TRELLIS, TRELLIS_REFINEMENT, max_class};
use super::{Columns, Decoder, LANES, LOW, OutOfWords};
use crate::class::Kind;
use crate::tables::{ESCAPE, TABLE_BITS, TOTAL};

/// Number of steps between two looks at the escapes.
const BLOCK: usize = 64;

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
                Kind::Trellis => self.rows_of::<TRELLIS>(rows, columns, values, escapes),
                Kind::Refinement => self.rows_of::<REFINEMENT>(rows, columns, values, escapes),
                Kind::TrellisRefinement => self.rows_of::<TRELLIS_REFINEMENT>(rows, columns, values, escapes),
                Kind::Exact => self.rows_of::<EXACT>(rows, columns, values, escapes),
            }
        }
    }

    /// `rows_avx512` for one kind.
    ///
    /// # Safety
    /// As for `rows_avx512`; `KIND` is the kind of the tables.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    unsafe fn rows_of<const KIND: u8>(
        &mut self,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        let kind = self.lut.kind();
        for (r, &row) in rows.iter().enumerate() {
            let first = r * columns.padded();
            let values = &mut values[first..first + columns.padded()];
            // SAFETY: the caller guarantees what `row` requires. A row is decoded as plain only if `is_plain` says so.
            unsafe {
                if columns.is_plain(kind, row) {
                    self.row::<KIND, true>(row, columns, values, first, escapes)?;
                } else {
                    self.row::<KIND, false>(row, columns, values, first, escapes)?;
                }
            }
        }
        Ok(())
    }

    /// Decodes a row, whose first value has index `first` among all. `PLAIN`: none of its classes is clamped or has low
    /// bits.
    ///
    /// # Safety
    /// The processor supports the target features below; `KIND` is the kind of the tables;
    /// `values.len() == columns.padded()`. If `PLAIN`, [`Columns::is_plain`] is true of the row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    unsafe fn row<const KIND: u8, const PLAIN: bool>(
        &mut self,
        row: i32,
        columns: &Columns,
        values: &mut [i32],
        first: usize,
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        let slots = self.lut.slots().as_ptr().cast();
        let (classes, values) = (columns.classes.as_ptr(), values.as_mut_ptr());
        let (words, end, mut used) = (self.words.as_ptr().cast::<u16>(), self.words.len() / 2, self.used);
        // The lanes with an escape, as bits, for each step of a block. They are gone through after the block: a call in
        // the inner loop would cost the states their registers.
        let mut found = [0u32; BLOCK];
        // SAFETY: there are 32 states. `classes` and `values` hold `width` elements, rounded up to a multiple of 32, and
        // are read and written in whole steps of 32. A step of the inner loop loads at most 32 words, which are there;
        // other steps load only words that exist. The caller guarantees what `step` requires.
        unsafe {
            let row = _mm512_set1_epi32(row);
            let states = self.states.as_mut_ptr();
            let mut x = [_mm512_loadu_si512(states.cast()), _mm512_loadu_si512(states.add(16).cast())];
            for block in (0..columns.width).step_by(BLOCK * LANES) {
                let block_end = columns.width.min(block + BLOCK * LANES);
                let (mut c, mut any) = (block, 0);
                while c + LANES <= block_end && end - used >= LANES {
                    let mut of_step = 0;
                    for (half, x) in x.iter_mut().enumerate() {
                        let at = c + 16 * half;
                        let class = _mm512_add_epi32(row, _mm512_loadu_si512(classes.add(at).cast()));
                        let (value, next, escape) = step::<KIND, PLAIN>(slots, class, *x);
                        _mm512_storeu_si512(values.add(at).cast(), value);
                        let low = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(LOW as i32));
                        *x = renormalized(next, low, _mm256_loadu_si256(words.add(used).cast()));
                        used += low.count_ones() as usize;
                        of_step |= u32::from(escape) << (16 * half);
                    }
                    found[(c - block) / LANES] = of_step;
                    any |= of_step;
                    c += LANES;
                }
                // The last step of a row may be shorter, and the words that are left fewer than a step may take.
                for c in (c..block_end).step_by(LANES) {
                    let active = u32::MAX >> (LANES - (block_end - c).min(LANES));
                    let mut of_step = 0;
                    for (half, x) in x.iter_mut().enumerate() {
                        let (at, active) = (c + 16 * half, (active >> (16 * half)) as u16);
                        let class = _mm512_add_epi32(row, _mm512_loadu_si512(classes.add(at).cast()));
                        let (value, next, escape) = step::<KIND, PLAIN>(slots, class, *x);
                        _mm512_storeu_si512(values.add(at).cast(), value);
                        let low = _mm512_mask_cmplt_epu32_mask(active, next, _mm512_set1_epi32(LOW as i32));
                        let left = end - used;
                        if low.count_ones() as usize > left {
                            return Err(OutOfWords);
                        }
                        let exist = if left >= 16 { u16::MAX } else { (1 << left) - 1 };
                        let loaded = _mm256_maskz_loadu_epi16(exist, words.add(used).cast());
                        *x = _mm512_mask_mov_epi32(*x, active, renormalized(next, low, loaded));
                        used += low.count_ones() as usize;
                        of_step |= u32::from(escape & active) << (16 * half);
                    }
                    found[(c - block) / LANES] = of_step;
                    any |= of_step;
                }
                if any != 0 {
                    let steps = (block_end - block).div_ceil(LANES);
                    for (at, mut lanes) in (first + block..).step_by(LANES).zip(found).take(steps) {
                        while lanes != 0 {
                            escapes.push(at as u32 + lanes.trailing_zeros());
                            lanes &= lanes - 1;
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

/// Returns the states `x` after the lanes `low` have each taken one of the words `loaded`, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn renormalized(x: __m512i, low: __mmask16, loaded: __m256i) -> __m512i {
    let taken = _mm512_maskz_expand_epi32(low, _mm512_cvtepu16_epi32(loaded));
    _mm512_mask_or_epi32(x, low, _mm512_slli_epi32::<16>(x), taken)
}

/// The classes of kind exact, of which nearly every row has wide ones: their low bits (SPEC 7.3), a mask of these, and what is taken
/// away from symbol and low bits (SPEC 10.1).
const LOW_BITS: [i32; 32] = {
    let (mut bits, mut class) = ([0; 32], 15);
    while class < 32 {
        bits[class] = ((class as i32 + 1) >> 2) - 3;
        class += 1;
    }
    bits
};
const LOW_MASKS: [i32; 32] = {
    let (mut masks, mut class) = ([0; 32], 0);
    while class < 32 {
        masks[class] = (1 << LOW_BITS[class]) - 1;
        class += 1;
    }
    masks
};
const OFFSETS: [i32; 32] = {
    let (mut offsets, mut class) = ([0; 32], 0);
    while class < 32 {
        offsets[class] = (31 << LOW_BITS[class]) + (1 << LOW_BITS[class] >> 1);
        class += 1;
    }
    offsets
};

/// Returns the entry of each class, which is from 0 to 31.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_class(entries: &[i32; 32], classes: __m512i) -> __m512i {
    // SAFETY: there are 32 entries.
    unsafe {
        let low = _mm512_loadu_si512(entries.as_ptr().cast());
        _mm512_permutex2var_epi32(low, classes, _mm512_loadu_si512(entries.as_ptr().add(16).cast()))
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
    let mut t = if PLAIN { classes } else { _mm512_min_epi32(_mm512_max_epi32(classes, zero), set(most)) };
    if !PLAIN && KIND == TRELLIS {
        // The parity is not clamped.
        t = _mm512_or_si512(_mm512_and_si512(t, set(!1)), _mm512_and_si512(classes, set(1)));
    }
    // Low bits as in `class`. Kind float has none; there the octave is part of the value.
    let with_low_bits = !PLAIN && (KIND == LATTICE || KIND == TRELLIS || KIND == EXACT);
    let (table, low_bits) = if !with_low_bits {
        (if KIND == FLOAT { _mm512_and_si512(t, set(3)) } else { t }, zero)
    } else if KIND == LATTICE {
        let b = _mm512_max_epi32(_mm512_sub_epi32(_mm512_srli_epi32::<2>(t), set(5)), zero);
        (_mm512_sub_epi32(t, _mm512_slli_epi32::<2>(b)), b)
    } else if KIND == TRELLIS {
        let b = _mm512_max_epi32(_mm512_sub_epi32(_mm512_srli_epi32::<3>(t), set(5)), zero);
        (_mm512_sub_epi32(t, _mm512_slli_epi32::<3>(b)), b)
    } else {
        (t, of_class(&LOW_BITS, t))
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
    let value = if with_low_bits && KIND == EXACT {
        let low = _mm512_and_si512(x, of_class(&LOW_MASKS, t));
        _mm512_sub_epi32(_mm512_add_epi32(_mm512_sllv_epi32(symbol, low_bits), low), of_class(&OFFSETS, t))
    } else if with_low_bits {
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

/// `emit` of the coder.
///
/// # Safety
/// The processor supports the target features below.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn emit(states: &[u32; LANES], emits: &[u32; LANES], room: &mut [u16; LANES]) -> usize {
    let mut end = LANES;
    for (states, emits) in states.as_chunks::<16>().0.iter().zip(emits.as_chunks::<16>().0).rev() {
        // SAFETY: both hold 16 lanes. The `n` words go before `end`, which leaves the other 16 their place.
        unsafe {
            let emits = _mm512_loadu_si512(emits.as_ptr().cast());
            let emits = _mm512_test_epi32_mask(emits, emits);
            let n = emits.count_ones() as usize;
            let kept = _mm512_maskz_compress_epi32(emits, _mm512_loadu_si512(states.as_ptr().cast()));
            end -= n;
            let first = ((1u32 << n) - 1) as u16;
            _mm512_mask_cvtepi32_storeu_epi16(room.as_mut_ptr().add(end).cast(), first, kept);
        }
    }
    LANES - end
}
