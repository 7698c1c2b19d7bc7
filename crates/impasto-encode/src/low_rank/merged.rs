//! The low-rank part of a tensor that is kept exactly over a base: an adapter that was merged into it.
//!
//! A merged weight is the sum of a weight of the base and a product of two thin matrices, rounded. The product is found again as
//! one that lies, for each weight, in the interval of what is rounded to it. It then predicts nearly all weights exactly.

use std::ops::Range;

use impasto_codec::low_rank::{MOST_FACTOR, Term};
use impasto_codec::{IndexArray, LowRank};
use impasto_core::{DType, FloatLayout, Isa, Place};
use rayon::prelude::*;

use super::intervals::Intervals;
use super::newton::{Aim, Product};
use super::structure::{LEAST_SHARE, excess};
use super::subspace::{Leading, leading};
use crate::matrix::MatrixView;

/// Most terms that are sought.
const MOST: usize = 16;
/// Fewest rows and columns.
const LEAST_SIDE: usize = 2 * MOST;
/// Rows and columns of the sample that is looked at first.
const SAMPLE: [usize; 2] = [256, 384];
/// Rows of the sample that the rank and the first factors of the columns are found in.
const ROWS: usize = 256;
/// Least share of the weights that are not those of the base: what changes few costs less than factors.
const LEAST_CHANGED: f64 = 0.05;
/// Share of these that a product of [`MOST`] terms may miss in the sample after one step. A merged adapter misses a tenth, a
/// fine-tune of all weights more than half.
const MOST_MISSED: f64 = 0.35;
/// Most weights of a tensor whose adapter is sought.
pub const MOST_WEIGHTS: usize = 1 << 28;
/// Most steps, and where they end earlier: when this share of the weights is missed, or this share of the fewest before.
const STEPS: usize = 16;
const LEAST_MISSED: f64 = 1.2e-3;
const SLOW: f64 = 0.98;
/// Weights, relative to those outside of their intervals, by which the others are held in the first steps and in later ones.
const HELD: [f32; 6] = [0.3, 0.1, 0.03, 0.01, 0.01, 0.003];
/// About the bits of a weight that is missed, and of a factor.
const MISSED_BITS: f64 = 9.0;
const FACTOR_BITS: f64 = 9.0;
/// The most levels on each side of 0 of a term's factors.
const MOST_LEVEL: f64 = MOST_FACTOR as f64;
/// How far apart the elements of the product are, in the median length of an interval, if a factor of each term moves by a level.
const FINENESS: [f64; 3] = [0.0035, 0.005, 0.007];

/// Returns low-rank parts that may pay for a tensor over the elements `over` of a base, which differ in how fine their factors are;
/// none if it does not look like one with a merged adapter.
pub fn of_difference(matrix: &MatrixView, layout: FloatLayout, over: &[u8]) -> Vec<LowRank> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    if rows.min(columns) < LEAST_SIDE || matrix.len() > MOST_WEIGHTS {
        return vec![];
    }
    let spread = |length: usize, most: usize| -> Vec<usize> {
        let some = length.min(most);
        (0..some).map(|i| i * length / some).collect()
    };
    let [some_rows, some_columns] = [spread(rows, SAMPLE[0]), spread(columns, SAMPLE[1])];
    let sample = Intervals::new(matrix, layout, over, &some_rows, &some_columns);
    if sample.changed < LEAST_CHANGED {
        return vec![];
    }
    let found = leading_of(&sample, MOST);
    if excess(&found, [sample.rows, sample.columns]) < LEAST_SHARE {
        return vec![];
    }
    let mut product = Product::new(&found);
    if product.rank == 0 {
        return vec![];
    }
    product.step(&sample, Aim::Middle);
    if product.outside(&sample) > MOST_MISSED * sample.changed {
        return vec![];
    }
    let of_rows = |some: &[usize]| Intervals::new(matrix, layout, over, some, &(0..columns).collect::<Vec<_>>());
    let product = least(&of_rows(&spread(rows, ROWS)), [rows, columns]);
    if product.rank == 0 {
        return vec![];
    }
    let intervals = of_rows(&(0..rows).collect::<Vec<_>>());
    let product = settled(product.with_rows(rows), &intervals);
    FINENESS.iter().filter_map(|&fineness| on_lattice(product.clone(), fineness, &intervals)).collect()
}

/// Returns the elements that such a part predicts at a place, from those of the base there, row by row.
pub fn predicted(low_rank: &LowRank, dtype: DType, place: &Place, over: &[u8]) -> Vec<u8> {
    let row_bytes = place.columns.len() * dtype.size();
    let mut out = vec![0; over.len()];
    let rows = out.par_chunks_mut(row_bytes.max(1)).zip(over.par_chunks(row_bytes.max(1))).enumerate();
    rows.for_each_init(Default::default, |work, (r, (out, over))| {
        let at = (place.rows.start + r, place.columns.clone());
        low_rank.add_to_base(Isa::best(), dtype, at, over, out, work);
    });
    out
}

fn leading_of(at: &Intervals, rank: usize) -> Leading {
    leading([at.rows, at.columns], rank, |rows: Range<usize>, out: &mut Vec<f32>| {
        let row = |r: usize| (r * at.stride..r * at.stride + at.columns).map(|i| at.middle(i));
        out.extend(rows.flat_map(row));
    })
}

/// Returns the product for a sample of the rows of a matrix of these sides, with as many terms as suffice, found by bisection.
fn least(at: &Intervals, [rows, columns]: [usize; 2]) -> Product {
    let mut best = Product::new(&leading_of(at, MOST));
    if best.rank == 0 {
        return best;
    }
    best.step(at, Aim::Middle);
    best.step(at, Aim::Inside(HELD[0]));
    best.step(at, Aim::Inside(HELD[1]));
    best.balance();
    let cost = |product: &Product| {
        let factors = product.rank * (rows + columns);
        MISSED_BITS * product.outside(at) * (rows * columns) as f64 + FACTOR_BITS * factors as f64
    };
    let mut too_few = 0;
    while best.rank - too_few > 1 {
        let mut fewer = best.first((best.rank + too_few) / 2);
        // Both take steps, since terms that are weak are found late.
        for product in [&mut best, &mut fewer] {
            product.step(at, Aim::Inside(HELD[1]));
            product.step(at, Aim::Inside(HELD[2]));
            product.balance();
        }
        if cost(&fewer) <= cost(&best) {
            best = fewer;
        } else {
            too_few = fewer.rank;
        }
    }
    best
}

/// Returns the product after steps that move it into its intervals; its rows are found from its columns.
fn settled(mut product: Product, at: &Intervals) -> Product {
    product.step_rows(at, Aim::Middle);
    product.step_rows(at, Aim::Inside(HELD[0]));
    let (mut best, mut fewest) = (product.clone(), product.outside(at));
    for step in 0..STEPS {
        product.step(at, Aim::Inside(HELD[step.min(HELD.len() - 1)]));
        let (missed, before) = (product.outside(at), fewest);
        if missed < fewest {
            (best, fewest) = (product.clone(), missed);
        }
        if missed < LEAST_MISSED || missed > SLOW * before {
            break;
        }
    }
    best
}

/// Returns a product with factors on a lattice, as fine as said; `None` if it is nothing.
fn on_lattice(mut product: Product, fineness: f64, at: &Intervals) -> Option<LowRank> {
    product.balance();
    let peak =
        |side: &[f64], n: usize, k: usize| side.iter().skip(k).step_by(n).fold(0.0, |most: f64, x| most.max(x.abs()));
    let all = product.rank;
    let is_live = |k: usize| peak(&product.rows, all, k) > 0.0 && peak(&product.columns, all, k) > 0.0;
    let n = (0..all).take_while(|&k| is_live(k)).count();
    if n == 0 {
        return None;
    }
    product = product.first(n);
    // Levels of a factor are as far apart as makes an error of the same size in the product, whatever its term. That takes the
    // fewest bits for the error of all: terms that are weak get few levels.
    let length = |side: &[f64], k: usize| {
        let squares = side.iter().skip(k).step_by(n).map(|x| x * x);
        (squares.sum::<f64>() * n as f64 / side.len() as f64).sqrt()
    };
    let lengths = |side: &[f64]| -> Vec<f64> { (0..n).map(|k| length(side, k)).collect() };
    let [row_lengths, column_lengths] = [lengths(&product.rows), lengths(&product.columns)];
    let widths = |side: &[f64], others: &[f64]| -> Vec<f64> {
        let width = |k: usize, other: f64| {
            let peak = peak(side, n, k);
            (fineness / (n as f64).sqrt() / other).clamp(peak / MOST_LEVEL, peak)
        };
        others.iter().enumerate().map(|(k, &other)| width(k, other)).collect()
    };
    let rounded = |side: &[f64], widths: &[f64]| -> Vec<i16> {
        let level = |(x, width): (&f64, &f64)| (x / width).round_ties_even().clamp(-MOST_LEVEL, MOST_LEVEL) as i16;
        side.iter().zip(widths.iter().cycle()).map(level).collect()
    };
    let column_widths = widths(&product.columns, &row_lengths);
    let columns = rounded(&product.columns, &column_widths);
    let on_lattice = columns.iter().zip(column_widths.iter().cycle());
    product.columns = on_lattice.map(|(&level, width)| f64::from(level) * width).collect();
    for held in [HELD[2], HELD[3], HELD[3]] {
        product.step_rows(at, Aim::Inside(held));
    }
    let row_widths = widths(&product.rows, &column_lengths);
    let rows = rounded(&product.rows, &row_widths);
    let factors = |levels: &[i16], k: usize| IndexArray::new(levels.iter().skip(k).step_by(n).copied().collect());
    let term = |k: usize| Term {
        scale: (row_widths[k] * column_widths[k] * at.unit) as f32,
        rows: factors(&rows, k),
        columns: factors(&columns, k),
    };
    let part = LowRank { terms: (0..n).map(term).collect() };
    part.check().is_ok().then_some(part)
}

#[cfg(test)]
mod tests {
    use impasto_core::lattice::round;
    use impasto_core::rng::SplitMix64;

    use super::*;

    const SIDES: [usize; 2] = [240, 176];

    fn bell(random: &mut SplitMix64) -> f32 {
        ((0..6).map(|_| random.next_f64() - 0.5).sum::<f64>() * 0.03) as f32
    }

    fn bytes(weights: &[f32]) -> Vec<u8> {
        weights.iter().flat_map(|w| ((round(DType::Bf16, *w).to_bits() >> 16) as u16).to_le_bytes()).collect()
    }

    /// The weights of a base as they are in BF16, and what `add` adds to each of them, rounded, as elements.
    fn pair(add: impl Fn(usize, usize, &mut SplitMix64) -> f32) -> [Vec<u8>; 2] {
        let mut random = SplitMix64::new(5);
        let [rows, columns] = SIDES;
        let base: Vec<f32> = (0..rows * columns).map(|_| round(DType::Bf16, bell(&mut random))).collect();
        let tuned: Vec<f32> =
            base.iter().enumerate().map(|(i, w)| w + add(i / columns, i % columns, &mut random)).collect();
        [bytes(&base), bytes(&tuned)]
    }

    fn parts(base: &[u8], tuned: &[u8]) -> Vec<LowRank> {
        let matrix = MatrixView::plain(tuned, DType::Bf16, SIDES[0], SIDES[1]);
        of_difference(&matrix, DType::Bf16.float_layout().expect("floats"), base)
    }

    fn missed(a: &[u8], b: &[u8]) -> usize {
        a.chunks_exact(2).zip(b.chunks_exact(2)).filter(|(a, b)| a != b).count()
    }

    /// Of a product of rank 4 that changes less than a unit in the last place on average, nearly all weights are predicted.
    #[test]
    fn a_merged_product_is_found() {
        let mut random = SplitMix64::new(8);
        let factors: Vec<f32> = (0..(SIDES[0] + SIDES[1]) * 4).map(|_| bell(&mut random)).collect();
        let product = |r: usize, c: usize| -> f32 {
            (0..4).map(|k| 0.2 * factors[r * 4 + k] * factors[(SIDES[0] + c) * 4 + k]).sum()
        };
        let [base, tuned] = pair(|r, c, _| product(r, c));
        let changed = missed(&base, &tuned);
        assert!((0.1..0.9).contains(&(changed as f64 / (SIDES[0] * SIDES[1]) as f64)), "{changed}");
        let parts = parts(&base, &tuned);
        assert_eq!(parts.len(), FINENESS.len());
        let place = Place { rows: 0..SIDES[0], columns: 0..SIDES[1] };
        for part in &parts {
            assert_eq!(part.rank(), 4);
            let left = missed(&predicted(part, DType::Bf16, &place, &base), &tuned);
            assert!(left * 15 < changed, "{left} of {changed}");
        }
        // A place in the middle is predicted as it is in the whole.
        let inner = Place { rows: 3..9, columns: 17..60 };
        let cut = |elements: &[u8]| crate::decoded::part(elements, DType::Bf16, SIDES[1], &inner);
        let whole = predicted(&parts[0], DType::Bf16, &place, &base);
        assert_eq!(predicted(&parts[0], DType::Bf16, &inner, &cut(&base)), cut(&whole));
    }

    #[test]
    fn noise_and_few_changes_are_no_product() {
        let [base, noisy] = pair(|_, _, random| 3e-3 * bell(random));
        assert!(missed(&base, &noisy) > 1000 && parts(&base, &noisy).is_empty());
        let [base, some] = pair(|r, _, _| if r % 64 == 3 { 0.01 } else { 0.0 });
        assert!(missed(&base, &some) > 100 && parts(&base, &some).is_empty());
        assert!(parts(&base, &base).is_empty());
        let of_nan = vec![0xFF; base.len()];
        assert!(parts(&of_nan, &base).is_empty() && parts(&base, &of_nan).is_empty());
    }
}
