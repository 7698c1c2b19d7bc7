//! Exponentials of sixteen floats.
//!
//! exp(x) = 2^n (1 + e(r)), where n is the integer nearest to x / ln 2, r = x - n ln 2 is computed by a subtraction in
//! two parts (Cody and Waite, "Software Manual for the Elementary Functions", 1980), and e(r) = exp(r) - 1 is
//! approximated by a polynomial of degree 6 with an error of at most 3.1e-9 exp(r) (minimax by the Remez exchange
//! algorithm on |r| <= ln(2) / 2).

use std::f32::consts::LOG2_E;

use super::lanes::Lanes;

/// ln 2 with 12 trailing zero bits, so that products with n are exact; then the remainder.
const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
/// Coefficients of r^2 to r^6.
const E: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_393, 0.008_368_781, 0.001_381_446_7];

/// Below this, exp gives 0: about the logarithm of the smallest normal number.
pub(super) const LEAST: f32 = -87.33;
/// Above this, exp gives exp(`MOST`).
pub(super) const MOST: f32 = 88.37;

/// Returns 2^n and e(r), for x from [`LEAST`] to [`MOST`].
#[inline(always)]
fn parts<L: Lanes>(l: L, x: L::V) -> (L::V, L::V) {
    let n = l.round(l.mul(x, l.splat(LOG2_E)));
    let r = l.fma(n, l.splat(-LN_2[0]), x);
    let r = l.fma(n, l.splat(-LN_2[1]), r);
    let mut p = l.splat(E[4]);
    p = l.fma(p, r, l.splat(E[3]));
    p = l.fma(p, r, l.splat(E[2]));
    p = l.fma(p, r, l.splat(E[1]));
    p = l.fma(p, r, l.splat(E[0]));
    (l.power_of_two(n), l.fma(l.mul(r, r), p, r))
}

/// Returns exp(x) with a relative error of at most 2e-7; 0 below [`LEAST`], exp(88.37) above [`MOST`], NaN for NaN.
#[inline(always)]
pub(super) fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    let inside = l.min(l.splat(MOST), l.max(l.splat(LEAST), x));
    let (power, e) = parts(l, inside);
    l.zero_below(x, l.splat(LEAST), l.fma(power, e, power))
}

/// Returns tanh(x) with a relative error of at most 3e-7.
///
/// Computed as E / (E + 2) with E = exp(2x) - 1, which is accurate near 0.
#[inline(always)]
pub(super) fn tanh<L: Lanes>(l: L, x: L::V) -> L::V {
    // Beyond this range, tanh rounds to ±1.
    let y = l.min(l.splat(20.0), l.max(l.splat(-20.0), l.add(x, x)));
    let (power, e) = parts(l, y);
    let e = l.fma(power, e, l.sub(power, l.splat(1.0)));
    l.div(e, l.add(e, l.splat(2.0)))
}

#[cfg(test)]
mod tests {
    use impasto_core::Isa;

    use super::super::lanes::{Kernel, Token};
    use super::*;

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Tanh,
    }

    /// Applies a function to whole vectors of floats, in place.
    struct Map<'a>(Function, &'a mut [f32]);

    impl Kernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            for x in self.1.as_chunks_mut().0 {
                let v = l.load(x);
                l.store(
                    x,
                    match self.0 {
                        Function::Exp => exp(l, v),
                        Function::Tanh => tanh(l, v),
                    },
                );
            }
        }
    }

    fn map(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        out.resize(x.len().next_multiple_of(16), 0.0);
        Token::of(isa).run(Map(function, &mut out));
        out.truncate(x.len());
        out
    }

    /// Returns every `step`-th float between two floats of the same sign, away from 0.
    fn sweep(from: f32, to: f32, step: usize) -> Vec<f32> {
        (from.to_bits()..=to.to_bits()).step_by(step).map(f32::from_bits).collect()
    }

    #[test]
    fn exp_over_its_range() {
        let negative = sweep(-0.0, -200.0, 997);
        let positive = sweep(0.0, MOST, 997);
        let x: Vec<f32> = negative.into_iter().chain(positive).chain([LEAST, f32::NEG_INFINITY, -1e30]).collect();
        let scalar = map(Isa::Scalar, Function::Exp, &x);
        let mut worst = 0.0f64;
        for (x, y) in x.iter().zip(&scalar) {
            let exact = f64::from(*x).exp();
            if *x < LEAST {
                assert_eq!(*y, 0.0, "{x}");
            } else {
                worst = worst.max((f64::from(*y) / exact - 1.0).abs());
            }
        }
        assert!(worst < 1.3e-7, "{worst}");
        for isa in Isa::available() {
            assert_eq!(map(isa, Function::Exp, &x), scalar, "{isa}");
        }
    }

    #[test]
    fn tanh_over_its_range() {
        let positive = sweep(0.0, 100.0, 997);
        let x: Vec<f32> = positive.iter().map(|x| -x).chain(positive.iter().copied()).collect();
        let scalar = map(Isa::Scalar, Function::Tanh, &x);
        let mut worst = 0.0f64;
        for (x, y) in x.iter().zip(&scalar).filter(|(x, _)| x.abs() > 1e-37) {
            worst = worst.max((f64::from(*y) / f64::from(*x).tanh() - 1.0).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        for isa in Isa::available() {
            assert_eq!(map(isa, Function::Tanh, &x), scalar, "{isa}");
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        for isa in Isa::available() {
            assert!(map(isa, Function::Exp, &[f32::NAN; 16]).iter().all(|x| x.is_nan()), "{isa}");
            assert!(map(isa, Function::Tanh, &[f32::NAN; 16]).iter().all(|x| x.is_nan()), "{isa}");
            assert_eq!(map(isa, Function::Exp, &[f32::INFINITY]), map(isa, Function::Exp, &[MOST]));
        }
    }
}
