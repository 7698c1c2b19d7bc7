//! Exponentials that the compiler vectorizes.
//!
//! exp(x) = 2^n (1 + e(r)), where n is the integer nearest to x / ln 2, r = x - n ln 2 is computed by a subtraction in
//! two parts (Cody and Waite, "Software Manual for the Elementary Functions", 1980), and e(r) = exp(r) - 1 is
//! approximated by a polynomial. Each operation is rounded separately and sums have a fixed number of lanes, so every
//! instruction set gives the same bits.

use std::f32::consts::LOG2_E;

use impasto_core::at_each_isa;

/// ln 2 with 12 trailing zero bits, so that products with n are exact; then the remainder.
const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
/// Coefficients of r^2 to r^6: minimax on |r| <= ln(2) / 2.
const E: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_393, 0.008_368_781, 0.001_381_446_7];
/// Adding this rounds a small number to an integer, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;
/// Below this, exp gives 0: about the logarithm of the smallest normal number.
const LEAST: f32 = -87.33;
/// Above this, exp gives exp(`MOST`).
const MOST: f32 = 88.37;
/// Numbers that are summed side by side.
const LANES: usize = 16;

/// Returns 2^n and e(r), for x from [`LEAST`] to [`MOST`]; for NaN, e is NaN.
#[inline(always)]
fn parts(x: f32) -> (f32, f32) {
    let rounded = x * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let p = (((E[4] * r + E[3]) * r + E[2]) * r + E[1]) * r + E[0];
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    (f32::from_bits(exponent << 23), r + r * r * p)
}

/// exp(x) with a relative error of at most 3e-7; 0 below -87.33, exp(88.37) above 88.37, NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let (power, e) = parts(x.clamp(LEAST, MOST));
    if x < LEAST { 0.0 } else { power + power * e }
}

/// tanh(x) with a relative error of at most 5e-7.
///
/// Computed as E / (E + 2) with E = exp(2x) - 1, which is accurate near 0.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Beyond this range, tanh rounds to ±1.
    let (power, e) = parts((x + x).clamp(-20.0, 20.0));
    let e = power * e + (power - 1.0);
    e / (e + 2.0)
}

at_each_isa! {
    /// Replaces each value by the exponential of its difference to the greatest one. Returns their sum, which is not
    /// finite if a value is not (but -infinity, which becomes 0).
    pub(super) fn exponentials(row: &mut [f32]) -> f64 {
        let mut greatest = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            greatest.iter_mut().zip(chunk).for_each(|(most, &x)| *most = if x > *most { x } else { *most });
        }
        let max = greatest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0f64; LANES];
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            chunk.iter_mut().for_each(|x| *x = exp(*x - max));
            sums.iter_mut().zip(chunk).for_each(|(sum, &mut x)| *sum += f64::from(x));
        }
        rest.iter_mut().for_each(|x| *x = exp(*x - max));
        sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x)).sum::<f64>()
    }
}

at_each_isa! {
    /// `x = cap * tanh(x / cap)`.
    pub(super) fn capped(x: &mut [f32], cap: f32) {
        x.iter_mut().for_each(|x| *x = tanh(*x / cap) * cap);
    }
}

#[cfg(test)]
mod tests {
    use impasto_core::Isa;

    use super::*;

    /// From -100 to 100, denser near 0.
    fn points() -> impl Iterator<Item = f32> {
        (-20_000..=20_000).map(|i| i as f32 / 200.0).flat_map(|x| [x, x * 1e-3, x * 1e-6])
    }

    #[test]
    fn close_to_the_functions() {
        for x in points() {
            let (exact, got) = (f64::from(x).exp(), f64::from(exp(x)));
            match x {
                LEAST..=MOST => assert!((got / exact - 1.0).abs() < 3e-7, "exp({x}) = {got}"),
                _ if x < LEAST => assert_eq!(got, 0.0),
                _ => assert_eq!(exp(x), exp(MOST)),
            }
            let (exact, got) = (f64::from(x).tanh(), f64::from(tanh(x)));
            assert!((got - exact).abs() <= 5e-7 * exact.abs(), "tanh({x}) = {got}");
        }
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!((exp(f32::NEG_INFINITY), exp(0.0), tanh(f32::INFINITY), tanh(0.0)), (0.0, 1.0, 1.0, 0.0));
    }

    #[test]
    fn the_same_bits_with_every_instruction_set() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let row: Vec<f32> = points().step_by(97).take(length).collect();
            let of = |isa| {
                let (mut powers, mut caps) = (row.clone(), row.clone());
                let sum = exponentials(isa, &mut powers);
                capped(isa, &mut caps, 30.0);
                (sum, powers, caps)
            };
            let scalar = of(Isa::Scalar);
            for isa in Isa::available() {
                assert_eq!(of(isa), scalar, "{isa}");
            }
            if length > 0 {
                assert_eq!(scalar.1.iter().copied().fold(0.0, f32::max), 1.0, "the greatest becomes 1");
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows_in_the_sum() {
        let sum = |row: [f32; 3]| exponentials(Isa::best(), &mut row.clone());
        assert_eq!(sum([f32::NEG_INFINITY, 0.0, 0.0]), 2.0);
        for row in [[f32::NAN, 0.0, 0.0], [f32::INFINITY, 0.0, 0.0], [f32::NEG_INFINITY; 3]] {
            assert!(!sum(row).is_finite());
        }
    }
}
