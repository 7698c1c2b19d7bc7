//! The blocks layer: ggml's blocks, given the weights of the layer below (SPEC 16).

use impasto_core::blocks::apart::{Form, Parts};
use impasto_core::{DType, at_each_isa};

/// The largest class.
const MOST: i32 = 31;

/// Returns the class of a weight (SPEC 16.4). The finer its scale `s`, the more steps its integer is off. `sum` is the
/// sum of the classes of its row and column.
#[inline(always)]
pub fn class(sum: i32, s: f32) -> i32 {
    if !s.is_finite() {
        return 0;
    }
    sum.saturating_sub((s.abs().to_bits() >> 21) as i32).clamp(0, MOST)
}

/// Returns the integer that comes nearest to a weight of the layer below (SPEC 16.4).
#[inline(always)]
pub fn predicted(form: &Form, weight: f32, (s, m): (f32, f32)) -> i32 {
    let most = (1u32 << form.bits) - 1;
    let steps = ((weight - m) / s).round_ties_even();
    let steps = if steps.is_nan() { 0.0 } else { steps };
    (steps + f32::from(form.bias)).clamp(0.0, most as f32) as i32
}

at_each_isa! {
    /// Computes the classes of a row from the sums. `scales` has an entry for each group.
    pub(crate) fn classes_of_row(form: &Form, sums: &[i32], scales: &[(f32, f32)], classes: &mut [i32]) {
        let groups = classes.chunks_mut(form.group).zip(sums.chunks(form.group));
        for ((classes, sums), &(s, _)) in groups.zip(scales) {
            classes.iter_mut().zip(sums).for_each(|(of_weight, &sum)| *of_weight = class(sum, s));
        }
    }
}

at_each_isa! {
    /// Computes the integers of a row from the weights of the layer below, little-endian binary32, and the residuals.
    pub(crate) fn integers_of_row(
        form: &Form,
        below: &[u8],
        scales: &[(f32, f32)],
        residuals: &[i32],
        integers: &mut [u8],
    ) {
        let mask = (1u32 << form.bits) - 1;
        let inputs = below.as_chunks().0.chunks(form.group).zip(residuals.chunks(form.group));
        for ((integers, (below, residuals)), &scales) in integers.chunks_mut(form.group).zip(inputs).zip(scales) {
            for ((integer, &weight), &residual) in integers.iter_mut().zip(below).zip(residuals) {
                let found = predicted(form, f32::from_le_bytes(weight), scales).wrapping_add(residual);
                *integer = (found as u32 & mask) as u8;
            }
        }
    }
}

/// A row of blocks, taken apart.
#[derive(Debug, Default)]
pub(crate) struct BlockRow {
    /// The integer of each weight.
    pub integers: Vec<u8>,
    /// Scale and minimum of each group.
    pub scales: Vec<(f32, f32)>,
}

impl BlockRow {
    /// Reads whole blocks of a dtype with the given form.
    pub fn read(&mut self, dtype: DType, form: &Form, blocks: &[u8]) {
        self.integers.clear();
        self.scales.clear();
        let mut parts = Parts::default();
        for block in blocks.chunks_exact(dtype.size()) {
            parts.read(dtype, block);
            self.integers.extend(&parts.integers[..form.block]);
            self.scales.extend(form.scales(&parts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_spec() {
        let form = Form::of(DType::Q4_0).expect("blocks");
        assert_eq!([0.0, 0.24, 0.26, -9.0, 9.0, 0.75].map(|w| predicted(&form, w, (0.5, 0.0))), [8, 8, 9, 0, 15, 10]);
        assert_eq!(predicted(&form, 1.0, (-0.5, 0.0)), 6);
        // No step, no information.
        assert_eq!([0.0, 1.0, -1.0].map(|w| predicted(&form, w, (0.0, 0.0))), [8, 15, 0]);
        assert_eq!(predicted(&form, 1.0, (f32::NAN, 0.0)), 8);
        let form = Form::of(DType::Q4_1).expect("blocks");
        assert_eq!(predicted(&form, 1.0, (0.5, -0.5)), 3);
        // Four classes per octave, higher for finer scales.
        assert_eq!([1.0, -1.0, 2.0, 0.5, 0.0].map(|s| class(4 * 127 + 9, s)), [9, 9, 5, 13, 31]);
        assert_eq!([f32::NAN, f32::INFINITY].map(|s| class(i32::MAX, s)), [0, 0]);
    }
}
