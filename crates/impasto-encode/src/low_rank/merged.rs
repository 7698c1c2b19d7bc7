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
/// Rows and columns of the sample that the rank is found in.
const RANK_SAMPLE: [usize; 2] = [256, 1024];
/// Least share of the weights that are not those of the base: what changes few costs less than factors.
const LEAST_CHANGED: f64 = 0.05;
/// Share of these that a product of [`MOST`] terms may miss in the sample after one step. A merged adapter misses a tenth, a
/// fine-tune of all weights more than half.
const MOST_MISSED: f64 = 0.25;
/// Most weights of a tensor whose adapter is sought; that takes 12 bytes of memory per weight.
const MOST_WEIGHTS: usize = 1 << 28;
/// Most steps, and where they end earlier: when this share of the weights is missed, or this share of those before.
const STEPS: usize = 6;
const LEAST_MISSED: f64 = 1e-3;
const SLOW: f64 = 0.9;
/// Weights, relative to those outside of their intervals, by which the others are held in the first steps and in later ones.
const HELD: [f32; 4] = [0.3, 0.1, 0.03, 0.01];
/// About the bits of a weight that is missed, and of a factor.
const MISSED_BITS: f64 = 9.0;
const FACTOR_BITS: f64 = 9.0;
/// Levels on each side of 0 of the largest factors; those of other terms have the same width.
const MOST_LEVEL: f64 = MOST_FACTOR as f64;
const LEVELS: [f64; 2] = [2047.0, 4094.0];

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
    product.step(&sample, Aim::Middle);
    if product.rank == 0 || product.outside(&sample) > MOST_MISSED * sample.changed {
        return vec![];
    }
    let [some_rows, some_columns] = [spread(rows, RANK_SAMPLE[0]), spread(columns, RANK_SAMPLE[1])];
    let rank = least(&Intervals::new(matrix, layout, over, &some_rows, &some_columns), [rows, columns]);
    let all = |length: usize| (0..length).collect::<Vec<_>>();
    let intervals = Intervals::new(matrix, layout, over, &all(rows), &all(columns));
    let product = settled(Product::new(&leading_of(&intervals, rank)), &intervals);
    LEVELS.iter().filter_map(|&levels| on_lattice(product.clone(), levels, &intervals)).collect()
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

/// Returns how many terms suffice for a matrix of these sides, by bisection on a sample of it.
fn least(at: &Intervals, [rows, columns]: [usize; 2]) -> usize {
    let mut best = Product::new(&leading_of(at, MOST));
    best.step(at, Aim::Middle);
    best.step(at, Aim::Inside(HELD[0]));
    best.step(at, Aim::Inside(HELD[1]));
    best.balance();
    let cost = |product: &Product| {
        let factors = product.rank * (rows + columns);
        MISSED_BITS * product.outside(at) * (rows * columns) as f64 + FACTOR_BITS * factors as f64
    };
    let (mut too_few, mut least) = (0, cost(&best));
    while best.rank - too_few > 1 {
        let mut fewer = best.first((best.rank + too_few) / 2);
        fewer.step(at, Aim::Inside(HELD[1]));
        fewer.balance();
        let other = cost(&fewer);
        if other <= least {
            (best, least) = (fewer, other);
        } else {
            too_few = fewer.rank;
        }
    }
    best.rank
}

/// Returns the product after steps that move it into its intervals.
fn settled(mut product: Product, at: &Intervals) -> Product {
    product.step(at, Aim::Middle);
    let mut missed = product.outside(at);
    for step in 0..STEPS {
        let mut next = product.clone();
        next.step(at, Aim::Inside(HELD[step.min(HELD.len() - 1)]));
        let left = next.outside(at);
        if left < missed {
            product = next;
        }
        if left < LEAST_MISSED || left > SLOW * missed {
            break;
        }
        missed = left;
    }
    product
}

/// Returns a product with factors on a lattice of so many levels; `None` if it is nothing.
fn on_lattice(mut product: Product, levels: f64, at: &Intervals) -> Option<LowRank> {
    product.balance();
    let n = product.rank;
    let peak = |side: &[f64], k: usize| side.iter().skip(k).step_by(n).fold(0.0, |most: f64, x| most.max(x.abs()));
    let most = |side: &[f64]| (0..n).map(|k| peak(side, k)).fold(0.0, f64::max);
    let least = most(&product.rows).max(most(&product.columns)) / levels;
    let widths = |side: &[f64]| -> Vec<f64> { (0..n).map(|k| least.max(peak(side, k) / MOST_LEVEL)).collect() };
    let rounded = |side: &[f64], widths: &[f64]| -> Vec<i16> {
        let level = |(x, width): (&f64, &f64)| (x / width).round_ties_even().clamp(-MOST_LEVEL, MOST_LEVEL) as i16;
        side.iter().zip(widths.iter().cycle()).map(level).collect()
    };
    let column_widths = widths(&product.columns);
    let columns = rounded(&product.columns, &column_widths);
    let on_lattice = columns.iter().zip(column_widths.iter().cycle());
    product.columns = on_lattice.map(|(&level, width)| f64::from(level) * width).collect();
    for held in [HELD[2], HELD[3], HELD[3]] {
        product.step_rows(at, Aim::Inside(held));
    }
    let row_widths = widths(&product.rows);
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
