//! The factors of refinements: integers whose mean over all tensors meets the requested ratio of two layers' steps.

use crate::arithmetic::{exp2, log2};

/// Largest factor of a refinement (SPEC 6).
const MOST: f64 = 64.0;

/// Returns the factors of each tensor, from the top down. `tensors` gives the number of weights of each tensor that is
/// coded with loss. The mean logarithm of the factors, over all weights, approximates `octaves`.
pub fn factors(tensors: impl Iterator<Item = Option<u64>>, octaves: &[f64]) -> Vec<Vec<u8>> {
    // Excess of each layer so far, in octaves times weights.
    let mut over = vec![0.0; octaves.len()];
    let factor = |weights: f64, over: &mut f64, octaves: f64| {
        let ideal = exp2(octaves).clamp(2.0, MOST);
        let octaves = log2(ideal);
        let excess = |factor: f64, over: f64| over + weights * (log2(factor) - octaves);
        // Only the two integers next to the ideal, so that no tensor has to compensate for the excess of a large one.
        let (below, above) = (ideal.floor(), ideal.ceil());
        let best = if excess(below, *over).abs() <= excess(above, *over).abs() { below } else { above };
        *over = excess(best, *over);
        best as u8
    };
    let of_tensor = |weights: Option<u64>| match weights {
        Some(weights) => over.iter_mut().zip(octaves).map(|(over, &o)| factor(weights as f64, over, o)).collect(),
        None => vec![],
    };
    tensors.map(of_tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_meet_their_mean() {
        let weights = |i: u64| 1000 + i * 7919 % 5000;
        let tensors = || (0..200).map(|i| (i % 9 != 4).then(|| weights(i)));
        let octaves = [1.3, 2.7, 0.2, 9.0];
        let found = factors(tensors(), &octaves);
        assert_eq!(found.len(), 200);
        let (mut sums, mut all) = ([0.0; 4], 0.0);
        for (factors, weights) in found.iter().zip(tensors()) {
            let Some(weights) = weights else {
                assert!(factors.is_empty(), "not coded with loss");
                continue;
            };
            assert!((2..=3).contains(&factors[0]) && (6..=7).contains(&factors[1]), "{factors:?}");
            assert_eq!(factors[2..], [2, 64], "the least and the most");
            sums.iter_mut().zip(factors).for_each(|(sum, &factor)| *sum += weights as f64 * f64::from(factor).log2());
            all += weights as f64;
        }
        for (sum, octaves) in sums.iter().zip(octaves).take(2) {
            assert!((sum / all - octaves).abs() < 0.01, "{sum} {all}");
        }
    }
}
