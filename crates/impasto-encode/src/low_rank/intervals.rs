//! Where the difference of two matrices may have been before the sum was rounded.

use impasto_core::{FloatLayout, values};

use crate::feedback::WIDTH;
use crate::matrix::MatrixView;

/// Share of an interval on each side of it that is kept free, since factors are rounded later.
const MARGIN: f64 = 0.02;
const SLACK: f32 = (MARGIN / (1.0 - 2.0 * MARGIN)) as f32;
/// Intervals that are looked at to find their usual length.
const SAMPLE: usize = 4096;
/// Least unit, whose inverse is finite in binary32.
const LEAST_UNIT: f64 = 1e-36;

/// For each element of a matrix, the interval of what must be added to the element of the base to be rounded to it.
///
/// A merged adapter is a product of low rank in these intervals. (It is not near the difference of the elements, of which many
/// are 0: most of what it adds is less than half a unit in the last place.)
pub struct Intervals {
    pub rows: usize,
    pub columns: usize,
    /// The columns, rounded up to a multiple of [`WIDTH`].
    pub stride: usize,
    /// The ends of the intervals, `rows` x `stride`, in `unit`. An element that is not finite, and a column that is none, may be
    /// anything.
    pub low: Vec<f32>,
    pub high: Vec<f32>,
    /// The median length of the intervals.
    pub unit: f64,
    /// Share of the elements that are not those of the base.
    pub changed: f64,
}

impl Intervals {
    /// Creates the intervals of some rows and columns of a matrix over the elements `over` of a base.
    pub fn new(matrix: &MatrixView, layout: FloatLayout, over: &[u8], rows: &[usize], columns: &[usize]) -> Intervals {
        let matrix = MatrixView { over: None, less: None, ..*matrix };
        let stride = columns.len().next_multiple_of(WIDTH);
        let mut low = vec![f32::NEG_INFINITY; rows.len() * stride];
        let mut high = vec![f32::INFINITY; rows.len() * stride];
        let (mut weights, mut of_base, mut changed) = (Vec::new(), Vec::new(), 0);
        let row_bytes = matrix.columns * matrix.dtype.size();
        for (i, &row) in rows.iter().enumerate() {
            matrix.weights(row, &mut weights);
            of_base.clear();
            values::to_f32(matrix.dtype, &over[row * row_bytes..][..row_bytes], &mut of_base);
            for (at, &column) in (i * stride..).zip(columns) {
                let (weight, of_base) = (weights[column], of_base[column]);
                if weight.is_finite() && of_base.is_finite() {
                    let [a, b] = rounded_to(layout, weight).map(|end| end - f64::from(of_base));
                    (low[at], high[at]) = ((a + MARGIN * (b - a)) as f32, (b - MARGIN * (b - a)) as f32);
                    changed += usize::from(weight != of_base);
                }
            }
        }
        let unit = usual_length(&low, &high);
        let scale = (1.0 / unit) as f32;
        low.iter_mut().chain(&mut high).for_each(|end| *end *= scale);
        let changed = changed as f64 / (rows.len() * columns.len()).max(1) as f64;
        Intervals { rows: rows.len(), columns: columns.len(), stride, low, high, unit, changed }
    }

    /// Returns whether a number is rounded to the element, which it also is in the margin of its interval.
    pub fn has(&self, at: usize, x: f32) -> bool {
        let (low, high) = (self.low[at], self.high[at]);
        let margin = SLACK * (high - low);
        // (An infinite margin is no number.)
        !(x < low - margin || x > high + margin)
    }

    /// Returns the middle of an interval, 0 if it is infinite.
    pub fn middle(&self, at: usize) -> f32 {
        if self.high[at].is_finite() { 0.5 * (self.low[at] + self.high[at]) } else { 0.0 }
    }
}

/// Returns the ends of the interval of numbers that are rounded to a finite weight.
fn rounded_to(layout: FloatLayout, weight: f32) -> [f64; 2] {
    let bits = weight.to_bits();
    let least = 2 - (1 << (layout.exponent - 1));
    let exponent = ((bits >> 23 & 0xFF) as i32 - 127).max(least);
    let unit = f64::from_bits(((exponent - layout.mantissa as i32 + 1023) as u64) << 52);
    // Below a power of two, floats are twice as dense.
    let is_power = bits & 0x007F_FFFF == 0 && weight != 0.0 && exponent > least;
    let (inwards, outwards) = (if is_power { 0.25 * unit } else { 0.5 * unit }, 0.5 * unit);
    let weight = f64::from(weight);
    if weight > 0.0 { [weight - inwards, weight + outwards] } else { [weight - outwards, weight + inwards] }
}

/// Returns the median length of some of the finite intervals; 1 if there are none.
fn usual_length(low: &[f32], high: &[f32]) -> f64 {
    let step = low.len().div_ceil(SAMPLE).max(1) | 1;
    let lengths = low.iter().zip(high).step_by(step).map(|(&low, &high)| f64::from(high) - f64::from(low));
    let mut lengths: Vec<f64> = lengths.filter(|length| length.is_finite() && *length > 0.0).collect();
    lengths.sort_by(f64::total_cmp);
    lengths.get(lengths.len() / 2).map_or(1.0, |length| length.max(LEAST_UNIT))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use impasto_core::DType;

    use super::*;

    /// The ends are half-way to the neighbours.
    #[test]
    fn intervals_end_between_floats() {
        let layout = |dtype: DType| dtype.float_layout().expect("floats");
        let neighbours = |bits: u16, float: &dyn Fn(u16) -> f64| {
            let below = if bits & 0x7FFF == 0 { 0x8001 } else { bits - 1 };
            let [mut ends] =
                [[below, bits & 0x8000 | ((bits & 0x7FFF) + 1)].map(|other| 0.5 * (float(bits) + float(other)))];
            ends.sort_by(f64::total_cmp);
            ends
        };
        for bits in (0..0x7F00u16).step_by(37).chain([0x3F80, 0x0080, 0x0081, 0x007F, 1]).chain([0xBF80, 0xC123]) {
            let float = |bits: u16| f64::from(bf16::from_bits(bits));
            let found = rounded_to(layout(DType::Bf16), bf16::from_bits(bits).to_f32());
            assert_eq!(found, neighbours(bits, &float), "{bits:x}");
        }
        for bits in (0..0x7B00u16).step_by(37).chain([0x3C00, 0x0400, 0x0401, 0x03FF, 1]).chain([0xBC00]) {
            let float = |bits: u16| f64::from(f16::from_bits(bits));
            let found = rounded_to(layout(DType::F16), f16::from_bits(bits).to_f32());
            assert_eq!(found, neighbours(bits, &float), "{bits:x}");
        }
    }
}
