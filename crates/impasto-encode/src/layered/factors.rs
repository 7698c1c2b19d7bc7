//! The factors of refinements: integers whose mean over all tensors meets the requested ratio of two layers' steps.

use crate::arithmetic::{exp2, log2};

/// Largest factor of a refinement (SPEC 6).
const MOST: f64 = 64.0;

/// Chooses the factors of one tensor after another.
#[derive(Clone)]
pub struct Factors {
    /// Excess of each refinement so far, in octaves times weights.
    over: Vec<f64>,
}

impl Factors {
    /// Starts a file with so many refinements.
    pub fn new(refinements: usize) -> Factors {
        Factors { over: vec![0.0; refinements] }
    }

    /// Returns the factors of the next tensor, which has so many weights, from the top down. The mean logarithm of the factors, over
    /// all weights so far, approximates that of `octaves`.
    pub fn next(&mut self, weights: u64, octaves: &[f64]) -> Vec<u8> {
        let factor = |(over, &octaves): (&mut f64, &f64)| {
            let ideal = exp2(octaves).clamp(2.0, MOST);
            let octaves = log2(ideal);
            let excess = |factor: f64, over: f64| over + weights as f64 * (log2(factor) - octaves);
            // Only the two integers next to the ideal, so that no tensor has to compensate for the excess of a large one.
            let (below, above) = (ideal.floor(), ideal.ceil());
            let best = if excess(below, *over).abs() <= excess(above, *over).abs() { below } else { above };
            *over = excess(best, *over);
            best as u8
        };
        self.over.iter_mut().zip(octaves).map(factor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_meet_their_mean() {
        let weights = |i: u64| 1000 + i * 7919 % 5000;
        let octaves = [1.3, 2.7, 0.2, 9.0];
        let mut chooser = Factors::new(octaves.len());
        let (mut sums, mut all) = ([0.0; 4], 0.0);
        for weights in (0..200).map(weights) {
            let factors = chooser.next(weights, &octaves);
            assert!((2..=3).contains(&factors[0]) && (6..=7).contains(&factors[1]), "{factors:?}");
            assert_eq!(factors[2..], [2, 64], "the least and the most");
            sums.iter_mut().zip(factors).for_each(|(sum, factor)| *sum += weights as f64 * f64::from(factor).log2());
            all += weights as f64;
        }
        for (sum, octaves) in sums.iter().zip(octaves).take(2) {
            assert!((sum / all - octaves).abs() < 0.01, "{sum} {all}");
        }
    }
}
