//! Opening a strip: its integers at a layer, one byte each, in the order of cells of 8 bits.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use impasto_core::{Isa, at_each_isa};

#[cfg(target_arch = "x86_64")]
use super::super::avx512::unpack;
use super::super::cell::{self, CELL, Line, QUAD, VECTORS, WIDEST};
use super::super::row_group::{Outlier, Strip};
#[cfg(target_arch = "x86_64")]
use crate::prefetch::prefetch_ahead;

/// Calls a function that is generic over the factor of digits, so that its loops are unrolled.
#[cfg(target_arch = "x86_64")]
macro_rules! for_factor {
    ($factor:expr, $function:ident($($argument:expr),*)) => {
        match $factor {
            0 => $function::<0>($($argument),*),
            1 => $function::<1>($($argument),*),
            2 => $function::<2>($($argument),*),
            3 => $function::<3>($($argument),*),
            4 => $function::<4>($($argument),*),
            _ => $function::<ANY>($($argument),*),
        }
    };
}

/// Digits of a strip, and how they make codes of those of the layer below.
#[derive(Clone, Copy)]
pub(super) struct Digits<'a> {
    pub strip: Strip<'a>,
    /// What the codes below are multiplied by; 0 for the base.
    pub factor: u8,
    /// What is added to each digit.
    pub shift: u8,
}

impl Digits<'_> {
    /// Returns what to add after the multiplication of biased bytes, for digits that are biased at `width` bits: the biases
    /// cancel.
    fn shift(&self, width: u8) -> u8 {
        let bias = cell::bias(WIDEST) as u8;
        bias.wrapping_sub(bias.wrapping_mul(self.factor)).wrapping_sub(cell::bias(width) as u8).wrapping_add(self.shift)
    }

    /// Adds `factor` times the outliers to bytes.
    fn add_outliers(&self, factor: u8, lines: &mut [Line]) {
        self.strip.for_each_outlier::<false>(|Outlier { column, row, delta }| {
            let byte = &mut lines[column / QUAD].0[row * QUAD + column % QUAD];
            *byte = byte.wrapping_add((delta as u8).wrapping_mul(factor));
        });
    }
}

/// Writes the codes of a strip, modulo 256, plus 128, given the digits of the base and, possibly, of the layer above it.
pub(super) fn base(isa: Isa, base: Digits, above: Option<Digits>, lines: &mut [Line]) {
    match (isa.or_scalar(), above) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Some(above)) => {
            // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions.
            unsafe { for_factor!(above.factor, add_both_avx512(base, above, lines)) };
            base.add_outliers(above.factor, lines);
            above.add_outliers(1, lines);
        }
        (_, above) => {
            plane(isa, base, lines);
            above.into_iter().for_each(|above| plane(isa, above, lines));
        }
    }
}

/// Turns codes, modulo 256, plus 128, into those of the layer above.
pub(super) fn plane(isa: Isa, digits: Digits, lines: &mut [Line]) {
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions.
        Isa::Avx512 => unsafe { for_factor!(digits.factor, add_avx512(digits, lines)) },
        isa => add_portable(isa, digits, lines),
    }
    digits.add_outliers(1, lines);
}

/// Adds 1 to the codes below 0; all are plus 128.
pub(super) fn join_zeros(isa: Isa, lines: &mut [Line]) {
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions.
        Isa::Avx512 => unsafe { join_zeros_avx512(lines) },
        isa => join_zeros_portable(isa, lines),
    }
}

at_each_isa! {
    /// [`join_zeros`].
    fn join_zeros_portable(lines: &mut [Line]) {
        for Line(bytes) in lines {
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(u8::from(*byte < 128)));
        }
    }
}

/// [`join_zeros`] with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn join_zeros_avx512(lines: &mut [Line]) {
    let one = _mm512_set1_epi8(1);
    for line in lines {
        let at = line.0.as_mut_ptr().cast();
        // SAFETY: a line is 64 aligned bytes.
        let bytes = unsafe { _mm512_load_si512(at) };
        // The highest bit is set in codes of 0 or more.
        let bytes = _mm512_mask_add_epi8(bytes, !_mm512_movepi8_mask(bytes), bytes, one);
        // SAFETY: as above.
        unsafe { _mm512_store_si512(at, bytes) };
    }
}

at_each_isa! {
    /// [`plane`] without outliers.
    fn add_portable(digits: Digits, lines: &mut [Line]) {
        let mut of_cell = [0; CELL];
        let mut cells = digits.strip.cells;
        for (&width, lines) in digits.strip.widths.iter().zip(lines.as_chunks_mut::<VECTORS>().0) {
            let (cell, rest) = cells.split_at(width.into());
            cell::unpack(cell, width, &mut of_cell);
            let (factor, shift) = (digits.factor, digits.shift(width));
            for (Line(line), digits) in lines.iter_mut().zip(of_cell.as_chunks::<64>().0) {
                for (byte, digit) in line.iter_mut().zip(digits) {
                    *byte = byte.wrapping_mul(factor).wrapping_add(*digit).wrapping_add(shift);
                }
            }
            cells = rest;
        }
    }
}

/// The parameter of functions for any factor.
#[cfg(target_arch = "x86_64")]
const ANY: u8 = u8::MAX;

/// [`add_portable`] with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::needless_range_loop, reason = "with plain indices the digits stay in registers")]
fn add_avx512<const FACTOR: u8>(digits: Digits, lines: &mut [Line]) {
    let mut at = digits.strip.cells.as_ptr();
    for (&width, lines) in digits.strip.widths.iter().zip(lines.as_chunks_mut::<VECTORS>().0) {
        let shift = _mm512_set1_epi8(digits.shift(width) as i8);
        let lines = lines.as_mut_ptr();
        prefetch_ahead(at, width.into());
        // SAFETY: the strip has the lines of all its cells (`Strip::is_sound`); a line is 64 aligned bytes, and there is one
        // for each vector. The pointer ends at most one past the last line.
        unsafe {
            let of_cell = unpack_or_zero(at, width);
            for (v, of_cell) in of_cell.into_iter().enumerate() {
                let to = lines.add(v).cast();
                let codes = times::<FACTOR>(_mm512_load_si512(to), digits.factor);
                _mm512_store_si512(to.cast(), _mm512_add_epi8(_mm512_add_epi8(codes, of_cell), shift));
            }
            at = at.add(width.into());
        }
    }
}

/// [`add_avx512`] for the base and then for the layer above it, without codes in memory between them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::needless_range_loop, reason = "with plain indices the digits stay in registers")]
fn add_both_avx512<const FACTOR: u8>(base: Digits, above: Digits, lines: &mut [Line]) {
    let (mut at, mut at_above) = (base.strip.cells.as_ptr(), above.strip.cells.as_ptr());
    let widths = base.strip.widths.iter().zip(above.strip.widths);
    for ((&width, &width_above), lines) in widths.zip(lines.as_chunks_mut::<VECTORS>().0) {
        let shift = base.shift(width).wrapping_mul(above.factor).wrapping_add(above.shift(width_above));
        let shift = _mm512_set1_epi8(shift as i8);
        let lines = lines.as_mut_ptr();
        prefetch_ahead(at, width.into());
        prefetch_ahead(at_above, width_above.into());
        // SAFETY: as in `add_avx512`.
        unsafe {
            let (codes, digits) = (unpack_or_zero(at, width), unpack_or_zero(at_above, width_above));
            for v in 0..VECTORS {
                let codes = times::<FACTOR>(codes[v], above.factor);
                _mm512_store_si512(lines.add(v).cast(), _mm512_add_epi8(_mm512_add_epi8(codes, digits[v]), shift));
            }
            (at, at_above) = (at.add(width.into()), at_above.add(width_above.into()));
        }
    }
}

/// Returns the digits of a cell, biased.
///
/// Always inlined, so that they stay in registers.
///
/// # Safety
/// The processor supports AVX-512 F and BW. `at` points to `width` lines.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn unpack_or_zero(at: *const Line, width: u8) -> [__m512i; VECTORS] {
    // SAFETY: the caller guarantees the lines.
    unsafe { if width > 0 { unpack(at, width) } else { [_mm512_setzero_si512(); VECTORS] } }
}

/// Multiplies bytes by `FACTOR`, or by `factor` if that is [`ANY`], modulo 256.
///
/// # Safety
/// The processor supports AVX-512 F and BW.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn times<const FACTOR: u8>(bytes: __m512i, factor: u8) -> __m512i {
    // SAFETY: the caller guarantees the instructions.
    unsafe {
        let twice = _mm512_add_epi8(bytes, bytes);
        match FACTOR {
            0 => _mm512_setzero_si512(),
            1 => bytes,
            2 => twice,
            3 => _mm512_add_epi8(twice, bytes),
            4 => _mm512_add_epi8(twice, twice),
            _ => {
                // In two halves, because there is no product of bytes.
                let (factor, low) = (_mm512_set1_epi16(factor.into()), _mm512_set1_epi16(0xFF));
                let even = _mm512_and_si512(_mm512_mullo_epi16(bytes, factor), low);
                _mm512_or_si512(even, _mm512_mullo_epi16(_mm512_andnot_si512(low, bytes), factor))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{ColumnOrder, RowGroup};
    use super::*;

    #[test]
    fn every_instruction_set_opens_alike() {
        let mut rng = impasto_core::rng::SplitMix64::new(5);
        let (rows, inputs) = (16, 100);
        let columns = ColumnOrder::new(&vec![1.0; inputs], &vec![0; inputs]).unwrap();
        let mut random = |most: f64| (0..rows * inputs).map(|_| ((rng.next_f64() - 0.5) * most) as i32).collect();
        let pack = |z: &Vec<i32>| RowGroup::pack(z, &columns, &[1.0; 16], &[0; 16], 0).unwrap();
        for factor in [0, 1, 2, 3, 5, 6, 64, 255] {
            let (below, digits): (Vec<i32>, Vec<i32>) = (random(300.0), random(9.0));
            let (of_base, of_digits) = (pack(&below), pack(&digits));
            for isa in Isa::available() {
                let mut lines = vec![Line([9; 64]); 4 * VECTORS];
                let of_base = Digits { strip: of_base.strip(0), factor: 0, shift: 0 };
                let above = Digits { strip: of_digits.strip(0), factor, shift: 7 };
                base(isa, of_base, Some(above), &mut lines);
                let mut again = vec![Line([3; 64]); 4 * VECTORS];
                base(isa, of_base, None, &mut again);
                plane(isa, above, &mut again);
                assert!(lines.iter().zip(&again).all(|(a, b)| a.0 == b.0), "{isa} factor {factor}");
                for (i, (below, digit)) in below.iter().zip(&digits).enumerate() {
                    let (row, column) = (i / inputs, i % inputs);
                    let byte = lines[column / QUAD].0[row * QUAD + column % QUAD];
                    let z = below * i32::from(factor) + digit + 7;
                    assert_eq!(byte, (z + 128) as u8, "{isa} factor {factor}, row {row} column {column}");
                }
            }
        }
    }
}
