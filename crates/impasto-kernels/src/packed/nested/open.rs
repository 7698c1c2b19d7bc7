//! Opening a strip: its integers at a layer, one byte each, in the order of cells of 8 bits.

use impasto_core::{Isa, at_each_isa};

use super::super::cell::{self, CELL, Line, QUAD, VECTORS, WIDEST};
use super::super::row_group::{Outlier, Strip};

/// Writes the codes of a strip of the base modulo 256, plus 128.
pub(super) fn base(isa: Isa, strip: Strip, lines: &mut [Line]) {
    plane(isa, strip, 0, 0, lines);
}

/// Multiplies codes, modulo 256, plus 128, by `factor`, and adds the digits of a strip and `more`.
pub(super) fn plane(isa: Isa, strip: Strip, factor: u8, more: u8, lines: &mut [Line]) {
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions.
        Isa::Avx512 => unsafe { add_avx512(strip, factor, more, lines) },
        isa => add_portable(isa, strip, factor, more, lines),
    }
    for Outlier { column, row, delta } in strip.outliers() {
        let byte = &mut lines[column / QUAD].0[row * QUAD + column % QUAD];
        *byte = byte.wrapping_add(delta as u8);
    }
}

at_each_isa! {
    /// Adds 1 to the codes below 0; all are plus 128.
    pub(super) fn join_zeros(lines: &mut [Line]) {
        for Line(bytes) in lines {
            bytes.iter_mut().for_each(|byte| *byte += u8::from(*byte < 128));
        }
    }
}

/// Returns what to add after the multiplication of biased bytes, for digits that are biased at `width` bits: the biases
/// cancel, and `more` is added.
fn shift(width: u8, factor: u8, more: u8) -> u8 {
    let bias = cell::bias(WIDEST) as u8;
    bias.wrapping_sub(bias.wrapping_mul(factor)).wrapping_sub(cell::bias(width) as u8).wrapping_add(more)
}

at_each_isa! {
    /// [`plane`] without outliers.
    fn add_portable(strip: Strip, factor: u8, more: u8, lines: &mut [Line]) {
        let mut digits = [0; CELL];
        let mut cells = strip.cells;
        for (&width, lines) in strip.widths.iter().zip(lines.as_chunks_mut::<VECTORS>().0) {
            let (of_cell, rest) = cells.split_at(width.into());
            cell::unpack(of_cell, width, &mut digits);
            let shift = shift(width, factor, more);
            for (Line(line), digits) in lines.iter_mut().zip(digits.as_chunks::<64>().0) {
                for (byte, digit) in line.iter_mut().zip(digits) {
                    *byte = byte.wrapping_mul(factor).wrapping_add(*digit).wrapping_add(shift);
                }
            }
            cells = rest;
        }
    }
}

/// [`add_portable`] with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add_avx512(strip: Strip, factor: u8, more: u8, lines: &mut [Line]) {
    use std::arch::x86_64::*;

    use super::super::avx512::unpack;

    // Bytes are multiplied in two halves, because there is no product of bytes.
    let (factor_16, low) = (_mm512_set1_epi16(factor.into()), _mm512_set1_epi16(0xFF));
    let mut at = strip.cells.as_ptr();
    for (&width, lines) in strip.widths.iter().zip(lines.as_chunks_mut::<VECTORS>().0) {
        let shift = _mm512_set1_epi8(shift(width, factor, more) as i8);
        // SAFETY: the strip has the lines of all its cells (`Strip::is_sound`).
        let digits = if width > 0 { unsafe { unpack(at, width) } } else { [_mm512_setzero_si512(); VECTORS] };
        for (line, digits) in lines.iter_mut().zip(digits) {
            let at = line.0.as_mut_ptr().cast();
            // SAFETY: a line is 64 aligned bytes.
            let u = unsafe { _mm512_load_si512(at) };
            let u = match factor {
                0 => _mm512_setzero_si512(),
                1 => u,
                2 => _mm512_add_epi8(u, u),
                3 => _mm512_add_epi8(_mm512_add_epi8(u, u), u),
                _ => {
                    let even = _mm512_and_si512(_mm512_mullo_epi16(u, factor_16), low);
                    let odd = _mm512_mullo_epi16(_mm512_andnot_si512(low, u), factor_16);
                    _mm512_or_si512(even, odd)
                }
            };
            let u = _mm512_add_epi8(_mm512_add_epi8(u, digits), shift);
            // SAFETY: as above.
            unsafe { _mm512_store_si512(at, u) };
        }
        // SAFETY: the pointer ends at most one past the last line.
        at = unsafe { at.add(width.into()) };
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
                base(isa, of_base.strip(0), &mut lines);
                plane(isa, of_digits.strip(0), factor, 7, &mut lines);
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
