//! Vectors as factors on a lattice.

use impasto_codec::IndexArray;
use impasto_codec::low_rank::{LowRank, MOST_FACTOR, Term};

use crate::arithmetic::log2;

/// Fewest levels on each side of 0.
const LEAST: f64 = 7.0;
/// What rounding a term's factors may add to what the part leaves, as a share of it.
const SHARE: f64 = 0.01;
/// Bits of an entry besides those of its levels: Rice codes of a bell curve, whose peak is about three deviations from 0.
const ENTRY_BITS: f64 = 0.7;

/// A pair of vectors, whose product is added to a matrix. Its square is `square`, in the unit of what the part leaves.
pub struct Pair {
    pub rows: Vec<f64>,
    pub columns: Vec<f64>,
    pub square: f64,
}

/// Returns the levels on each side of 0 that the factors of a vector need in a term of a given square, if the part leaves a
/// square of `left`.
///
/// Rounding to levels of width `d` adds `d^2 / 12` to the mean square `m` of the factors, so a share of `d^2 / 12 m` to the square
/// of the term.
fn levels(vector: &[f64], square: f64, left: f64) -> f64 {
    let most = peak(vector);
    let mean = vector.iter().map(|x| x * x).sum::<f64>() / vector.len().max(1) as f64;
    let share = 0.5 * SHARE * left / square.max(f64::MIN_POSITIVE);
    (most / (12.0 * mean * share).max(f64::MIN_POSITIVE).sqrt()).clamp(LEAST, f64::from(MOST_FACTOR)).round()
}

fn peak(vector: &[f64]) -> f64 {
    vector.iter().fold(0.0, |most: f64, x| most.max(x.abs()))
}

/// Returns the low-rank part that is the sum of these pairs, about, if it leaves a square of `left`; `None` if it would be
/// nothing, or more than the format holds.
pub fn part(pairs: &[Pair], left: f64) -> Option<LowRank> {
    let term = |Pair { rows, columns, square }: &Pair| {
        let [peaks, levels] =
            [[peak(rows), peak(columns)], [rows, columns].map(|vector| levels(vector, *square, left))];
        let scale = ((peaks[0] / levels[0]) * (peaks[1] / levels[1])) as f32;
        let factors = |vector: &[f64], side: usize| {
            let factor = |x: &f64| (x / peaks[side] * levels[side]).round_ties_even() as i16;
            IndexArray::new(vector.iter().map(factor).collect())
        };
        let is_something = peaks.iter().all(|&peak| peak > 0.0) && scale.is_finite() && scale > 0.0;
        is_something.then(|| Term { scale, rows: factors(rows, 0), columns: factors(columns, 1) })
    };
    let part = LowRank { terms: pairs.iter().filter_map(term).collect() };
    part.check().is_ok().then_some(part)
}

/// Returns about the bits that a part of these pairs takes, if it leaves a square of `left`.
pub fn bits<'a>(pairs: impl Iterator<Item = &'a Pair>, left: f64) -> f64 {
    let of_side = |vector: &[f64], square: f64| {
        let levels = levels(vector, square, left);
        // Deviations of a bell curve with as many levels as this vector has within its own.
        let mean = vector.iter().map(|x| x * x).sum::<f64>() / vector.len().max(1) as f64;
        let deviation = levels * mean.sqrt() / peak(vector).max(f64::MIN_POSITIVE);
        vector.len() as f64 * (log2(deviation.max(0.25)) + 2.05 + ENTRY_BITS) + 24.0
    };
    pairs.map(|pair| 32.0 + of_side(&pair.rows, pair.square) + of_side(&pair.columns, pair.square)).sum()
}

#[cfg(test)]
mod tests {
    use impasto_core::Isa;
    use impasto_core::rng::SplitMix64;

    use super::*;

    fn vector(n: usize, seed: u64) -> Vec<f64> {
        let mut random = SplitMix64::new(seed);
        (0..n).map(|_| (0..6).map(|_| random.next_f64() - 0.5).sum::<f64>()).collect()
    }

    fn pair() -> Pair {
        let (rows, columns) = (vector(40, 1), vector(70, 2));
        let square = |vector: &[f64]| vector.iter().map(|x| x * x).sum::<f64>();
        Pair { square: square(&rows) * square(&columns), rows, columns }
    }

    /// The error of rounding is at most a hundredth of what the part leaves, and the estimate of its bits is near.
    #[test]
    fn factors_are_as_fine_as_they_need_be() {
        let pair = pair();
        for left in [0.3, 0.01, 1e-3].map(|share| share * pair.square) {
            let part =
                part(&[Pair { rows: pair.rows.clone(), columns: pair.columns.clone(), ..pair }], left).expect("fits");
            let (mut row, mut error) = (Vec::new(), 0.0);
            for r in 0..40 {
                part.row(Isa::Scalar, r, 0..70, &mut row);
                let wanted = pair.columns.iter().map(|c| c * pair.rows[r]);
                error += row.iter().zip(wanted).map(|(&a, b)| (f64::from(a) - b).powi(2)).sum::<f64>();
            }
            assert!(error < 1.5 * SHARE * left, "{error} of {left}");
            assert!(error > 0.2 * SHARE * left, "finer than it needs be: {error} of {left}");
            let header = |low_rank| {
                let steps = impasto_codec::Steps { low_rank, ..impasto_codec::Steps::new(1.0) };
                let shape = impasto_codec::Shape::Parametric(0);
                crate::code::plain_header(shape, impasto_codec::Body::Lattice(steps)).to_bytes().len()
            };
            let bits_of_part = 8.0 * (header(Some(part)) - header(None)) as f64;
            let estimate = bits([&pair].into_iter(), left);
            assert!((estimate / bits_of_part - 1.0).abs() < 0.15, "{estimate} for {bits_of_part}");
        }
    }

    #[test]
    fn nothing_is_no_part() {
        let zeros = Pair { rows: vec![0.0; 4], columns: vec![1.0; 5], square: 0.0 };
        assert!(part(&[zeros], 1.0).is_none() && part(&[], 1.0).is_none());
        let huge = Pair { rows: vec![1e30; 4], columns: vec![1e30; 5], square: 1e60 };
        assert!(part(&[huge], 1.0).is_none(), "2^127");
    }
}
