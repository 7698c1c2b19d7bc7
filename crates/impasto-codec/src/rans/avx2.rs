//! The AVX2 decoder: 8 lanes per vector, four vectors per step.

use std::arch::x86_64::*;

use super::kinds::{EXACT, FLOAT, LATTICE, REFINEMENT, TRELLIS, TRELLIS_REFINEMENT, max_class};
use super::{Columns, Decoder, LANES, OutOfWords};
use crate::class::Kind;
use crate::tables::{ESCAPE, TABLE_BITS, TOTAL};

/// Lanes per vector, and vectors per step.
const WIDTH: usize = 8;
const VECTORS: usize = LANES / WIDTH;

/// For each set of lanes (bit `i` for lane `i`), the byte shuffle that moves the next words, in order, to these lanes,
/// and 0 to the other lanes.
static SPREAD: [[u8; 16]; 256] = {
    let mut spread = [[0x80; 16]; 256];
    let mut lanes = 0;
    while lanes < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < WIDTH {
            if lanes >> lane & 1 == 1 {
                spread[lanes][2 * lane] = 2 * word;
                spread[lanes][2 * lane + 1] = 2 * word + 1;
                word += 1;
            }
            lane += 1;
        }
        lanes += 1;
    }
    spread
};

impl Decoder<'_> {
    /// Decodes rows, as `rows_scalar` does.
    ///
    /// # Safety
    /// The processor supports AVX2 and POPCNT; `values.len() == rows.len() * columns.padded()`.
    #[target_feature(enable = "avx2,popcnt")]
    pub(super) unsafe fn rows_avx2(
        &mut self,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        // SAFETY: the caller guarantees what `rows_of` requires, and each arm passes the kind of the tables.
        unsafe {
            match self.lut.kind() {
                Kind::Float => rows_of::<FLOAT>(self, rows, columns, values, escapes),
                Kind::Lattice => rows_of::<LATTICE>(self, rows, columns, values, escapes),
                Kind::Trellis => rows_of::<TRELLIS>(self, rows, columns, values, escapes),
                Kind::Refinement => rows_of::<REFINEMENT>(self, rows, columns, values, escapes),
                Kind::TrellisRefinement => rows_of::<TRELLIS_REFINEMENT>(self, rows, columns, values, escapes),
                Kind::Exact => rows_of::<EXACT>(self, rows, columns, values, escapes),
            }
        }
    }
}

/// `rows_avx2` for one kind.
///
/// # Safety
/// As for `rows_avx2`; `KIND` is the kind of the decoder's tables.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn rows_of<const KIND: u8>(
    decoder: &mut Decoder,
    rows: &[i32],
    columns: &Columns,
    values: &mut [i32],
    escapes: &mut Vec<u32>,
) -> Result<(), OutOfWords> {
    let kind = decoder.lut.kind();
    let mut steps = Steps {
        slots: decoder.lut.slots().as_ptr(),
        words: decoder.words,
        used: decoder.used,
        columns: columns.classes.as_ptr(),
        values: values.as_mut_ptr(),
        first: 0,
        x: [_mm256_setzero_si256(); VECTORS],
    };
    // SAFETY: `states` holds 32 u32. `columns` and each row of `values` hold the padded width, a multiple of 32. Rows
    // are decoded as plain only if `is_plain` says so.
    unsafe {
        for (k, x) in steps.x.iter_mut().enumerate() {
            *x = _mm256_loadu_si256(decoder.states.as_ptr().add(WIDTH * k).cast());
        }
        for (r, &row) in rows.iter().enumerate() {
            steps.first = r * columns.padded();
            if columns.is_plain(kind, row) {
                steps.row::<KIND, true>(row, columns.width, escapes)?;
            } else {
                steps.row::<KIND, false>(row, columns.width, escapes)?;
            }
        }
        for (k, &x) in steps.x.iter().enumerate() {
            _mm256_storeu_si256(decoder.states.as_mut_ptr().add(WIDTH * k).cast(), x);
        }
    }
    decoder.used = steps.used;
    Ok(())
}

/// The state of decoding rows. A step reads and changes it in registers.
struct Steps<'a> {
    slots: *const u32,
    /// Words, 2 bytes each, and the number of words read.
    words: &'a [u8],
    used: usize,
    columns: *const i32,
    values: *mut i32,
    /// Index of the row's first value among all values.
    first: usize,
    x: [__m256i; VECTORS],
}

impl Steps<'_> {
    /// Decodes a row. `PLAIN`: none of its classes is clamped or has low bits.
    ///
    /// # Safety
    /// The processor supports AVX2 and POPCNT. `columns`, and `values` from `first` on, hold `width` elements, rounded
    /// up to a multiple of 32. `slots` points to all slots of the kind's tables. If `PLAIN`, [`Columns::is_plain`] is
    /// true of the row.
    #[inline]
    #[target_feature(enable = "avx2,popcnt")]
    unsafe fn row<const KIND: u8, const PLAIN: bool>(
        &mut self,
        row: i32,
        width: usize,
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        let rows = _mm256_set1_epi32(row);
        let (mut x, mut used, mut c) = (self.x, self.used, 0);
        let end = self.words.len() / 2;
        // Steps of 32 elements for which there are enough words, whatever the elements are.
        while width - c >= LANES && end - used >= LANES {
            let (mut next, mut escape) = (x, x);
            for k in 0..VECTORS {
                let at = c + WIDTH * k;
                // SAFETY: there are 32 columns and values from c on. The caller guarantees what `step` requires.
                unsafe {
                    let classes = _mm256_add_epi32(rows, _mm256_loadu_si256(self.columns.add(at).cast()));
                    let value;
                    (value, next[k], escape[k]) = step::<KIND, PLAIN>(self.slots, classes, x[k]);
                    _mm256_storeu_si256(self.values.add(self.first + at).cast(), value);
                }
            }
            for k in 0..VECTORS {
                // SAFETY: there were 32 words from `used` on before this step, and each earlier vector took at most 8.
                let words = unsafe { _mm_loadu_si128(self.words.as_ptr().add(2 * used).cast()) };
                let low = below_2_16(next[k]);
                x[k] = renormalised(next[k], low, words);
                used += lanes(low).count_ones() as usize;
            }
            let any = _mm256_or_si256(_mm256_or_si256(escape[0], escape[1]), _mm256_or_si256(escape[2], escape[3]));
            if _mm256_testz_si256(any, any) == 0 {
                push_escapes((self.first + c) as u32, escape, escapes);
            }
            c += LANES;
        }
        (self.x, self.used) = (x, used);
        while c < width {
            // SAFETY: the caller guarantees what `guarded_step` requires.
            unsafe { self.guarded_step::<KIND>(row, c, width - c, escapes)? };
            c += LANES;
        }
        Ok(())
    }

    /// Decodes the next elements of a row from column `c` on: 32, or `left` if that is less. Checks for the end of the
    /// words.
    ///
    /// # Safety
    /// As for [`Steps::row`].
    #[inline(never)]
    #[target_feature(enable = "avx2,popcnt")]
    unsafe fn guarded_step<const KIND: u8>(
        &mut self,
        row: i32,
        c: usize,
        left: usize,
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        let mut escape = [_mm256_setzero_si256(); VECTORS];
        for (k, (x, escape)) in self.x.iter_mut().zip(&mut escape).enumerate() {
            let at = c + WIDTH * k;
            // SAFETY: columns and values are padded to whole steps. The caller guarantees what `step` requires.
            let (next, found) = unsafe {
                let classes = _mm256_add_epi32(_mm256_set1_epi32(row), _mm256_loadu_si256(self.columns.add(at).cast()));
                let (value, next, found) = step::<KIND, false>(self.slots, classes, *x);
                _mm256_storeu_si256(self.values.add(self.first + at).cast(), value);
                (next, found)
            };
            let active = first_lanes(left.saturating_sub(WIDTH * k));
            let low = _mm256_and_si256(below_2_16(next), active);
            let taken = lanes(low).count_ones() as usize;
            if taken > self.words.len() / 2 - self.used {
                return Err(OutOfWords);
            }
            let words = next_words(self.words, self.used);
            *x = _mm256_blendv_epi8(*x, renormalised(next, low, words), active);
            self.used += taken;
            *escape = _mm256_and_si256(found, active);
        }
        push_escapes((self.first + c) as u32, escape, escapes);
        Ok(())
    }
}

/// Appends the indices of escapes; `first` is that of lane 0.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn push_escapes(first: u32, escape: [__m256i; VECTORS], escapes: &mut Vec<u32>) {
    for (k, &escape) in (0..).zip(&escape) {
        let mut found = lanes(escape);
        while found != 0 {
            escapes.push(first + WIDTH as u32 * k + found.trailing_zeros());
            found &= found - 1;
        }
    }
}

/// Returns the lanes whose state is below 2^16, as all ones.
#[inline]
#[target_feature(enable = "avx2")]
fn below_2_16(x: __m256i) -> __m256i {
    _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(x), _mm256_setzero_si256())
}

/// Returns a bit for each lane that is all ones.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(mask: __m256i) -> u32 {
    _mm256_movemask_ps(_mm256_castsi256_ps(mask)) as u32
}

/// Returns the first `n` lanes, as all ones.
#[inline]
#[target_feature(enable = "avx2")]
fn first_lanes(n: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(WIDTH) as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Returns the 8 words from `used` on, with 0 past the end.
#[inline]
#[target_feature(enable = "avx2")]
fn next_words(words: &[u8], used: usize) -> __m128i {
    let rest = &words[2 * used..];
    let mut next = [0; 16];
    let n = rest.len().min(16);
    next[..n].copy_from_slice(&rest[..n]);
    // SAFETY: the load reads the 16 bytes of `next`.
    unsafe { _mm_loadu_si128(next.as_ptr().cast()) }
}

/// Returns the states after each lane in `low`, whose state is below 2^16, has taken a word, in order.
#[inline]
#[target_feature(enable = "avx2")]
fn renormalised(x: __m256i, low: __m256i, words: __m128i) -> __m256i {
    // SAFETY: the load reads the 16 bytes of an entry of `SPREAD`.
    let spread = unsafe { _mm_loadu_si128(SPREAD[lanes(low) as usize & 255].as_ptr().cast()) };
    let taken = _mm256_cvtepu16_epi32(_mm_shuffle_epi8(words, spread));
    _mm256_or_si256(_mm256_blendv_epi8(x, _mm256_slli_epi32::<16>(x), low), taken)
}

/// Decodes one symbol in each of 8 lanes. Returns the values, the states before renormalization, and the lanes with an
/// escape (as all ones).
///
/// # Safety
/// `slots` points to all slots of the kind's tables. If `PLAIN`, the classes satisfy [`Columns::is_plain`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step<const KIND: u8, const PLAIN: bool>(
    slots: *const u32,
    classes: __m256i,
    x: __m256i,
) -> (__m256i, __m256i, __m256i) {
    let set = |v: i32| _mm256_set1_epi32(v);
    let zero = _mm256_setzero_si256();
    let most = const { max_class(KIND) };
    let mut t = if PLAIN { classes } else { _mm256_min_epi32(_mm256_max_epi32(classes, zero), set(most)) };
    if !PLAIN && KIND == TRELLIS {
        // The parity is not clamped.
        t = _mm256_or_si256(_mm256_and_si256(t, set(!1)), _mm256_and_si256(classes, set(1)));
    }
    // Low bits as in `class`. Kind float has none; there the octave is part of the value.
    let with_low_bits = !PLAIN && (KIND == LATTICE || KIND == TRELLIS || KIND == EXACT);
    let (table, low_bits) = if !with_low_bits {
        (if KIND == FLOAT { _mm256_and_si256(t, set(3)) } else { t }, zero)
    } else if KIND == LATTICE {
        let b = _mm256_max_epi32(_mm256_sub_epi32(_mm256_srli_epi32::<2>(t), set(5)), zero);
        (_mm256_sub_epi32(t, _mm256_slli_epi32::<2>(b)), b)
    } else if KIND == TRELLIS {
        let b = _mm256_max_epi32(_mm256_sub_epi32(_mm256_srli_epi32::<3>(t), set(5)), zero);
        (_mm256_sub_epi32(t, _mm256_slli_epi32::<3>(b)), b)
    } else {
        let octave = _mm256_srli_epi32::<2>(_mm256_add_epi32(t, set(1)));
        (t, _mm256_max_epi32(_mm256_sub_epi32(octave, set(3)), zero))
    };
    let y = if with_low_bits { _mm256_srlv_epi32(x, low_bits) } else { x };
    let table = _mm256_slli_epi32::<{ TABLE_BITS as i32 }>(table);
    let index = _mm256_or_si256(table, _mm256_and_si256(y, set(TOTAL as i32 - 1)));
    // SAFETY: the table is below the kind's number of tables, and the slot is below 2048.
    let slot = unsafe { look_up(slots, index) };
    let symbol = _mm256_and_si256(slot, set(0xFF));
    let frequency = _mm256_and_si256(_mm256_srli_epi32::<8>(slot), set(0xFFF));
    let next = _mm256_add_epi32(
        _mm256_mullo_epi32(frequency, _mm256_srli_epi32::<{ TABLE_BITS as i32 }>(y)),
        _mm256_srli_epi32::<20>(slot),
    );
    let value = if with_low_bits {
        let power = _mm256_sllv_epi32(set(1), low_bits);
        let low = _mm256_and_si256(x, _mm256_sub_epi32(power, set(1)));
        let high = _mm256_sllv_epi32(_mm256_sub_epi32(symbol, set(31)), low_bits);
        _mm256_sub_epi32(_mm256_add_epi32(high, low), _mm256_srli_epi32::<1>(power))
    } else if KIND != FLOAT {
        _mm256_sub_epi32(symbol, set(31))
    } else {
        _mm256_add_epi32(symbol, _mm256_sub_epi32(_mm256_and_si256(t, set(!3)), set(48)))
    };
    (value, next, _mm256_cmpeq_epi32(symbol, set(ESCAPE as i32)))
}

/// Returns the slots at 8 indices.
///
/// It uses one load per lane. On Zen 4 that decodes 5% to 10% faster than the gather instruction, and on other
/// processors mitigations of Gather Data Sampling have slowed gathers down.
///
/// # Safety
/// Every lane of `index` is below the number of slots at `slots`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn look_up(slots: *const u32, index: __m256i) -> __m256i {
    let four = |index: __m128i| {
        let (a, b) = (_mm_cvtsi128_si64(index) as u64, _mm_extract_epi64::<1>(index) as u64);
        // SAFETY: the caller guarantees that each index is in range.
        let slot = |i: u64| unsafe { *slots.add(i as usize) } as i32;
        let found = _mm_cvtsi32_si128(slot(a & 0xFFFF_FFFF));
        let found = _mm_insert_epi32::<1>(found, slot(a >> 32));
        let found = _mm_insert_epi32::<2>(found, slot(b & 0xFFFF_FFFF));
        _mm_insert_epi32::<3>(found, slot(b >> 32))
    };
    let low = four(_mm256_castsi256_si128(index));
    _mm256_set_m128i(four(_mm256_extracti128_si256::<1>(index)), low)
}
