//! Fits classes of rows and columns to known integers.

use impasto_codec::header::MAX_PLANE;
use rayon::prelude::*;

use super::costs::{CLASSES, Costs, REACH, SHIFTS};
use crate::scales::ENOUGH;

/// Elements have low bits from class 24 on (SPEC 7.3).
const WIDE: i32 = 22;
/// Rows, or columns, that are summed together.
const CHUNK: usize = 64;

/// The number of plane bits of each integer, and the classes of rows and columns at which the rest costs least.
pub struct Classes {
    pub plane: u8,
    pub rows: Vec<i16>,
    pub columns: Vec<i16>,
}

impl Classes {
    /// Returns whether a typical element has low bits, or nearly.
    pub fn is_wide(&self) -> bool {
        let middle = |classes: &[i16]| {
            let mut sorted = classes.to_vec();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).map_or(0, |&class| i32::from(class))
        };
        middle(&self.rows) + middle(&self.columns) >= WIDE
    }

    /// Returns classes with `octaves` low bits less.
    pub fn narrower(&self, octaves: i16) -> Classes {
        let rows = self.rows.iter().map(|class| class.saturating_sub(4 * octaves)).collect();
        Classes { plane: self.plane, rows, columns: self.columns.clone() }
    }
}

/// Fits classes to integers, `columns` per row: one set for each number of plane bits that may be the best one.
///
/// A plane costs one bit for every element; an escape costs more, but only where it occurs. A few rows or columns with
/// large integers may or may not be worth a plane.
pub fn fit_classes(costs: &Costs, z: &[i32], columns: usize) -> Vec<Classes> {
    let squares = mean_squares(z, columns);
    let widest = |of: fn(&[f64]) -> f64| of(&squares.0) * of(&squares.1);
    let largest = costs.mean_squares()[CLASSES - 1];
    // The plane holds what exceeds the widest class: one bit is a factor of 4 in the mean square.
    let plane = |widest: f64| {
        let holds = |&plane: &u8| widest <= largest * 4f64.powi(plane.into());
        (0..MAX_PLANE).find(holds).unwrap_or(MAX_PLANE)
    };
    let mut planes =
        vec![plane(widest(nearly_largest)), plane(widest(|squares| squares.iter().copied().fold(0.0, f64::max)))];
    planes.dedup();
    planes.into_iter().map(|plane| fit_at(costs, z, columns, &squares, plane)).collect()
}

fn fit_at(costs: &Costs, z: &[i32], columns: usize, found: &(Vec<f64>, Vec<f64>), plane: u8) -> Classes {
    let rows = z.len() / columns.max(1);
    let mut row_squares = found.0.clone();
    let mut column_squares = found.1.clone();
    if columns < ENOUGH {
        let mean = row_squares.iter().sum::<f64>() / rows.max(1) as f64;
        row_squares.fill(mean);
    }
    if rows < ENOUGH {
        column_squares.fill(1.0);
    }
    let squares = costs.mean_squares();
    let shrink = 4f64.powi(-i32::from(plane));
    let nearest = |square: f64| {
        // The boundary between two classes is their geometric mean.
        let above = squares.windows(2).take_while(|pair| square * square > pair[0] * pair[1]);
        above.count() as i32
    };
    // Classes add where mean squares multiply, so a column's class is computed relative to a typical row.
    let mut sorted = row_squares.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let typical_row = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0) * shrink;
    let base = nearest(typical_row);
    let mut column_classes: Vec<i32> = column_squares.iter().map(|&c| nearest(typical_row * c) - base).collect();
    let mut row_classes: Vec<i32> = row_squares.iter().map(|&r| nearest(r * shrink)).collect();
    let by_magnitude = costs.by_magnitude();
    for _ in 0..2 {
        // The class of each column given those of the rows, then of each row given those of the columns. The class of a
        // row or column may be up to REACH from the one that its mean square suggests.
        let chunk = |chunk: usize| {
            let mut sums = vec![[0u32; SHIFTS]; columns];
            for (r, &row) in row_classes.iter().enumerate().skip(chunk * CHUNK).take(CHUNK) {
                let z = &z[r * columns..][..columns];
                for ((sums, &column), z) in sums.iter_mut().zip(&column_classes).zip(z) {
                    by_magnitude.add(sums, row + column, z >> plane);
                }
            }
            sums.into_iter().map(|sums| sums.map(u64::from)).collect::<Vec<_>>()
        };
        let add = |mut a: Vec<[u64; SHIFTS]>, b: Vec<[u64; SHIFTS]>| {
            a.iter_mut().zip(b).for_each(|(a, b)| add_to(a, b));
            a
        };
        let none = || vec![[0; SHIFTS]; columns];
        let sums = (0..rows.div_ceil(CHUNK)).into_par_iter().map(chunk).reduce(none, add);
        if rows >= ENOUGH {
            column_classes.iter_mut().zip(&sums).for_each(|(class, sums)| *class += cheapest(sums));
        }
        let row_sums = |(r, &class): (usize, &i32)| {
            let mut sums = [0u64; SHIFTS];
            let z = &z[r * columns..][..columns];
            for (z, classes) in z.chunks(CHUNK).zip(column_classes.chunks(CHUNK)) {
                let mut part = [0; SHIFTS];
                z.iter().zip(classes).for_each(|(z, &column)| by_magnitude.add(&mut part, class + column, z >> plane));
                add_to(&mut sums, part.map(u64::from));
            }
            sums
        };
        if columns >= ENOUGH {
            row_classes.par_iter_mut().enumerate().for_each(|(r, class)| *class += cheapest(&row_sums((r, class))));
        } else {
            let add = |mut a: [u64; SHIFTS], b: [u64; SHIFTS]| {
                add_to(&mut a, b);
                a
            };
            let sums = row_classes.par_iter().enumerate().map(row_sums).reduce(|| [0; SHIFTS], add);
            let offset = cheapest(&sums);
            row_classes.iter_mut().for_each(|class| *class += offset);
        }
    }
    let narrow = |classes: Vec<i32>| classes.into_iter().map(|t| t as i16).collect();
    Classes { plane, rows: narrow(row_classes), columns: narrow(column_classes) }
}

/// Returns the 98th percentile.
fn nearly_largest(squares: &[f64]) -> f64 {
    let mut sorted = squares.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get((sorted.len() * 49 / 50).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

fn add_to(sums: &mut [u64; SHIFTS], more: [u64; SHIFTS]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// Returns the shift of least cost; among equal ones, the nearest to 0.
fn cheapest(sums: &[u64; SHIFTS]) -> i32 {
    let reach = REACH as i32;
    let by_cost = (-reach..=reach).zip(sums).min_by_key(|&(shift, &cost)| (cost, shift.abs()));
    by_cost.map_or(0, |(shift, _)| shift)
}

/// Models the mean squares of integers as row x column: returns that of each row, and that of each column relative to
/// the rows.
///
/// Sums have a fixed order, so they do not depend on the number of threads.
fn mean_squares(z: &[i32], columns: usize) -> (Vec<f64>, Vec<f64>) {
    let n = columns.max(1);
    let rows = |by_column: &[f64]| -> Vec<f64> {
        let row = |z: &[i32]| {
            let sum: f64 = z.iter().zip(by_column).map(|(&z, &c)| f64::from(z) * f64::from(z) * c).sum();
            sum / n as f64
        };
        z.par_chunks(n).map(row).collect()
    };
    let inverse = |x: f64| if x > 0.0 { 1.0 / x } else { 0.0 };
    let by_row: Vec<f64> = rows(&vec![1.0; n]).into_iter().map(inverse).collect();
    let count = by_row.iter().filter(|&&r| r > 0.0).count().max(1) as f64;
    let sums = |(z, by_row): (&[i32], &[f64])| {
        let mut sums = vec![0.0; n];
        for (z, &r) in z.chunks_exact(n).zip(by_row) {
            sums.iter_mut().zip(z).for_each(|(sum, &z)| *sum += f64::from(z) * f64::from(z) * r);
        }
        sums
    };
    let parts: Vec<Vec<f64>> = z.par_chunks(n * CHUNK).zip(by_row.par_chunks(CHUNK)).map(sums).collect();
    let mut by_column = vec![0.0; n];
    for part in parts {
        by_column.iter_mut().zip(part).for_each(|(sum, part)| *sum += part / count);
    }
    let inverses: Vec<f64> = by_column.iter().map(|&c| inverse(c)).collect();
    (rows(&inverses), by_column)
}
