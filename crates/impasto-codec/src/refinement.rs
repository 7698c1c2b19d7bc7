//! Refinements: a layer that makes the integers of the layer below finer (SPEC 13).

use impasto_core::at_each_isa;

/// Largest group of classes.
const MAX_GROUP: i32 = 7;

/// Returns the class of an element (SPEC 13.1). `group` is the sum of the classes of its row and column, `coarse` its
/// integer in the layer below.
///
/// Each group has three classes, because the distribution of residuals at 0 differs from that at ±1, and from that
/// further out.
#[inline(always)]
pub fn class(group: i32, coarse: i32) -> i32 {
    3 * group.clamp(0, MAX_GROUP) + coarse.unsigned_abs().min(2) as i32
}

/// Returns the integer of this layer: `factor * coarse`, moved by `d` away from 0 (SPEC 13.2).
#[inline(always)]
pub fn fine(factor: u8, coarse: i32, d: i32) -> i32 {
    let (middle, sign) = (coarse.wrapping_mul(factor.into()), if coarse < 0 { -1 } else { 1 });
    middle.wrapping_add(d.wrapping_mul(sign))
}

/// Returns the `d` that gives `fine`: the inverse of [`fine()`].
#[inline(always)]
pub fn residual(factor: u8, coarse: i32, fine: i32) -> i32 {
    let d = fine.wrapping_sub(coarse.wrapping_mul(factor.into()));
    if coarse < 0 { d.wrapping_neg() } else { d }
}

at_each_isa! {
    /// Replaces the groups of a row by classes. `coarse`: the integers of the row in the layer below.
    pub(crate) fn classes_of_row(groups: &mut [i32], coarse: &[i32]) {
        groups.iter_mut().zip(coarse).for_each(|(group, &coarse)| *group = class(*group, coarse));
    }
}

at_each_isa! {
    /// Computes the residuals that turn the integers of a row in the layer below into those of this layer.
    pub(crate) fn residuals_of_row(factor: u8, coarse: &[i32], fine: &[i32], out: &mut [i32]) {
        let integers = coarse.iter().zip(fine);
        out.iter_mut().zip(integers).for_each(|(d, (&coarse, &fine))| *d = residual(factor, coarse, fine));
    }
}

at_each_isa! {
    /// Refines the integers of a row in place: `z` holds those of the layer below and receives those of this layer; `d`
    /// are the residuals.
    pub(crate) fn refine_row(factor: u8, z: &mut [i32], d: &[i32]) {
        z.iter_mut().zip(d).for_each(|(z, &d)| *z = fine(factor, *z, d));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every integer can be reached from every other.
        #[test]
        fn residuals_lead_back(factor in 2u8..=64, coarse: i32, wanted: i32, small in -200i32..200) {
            for (coarse, wanted) in [(coarse, wanted), (small, wanted), (coarse, small), (i32::MIN, wanted)] {
                prop_assert_eq!(fine(factor, coarse, residual(factor, coarse, wanted)), wanted);
            }
        }

        /// A residual has the same effect on both sides of 0.
        #[test]
        fn residuals_are_symmetric(factor in 2u8..=64, coarse in 1i32..1 << 20, d in -200i32..200) {
            prop_assert_eq!(fine(factor, coarse, d), -fine(factor, -coarse, d));
        }
    }

    #[test]
    fn follows_the_spec() {
        assert_eq!([fine(3, 5, 1), fine(3, 5, -1), fine(3, -5, 1), fine(4, 0, -2)], [16, 14, -16, -2]);
        let classes = |coarse: [i32; 6]| coarse.map(|z| class(2, z));
        assert_eq!(classes([0, 1, -1, 2, -7, i32::MIN]), [6, 7, 7, 8, 8, 8]);
        assert_eq!([class(-40, 1), class(7, 2), class(65_534, 0)], [1, 23, 21]);
    }
}
