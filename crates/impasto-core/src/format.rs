//! Formats: integers and small floats under the scales of groups, as inference engines read them (SPEC 20).

use crate::at_each_isa;
use crate::dtype::DType;
use crate::lattice::round;

/// In FP8, the integer of a number is twice its magnitude bits, plus 1 if it is negative, less this: signs and low bits of the
/// mantissa, which are random, are the low bits of integers, which cost a bit each on a lattice (SPEC 7.3).
const FOLD: i32 = 128;

/// How the integers of a tensor and the scales of its groups stand for numbers (SPEC 20.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Format {
    /// Integers from -8 to 7.
    Int4 = 1,
    /// Integers from -128 to 127.
    Int8 = 2,
    /// E2M1, with a power of two as the scale of 32 weights (OCP Microscaling Formats 1.0).
    Mxfp4 = 3,
    /// E2M1, with E4M3 as the scale of 16 weights, and one scale of the tensor.
    Nvfp4 = 4,
    /// E4M3 without infinities (OCP 8-bit Floating Point 1.0).
    Fp8E4M3 = 5,
    /// E5M2 (the same).
    Fp8E5M2 = 6,
}

/// The form of the scales of groups (SPEC 20.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleForm {
    /// A power of two: the exponent byte.
    E8M0,
    /// E4M3 without its sign.
    E4M3,
    /// bfloat16 without its sign.
    Bf16,
}

impl ScaleForm {
    /// The largest index; the next one would be a NaN or infinite.
    pub fn last(self) -> i16 {
        match self {
            ScaleForm::E8M0 => 254,
            ScaleForm::E4M3 => 0x7E,
            ScaleForm::Bf16 => 0x7F7F,
        }
    }

    /// Returns the scale of an index from 0 to [`ScaleForm::last`]. Scales grow with their indices.
    pub fn scale(self, index: i32) -> f32 {
        match self {
            // 2^-127 is subnormal.
            ScaleForm::E8M0 if index == 0 => f32::from_bits(1 << 22),
            ScaleForm::E8M0 => f32::from_bits((index as u32) << 23),
            ScaleForm::E4M3 => minifloat(index, 3, 7),
            ScaleForm::Bf16 => f32::from_bits((index as u32) << 16),
        }
    }

    /// Returns the index of the largest scale that is at most `scale`; 0 if there is none.
    pub fn index_below(self, scale: f32) -> i16 {
        let (mut low, mut high) = (0, i32::from(self.last()) + 1);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if self.scale(middle) <= scale { low = middle } else { high = middle }
        }
        low as i16
    }
}

/// Returns the float with `mantissa` bits of mantissa and this exponent bias whose bits, without the sign, are
/// `magnitude`.
fn minifloat(magnitude: i32, mantissa: u32, bias: i32) -> f32 {
    let (exponent, fraction) = (magnitude >> mantissa, magnitude & ((1 << mantissa) - 1));
    let (digits, exponent) = if exponent == 0 { (fraction, 1) } else { (fraction | 1 << mantissa, exponent) };
    // A power of two of a normal exponent, so the product is exact.
    digits as f32 * f32::from_bits(((127 + exponent - bias - mantissa as i32) as u32) << 23)
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 6] =
        [Format::Int4, Format::Int8, Format::Mxfp4, Format::Nvfp4, Format::Fp8E4M3, Format::Fp8E5M2];

    /// Returns the format with this code.
    pub fn from_code(code: u8) -> Option<Format> {
        Format::ALL.into_iter().find(|&format| format as u8 == code)
    }

    /// Returns its name, as in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Format::Int4 => "int4",
            Format::Int8 => "int8",
            Format::Mxfp4 => "mxfp4",
            Format::Nvfp4 => "nvfp4",
            Format::Fp8E4M3 => "fp8",
            Format::Fp8E5M2 => "fp8-e5m2",
        }
    }

    /// Returns the format with this name.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Returns the smallest and the largest integer.
    pub fn range(self) -> (i32, i32) {
        match self {
            Format::Int4 => (-8, 7),
            Format::Int8 => (-128, 127),
            Format::Mxfp4 | Format::Nvfp4 => (-7, 7),
            Format::Fp8E4M3 => (-FOLD, 2 * 0x7E + 1 - FOLD),
            Format::Fp8E5M2 => (-FOLD, 2 * 0x7B + 1 - FOLD),
        }
    }

    /// Returns the largest value.
    pub fn largest(self) -> f32 {
        match self {
            Format::Int4 => 7.0,
            Format::Int8 => 127.0,
            Format::Mxfp4 | Format::Nvfp4 => 6.0,
            Format::Fp8E4M3 => 448.0,
            Format::Fp8E5M2 => 57344.0,
        }
    }

    /// Returns the bits of the number that an integer stands for, which is clamped to the range: two's complement, or a sign
    /// above the magnitude.
    pub fn code(self, z: i32) -> u8 {
        let (least, most) = self.range();
        let z = z.clamp(least, most);
        match self {
            Format::Int4 => z as u8 & 15,
            Format::Int8 => z as u8,
            Format::Mxfp4 | Format::Nvfp4 => z.unsigned_abs() as u8 | (if z < 0 { 8 } else { 0 }),
            Format::Fp8E4M3 | Format::Fp8E5M2 => ((z + FOLD) >> 1) as u8 | (z as u8 & 1) << 7,
        }
    }

    /// Returns the value of an integer, which is clamped to the range.
    pub fn value(self, z: i32) -> f32 {
        let code = self.code(z);
        let float = |sign: u8, mantissa: u32, bias: i32| {
            let magnitude = minifloat(i32::from(code & (sign - 1)), mantissa, bias);
            if code & sign != 0 { -magnitude } else { magnitude }
        };
        match self {
            Format::Int4 => f32::from((code << 4) as i8 >> 4),
            Format::Int8 => f32::from(code as i8),
            Format::Mxfp4 | Format::Nvfp4 => float(8, 1, 1),
            Format::Fp8E4M3 => float(0x80, 3, 7),
            Format::Fp8E5M2 => float(0x80, 2, 15),
        }
    }

    /// Returns the integer of the number that is next to that of `z` toward 0; that of 0 itself.
    pub fn toward_zero(self, z: i32) -> i32 {
        match self {
            Format::Fp8E4M3 | Format::Fp8E5M2 => (z - 2).max(-FOLD),
            _ => z - z.signum(),
        }
    }

    /// Returns the bits of a number in memory.
    pub fn bits(self) -> u32 {
        match self {
            Format::Int4 | Format::Mxfp4 | Format::Nvfp4 => 4,
            Format::Int8 | Format::Fp8E4M3 | Format::Fp8E5M2 => 8,
        }
    }

    /// Returns the form of the scales of its groups.
    pub fn scale_form(self) -> ScaleForm {
        match self {
            Format::Mxfp4 => ScaleForm::E8M0,
            Format::Nvfp4 => ScaleForm::E4M3,
            _ => ScaleForm::Bf16,
        }
    }

    /// Returns the columns of a group, if the format fixes them.
    pub fn group(self) -> Option<u64> {
        match self {
            Format::Mxfp4 => Some(32),
            Format::Nvfp4 => Some(16),
            _ => None,
        }
    }

    /// Returns whether there is a scale of the tensor besides those of groups.
    pub fn has_tensor_scale(self) -> bool {
        self == Format::Nvfp4
    }
}

/// The values of a format, in a table.
#[derive(Clone, Debug)]
pub struct Values {
    least: i32,
    values: Vec<f32>,
}

impl Values {
    /// Returns the table of a format.
    pub fn of(format: Format) -> Values {
        let (least, most) = format.range();
        Values { least, values: (least..=most).map(|z| format.value(z)).collect() }
    }

    /// Returns the value of an integer, as [`Format::value`].
    #[inline(always)]
    pub fn get(&self, z: i32) -> f32 {
        let last = self.values.len() as i32 - 1;
        self.values[z.saturating_sub(self.least).clamp(0, last) as usize]
    }

    /// Returns the sign of the value of an integer: -1, 0 or 1 (SPEC 20.4).
    #[inline(always)]
    pub fn sign(&self, z: i32) -> i32 {
        let value = self.get(z);
        i32::from(value > 0.0) - i32::from(value < 0.0)
    }
}

/// Returns the integer nearest to `x` in a range; of two that are equally near, the even one.
#[inline(always)]
fn nearest_integer(x: f32, (least, most): (i32, i32)) -> i32 {
    (x.round_ties_even() as i32).clamp(least, most)
}

/// Returns the magnitude bits, with the sign of `x`, of the small float nearest to `x`; of two that are equally near, the even one.
/// `largest` is the largest of these floats, `mantissa` and `bias` are as in [`minifloat`].
#[inline(always)]
fn nearest_minifloat(x: f32, mantissa: u32, bias: i32, largest: f32) -> i32 {
    let size = x.abs().min(largest);
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(1 - bias);
    // Between two powers of two, floats are evenly spaced, and below the first as after it.
    let spacing = f32::from_bits(((127 + exponent - mantissa as i32) as u32) << 23);
    let number = (size / spacing).round_ties_even() as i32 + ((exponent + bias - 1) << mantissa);
    if x < 0.0 { -number } else { number }
}

/// Returns the integer of an FP8 number, given by its magnitude bits with its sign.
#[inline(always)]
fn folded(number: i32) -> i32 {
    2 * number.abs() + i32::from(number < 0) - FOLD
}

at_each_isa! {
    /// Writes to `z` the integers of a format whose values are nearest to `x`; of two that are equally near, the even one.
    pub fn nearest(format: Format, x: &[f32], z: &mut [i32]) {
        let pairs = z.iter_mut().zip(x);
        match format {
            Format::Int4 | Format::Int8 => {
                let range = format.range();
                pairs.for_each(|(z, &x)| *z = nearest_integer(x, range));
            }
            Format::Mxfp4 | Format::Nvfp4 => pairs.for_each(|(z, &x)| *z = nearest_minifloat(x, 1, 1, 6.0)),
            Format::Fp8E4M3 => pairs.for_each(|(z, &x)| *z = folded(nearest_minifloat(x, 3, 7, 448.0))),
            Format::Fp8E5M2 => pairs.for_each(|(z, &x)| *z = folded(nearest_minifloat(x, 2, 15, 57344.0))),
        }
    }
}

/// Returns a weight before rounding to the dtype of its tensor (SPEC 20.3). Performs the operations in the order given
/// there.
///
/// - `value`: that of the integer
/// - `scale`: that of its group
/// - `step`: the scale of the tensor
#[inline(always)]
pub fn weight(value: f32, scale: f32, step: f32) -> f32 {
    (value * scale) * step
}

/// Writes the weights of integers of one group, rounded to `dtype` (F32, F16 or BF16), as little-endian bytes.
///
/// - `z`: the integers
/// - `scale`, `step`: as for [`weight`]
/// - `out`: `z.len()` elements
pub fn reconstruct_group(dtype: DType, values: &Values, z: &[i32], scale: f32, step: f32, out: &mut [u8]) {
    let weights = z.iter().map(|&z| round(dtype, weight(values.get(z), scale, step)));
    match dtype {
        DType::Bf16 => {
            let halves = out.as_chunks_mut().0.iter_mut().zip(weights);
            halves.for_each(|(o, w)| *o = ((w.to_bits() >> 16) as u16).to_le_bytes());
        }
        DType::F16 => {
            let halves = out.as_chunks_mut().0.iter_mut().zip(weights);
            halves.for_each(|(o, w)| *o = half::f16::from_f32(w).to_le_bytes());
        }
        _ => out.as_chunks_mut().0.iter_mut().zip(weights).for_each(|(o, w)| *o = w.to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::values::to_f32;

    #[test]
    fn values_of_small_floats() {
        let e2m1: Vec<f32> = (0..8).map(|z| Format::Nvfp4.value(z)).collect();
        assert_eq!(e2m1, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(Format::Mxfp4.value(-6), -4.0);
        assert_eq!([i32::MIN, -127, 124, i32::MAX].map(|z| Format::Fp8E4M3.value(z)), [0.0, -0.0, 448.0, -448.0]);
        assert_eq!([118, 500].map(|z| Format::Fp8E5M2.value(z)), [57344.0, -57344.0]);
        assert_eq!((Format::Int4.value(-9), Format::Int8.value(200)), (-8.0, 127.0));
        for (format, dtype) in [(Format::Fp8E4M3, DType::F8E4M3), (Format::Fp8E5M2, DType::F8E5M2)] {
            let (least, most) = format.range();
            let mut codes: Vec<u8> = (least..=most).map(|z| format.code(z)).collect();
            for (z, &code) in (least..=most).zip(&codes) {
                let mut value = vec![];
                assert!(to_f32(dtype, &[code], &mut value));
                assert_eq!(value[0].to_bits(), format.value(z).to_bits(), "{format:?} {z}");
            }
            codes.sort_unstable();
            codes.dedup();
            assert_eq!(codes.len() as i32, most - least + 1, "every number once, -0 too");
        }
        for format in Format::ALL {
            let (least, most) = format.range();
            let largest = (least..=most).map(|z| format.value(z)).fold(0.0, f32::max);
            assert_eq!(largest, format.largest());
            for z in least..=most {
                let below = format.value(format.toward_zero(z)).abs();
                assert!(below < format.value(z).abs() || below == 0.0, "{format:?} {z}");
                assert_eq!(
                    Values::of(format).sign(z) as f32 * format.value(z).abs(),
                    format.value(z) + 0.0,
                    "{format:?} {z}"
                );
            }
        }
    }

    #[test]
    fn scales_are_finite_and_grow() {
        for form in [ScaleForm::E8M0, ScaleForm::E4M3, ScaleForm::Bf16] {
            let scales: Vec<f32> = (0..=i32::from(form.last())).map(|i| form.scale(i)).collect();
            assert!(
                scales.iter().all(|s| s.is_finite() && *s >= 0.0) && scales.windows(2).all(|pair| pair[0] < pair[1])
            );
            for (i, &scale) in scales.iter().enumerate() {
                assert_eq!(form.index_below(scale), i as i16);
            }
            assert_eq!(form.index_below(f32::MAX), form.last());
        }
        assert_eq!(ScaleForm::E8M0.scale(0), 2f32.powi(-127));
        assert_eq!((ScaleForm::E8M0.scale(128), ScaleForm::E4M3.scale(0x7E)), (2.0, 448.0));
    }

    #[test]
    fn the_nearest_value_is_found() {
        let nearest_of = |format, x: &[f32]| {
            let results = Isa::available().into_iter().map(|isa| {
                let mut z = vec![0; x.len()];
                nearest(isa, format, x, &mut z);
                z
            });
            let mut results: Vec<Vec<i32>> = results.collect();
            results.dedup();
            assert_eq!(results.len(), 1, "instruction sets differ");
            results.swap_remove(0)
        };
        for format in Format::ALL {
            let (least, most) = format.range();
            let far = (-2000..2000).map(|i| format.largest() * i as f32 / 1500.0);
            let near = (-2000..2000).map(|i| format.largest() * i as f32 / 2e6);
            let x: Vec<f32> = far.chain(near).collect();
            for (&x, z) in x.iter().zip(nearest_of(format, &x)) {
                let distance = |z: i32| (format.value(z) - x).abs();
                let best = (least..=most).map(distance).fold(f32::INFINITY, f32::min);
                assert_eq!(distance(z), best, "{format:?} {x}");
                let is_same = |other: i32| format.value(other) == format.value(z);
                let is_only = (least..=most).all(|other| is_same(other) || distance(other) > best);
                assert!(is_only || format.code(z) & 1 == 0, "{format:?} {x}: ties to even");
            }
            let extremes = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0, 1e-45, f32::NAN];
            let found = nearest_of(format, &extremes);
            let values: Vec<f32> = found.iter().map(|&z| format.value(z)).collect();
            let most_negative = (least..=most).map(|z| format.value(z)).fold(0.0, f32::min);
            let largest = format.largest();
            assert_eq!(values[..5], [largest, most_negative, largest, 0.0, 0.0], "{format:?}");
            assert!((least..=most).contains(&found[5]), "{format:?}");
        }
    }
}
