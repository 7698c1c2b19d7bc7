//! Digits -1, 0 and 1, five to a byte.
//!
//! A line holds five consecutive vectors of a strip. A byte holds the digits t = d + 1 at its position in these as a
//! fraction in base 3: it is the smallest one above `0.t0 t1 t2 t3 t4` times 256. Multiplying it by 3 moves the next digit
//! above the point, so no division is needed to read it (as in the type TQ1_0 of ggml).

use impasto_core::{Isa, at_each_isa};

use super::super::arena::{Arena, Lines};
use super::super::cell::Line;
#[cfg(target_arch = "x86_64")]
use crate::prefetch::prefetch_ahead;

/// Vectors of a line.
const EACH: usize = 5;
/// Codes of five digits.
const CODES: u16 = 243;

/// The digits of all strips of a row group.
#[derive(Debug)]
pub(super) struct Trits {
    lines: Lines,
    /// Lines of a strip.
    each: usize,
}

impl Trits {
    /// Packs digits -1, 0 and 1 of `strips` strips, vector by vector.
    pub(super) fn pack(digits: &[[i8; 64]], strips: usize) -> Trits {
        let vectors = digits.len() / strips.max(1);
        let mut lines = Vec::with_capacity(strips * vectors.div_ceil(EACH));
        for strip in digits.chunks(vectors.max(1)) {
            for vectors in strip.chunks(EACH) {
                lines.push(Line(std::array::from_fn(|byte| {
                    let digit = |vector: usize| vectors.get(vector).map_or(1, |vector| (vector[byte] + 1) as u16);
                    let code = (0..EACH).fold(0, |code, vector| code * 3 + digit(vector));
                    ((code * 256).div_ceil(CODES)) as u8
                })));
            }
        }
        Trits { lines: Lines::Own(lines), each: vectors.div_ceil(EACH) }
    }

    pub(super) fn keep_in(self, arena: &Arena) -> Trits {
        match self.lines {
            Lines::Own(lines) => Trits { lines: arena.keep(lines), ..self },
            kept => Trits { lines: kept, ..self },
        }
    }

    /// Adds the digits of a strip to bytes.
    pub(super) fn add(&self, isa: Isa, strip: usize, lines: &mut [Line]) {
        let packed = &self.lines[strip * self.each..][..self.each];
        match isa.or_scalar() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions.
            Isa::Avx512 => unsafe { add_avx512(packed, lines) },
            isa => add_portable(isa, packed, lines),
        }
    }

    /// Returns the digit at a byte of a vector of a strip.
    pub(super) fn at(&self, strip: usize, vector: usize, byte: usize) -> i32 {
        let line = &self.lines[strip * self.each + vector / EACH];
        let mut fraction = line.0[byte];
        for _ in 0..vector % EACH {
            fraction = fraction.wrapping_mul(3);
        }
        i32::from((u16::from(fraction) * 3) >> 8) - 1
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }
}

at_each_isa! {
    /// Adds digits to bytes.
    fn add_portable(packed: &[Line], lines: &mut [Line]) {
        for (Line(packed), lines) in packed.iter().zip(lines.chunks_mut(EACH)) {
            let mut fractions = *packed;
            for Line(line) in lines {
                for (byte, fraction) in line.iter_mut().zip(&mut fractions) {
                    // The digit is 3 x fraction / 256: one for each third that the fraction reaches.
                    let digit = u8::from(*fraction > 85).wrapping_add(u8::from(*fraction > 170));
                    *byte = byte.wrapping_add(digit).wrapping_sub(1);
                    *fraction = fraction.wrapping_add(*fraction).wrapping_add(*fraction);
                }
            }
        }
    }
}

/// [`add_portable`] with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn add_avx512(packed: &[Line], lines: &mut [Line]) {
    use std::arch::x86_64::*;

    let [one, third, two_thirds] = [1, 85, 170].map(|byte: u8| _mm512_set1_epi8(byte as i8));
    for (packed, lines) in packed.iter().zip(lines.chunks_mut(EACH)) {
        prefetch_ahead(packed, 1);
        // SAFETY: a line is 64 aligned bytes.
        let mut fractions = unsafe { _mm512_load_si512(packed.0.as_ptr().cast()) };
        for line in lines {
            let at = line.0.as_mut_ptr().cast();
            // SAFETY: as above.
            let bytes = unsafe { _mm512_load_si512(at) };
            let is_minus = _mm512_cmple_epu8_mask(fractions, third);
            let is_plus = _mm512_cmpgt_epu8_mask(fractions, two_thirds);
            let bytes = _mm512_mask_sub_epi8(bytes, is_minus, bytes, one);
            let bytes = _mm512_mask_add_epi8(bytes, is_plus, bytes, one);
            // SAFETY: as above.
            unsafe { _mm512_store_si512(at, bytes) };
            fractions = _mm512_add_epi8(_mm512_add_epi8(fractions, fractions), fractions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back() {
        // 243 codes at 4 x 64 positions; the last strip has a vector less than a line.
        let digit = |code: usize, vector: usize| (code / 3usize.pow(4 - vector as u32) % 3) as i8 - 1;
        let vector =
            |strip: usize, vector: usize| std::array::from_fn(|byte| digit((strip * 64 + byte) % 243, vector % EACH));
        let digits: Vec<[i8; 64]> = (0..4).flat_map(|strip| (0..9).map(move |v| vector(strip, v))).collect();
        let trits = Trits::pack(&digits, 4).keep_in(&Arena::new());
        assert_eq!(trits.bytes(), 4 * 2 * 64);
        for isa in Isa::available() {
            for strip in 0..4 {
                let mut lines = vec![Line([250; 64]); 9];
                trits.add(isa, strip, &mut lines);
                for (v, line) in lines.iter().enumerate() {
                    for (byte, &found) in line.0.iter().enumerate() {
                        let expected = digits[strip * 9 + v][byte];
                        assert_eq!(found, 250u8.wrapping_add(expected as u8), "{isa} strip {strip} vector {v}");
                        assert_eq!(trits.at(strip, v, byte), i32::from(expected));
                    }
                }
            }
        }
    }
}
