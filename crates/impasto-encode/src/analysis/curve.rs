//! Rates at equal error.

use crate::arithmetic::{exp2, log2};
use crate::lattice::LAMBDA;

/// Errors within a quarter of a decibel are near: what is left is corrected by the slope of the curve. In octaves.
const NEAR: f64 = 0.083;
/// How many times a sample is coded again, at most.
const TRIES: usize = 4;
/// Squared steps per weight that count as no error.
const LEAST_ERROR: f64 = 1e-9;
/// Most octaves by which the step is changed.
const REACH: f64 = 4.0;

/// A point of a curve of rate and error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Bits per weight.
    pub bits: f64,
    /// Mean squared error, in squared steps of the tensor.
    pub error: f64,
    /// Microseconds per weight that the coding took.
    pub microseconds: f64,
}

/// Returns the rate at an error of `wanted`, given the point at the step of the tensor, where the slope of the curve is
/// known: `lambda` squared steps of error per bit. `code` codes at a multiple of this step, and at the slope that belongs to
/// it.
///
/// # Errors
/// Those of `code`.
pub fn at_error<E>(wanted: f64, first: Point, mut code: impl FnMut(f64) -> Result<Point, E>) -> Result<f64, E> {
    let off = |point: &Point| log2(point.error.max(LEAST_ERROR)) - log2(wanted.max(LEAST_ERROR));
    let mut points = vec![(0.0, first)];
    let nearest = |points: &[(f64, Point)]| {
        let better = |a: &&(f64, Point), b: &&(f64, Point)| off(&a.1).abs().total_cmp(&off(&b.1).abs());
        points.iter().min_by(better).copied().unwrap_or((0.0, first))
    };
    for _ in 0..TRIES {
        let (at, point) = nearest(&points);
        if off(&point).abs() <= NEAR {
            break;
        }
        // Octaves of error per octave of step: two at high rates, fewer at low ones.
        let slope = match points[..] {
            [.., (a, before), (b, after)] if a != b => (off(&after) - off(&before)) / (b - a),
            _ => 2.0,
        };
        let next = (at - off(&point) / slope.clamp(0.5, 4.0)).clamp(-REACH, REACH);
        if points.iter().any(|(at, _)| (at - next).abs() < 1e-4) {
            break;
        }
        points.push((next, code(exp2(next))?));
    }
    if points.len() == 1 {
        return Ok(first.bits + (first.error - wanted) / f64::from(LAMBDA));
    }
    // On the line through the two points that are nearest.
    points.sort_by(|a, b| off(&a.1).abs().total_cmp(&off(&b.1).abs()));
    let [(_, a), (_, b), ..] = points[..] else { return Ok(first.bits) };
    let apart = off(&b) - off(&a);
    // 1/6 bit per decibel, if there is no line.
    let slope = if apart.abs() > 1e-3 { (b.bits - a.bits) / apart } else { -0.5 };
    Ok(a.bits - off(&a) * slope.clamp(-2.0, 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Gaussian source of 256 squared steps whose error grows as a power of the step.
    fn gaussian(power: f64) -> impl Fn(f64) -> Result<Point, ()> {
        move |factor: f64| {
            let error = exp2(power * log2(factor)) / 12.0;
            Ok(Point { bits: (log2(256.0) - log2(error)) / 2.0, error, microseconds: 0.0 })
        }
    }

    #[test]
    fn rates_are_those_of_the_curve() {
        for power in [2.0, 1.4, 0.7] {
            let code = gaussian(power);
            let first = code(1.0).expect("a point");
            for wanted in [0.01, 0.05, 0.08, 0.085, 0.1, 0.4, 0.9] {
                let found = at_error(wanted, first, &code).expect("a rate");
                let true_rate = (log2(256.0) - log2(wanted)) / 2.0;
                assert!((found - true_rate).abs() < 0.002, "{power} {wanted}: {found} {true_rate}");
            }
        }
    }

    #[test]
    fn it_ends_where_nothing_changes() {
        let point = Point { bits: 1.0, error: 0.0, microseconds: 0.0 };
        let mut calls = 0;
        let mut code = |_: f64| {
            calls += 1;
            Ok::<_, ()>(point)
        };
        let far = at_error(0.1, point, &mut code).expect("a rate");
        assert!(far < 0.0 && far.is_finite(), "{far}");
        assert_eq!(at_error(0.0, point, &mut code), Ok(1.0));
        assert!(calls <= TRIES);
        assert_eq!(at_error(0.1, point, |_| Err("cancelled")), Err("cancelled"));
    }
}
