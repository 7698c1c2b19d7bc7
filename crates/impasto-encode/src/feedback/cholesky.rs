//! Cholesky factorization in a fixed order of operations.

use std::ops::Range;

use rayon::prelude::*;

use super::multiply::{Row, WIDTH, multiply_add};

/// Columns whose contributions from all earlier columns are computed together, so that the matrix is read once for all of them.
const PANEL: usize = 8 * WIDTH;
/// Earlier columns whose contributions are added at a time: their factors stay in the cache.
const DEPTH: usize = 128;
/// Rows that a task works on.
const ROWS: usize = 48;

/// Factors a symmetric positive definite matrix, `H = L L^T` with `L` lower triangular, in place.
///
/// `h` is `n * n`, row-major. Its lower triangle becomes `L`; the entries above the diagonal are unchanged. Rows of a
/// matrix `X` with `n` columns may follow; they become `X L^-T`. Columns are processed [`PANEL`] at a time, and the
/// contribution of all earlier columns is one matrix product.
///
/// Returns false, with `h` partly overwritten, if a pivot is not positive or not finite.
pub fn cholesky(h: &mut [f64], n: usize) -> bool {
    assert!(h.len() >= n * n && h.len().is_multiple_of(n.max(1)));
    for start in (0..n).step_by(PANEL) {
        let end = n.min(start + PANEL);
        subtract(h, n, 0..start, start..end);
        for first in (start..end).step_by(WIDTH) {
            let columns = first..end.min(first + WIDTH);
            subtract(h, n, start..first, columns.clone());
            if !factor(h, n, columns) {
                return false;
            }
        }
    }
    true
}

/// Subtracts the contribution of the columns `done` of `L` from `columns`, in the rows from the first of these on.
fn subtract(h: &mut [f64], n: usize, done: Range<usize>, columns: Range<usize>) {
    // The rows of these columns, WIDTH at a time, transposed and negated: row k holds the factors of column k.
    let factors = |first: usize, k: usize| {
        let columns = first..columns.end.min(first + WIDTH);
        std::array::from_fn(|j| if j < columns.len() { -h[(first + j) * n + k] } else { 0.0 })
    };
    let panel = |first: usize| done.clone().map(|k| factors(first, k)).collect::<Vec<Row<f64>>>();
    let panels: Vec<_> = columns.clone().step_by(WIDTH).map(panel).collect();
    h[columns.start * n..].par_chunks_mut(n * ROWS).for_each(|rows| {
        let mut sums = vec![vec![[0.0; WIDTH]; rows.len() / n]; panels.len()];
        for k in (0..done.len()).step_by(DEPTH) {
            let depth = DEPTH.min(done.len() - k);
            for (sums, panel) in sums.iter_mut().zip(&panels) {
                multiply_add(sums, &rows[done.start + k..], n, &panel[k..k + depth], 0.0);
            }
        }
        for (first, sums) in columns.clone().step_by(WIDTH).zip(sums) {
            for (row, sum) in rows.chunks_exact_mut(n).zip(sums) {
                row[first..columns.end].iter_mut().zip(sum).for_each(|(h, s)| *h += s);
            }
        }
    });
}

/// Factors up to [`WIDTH`] columns, from which the contributions of all earlier columns were subtracted: the diagonal block
/// first, then the rows below it by substitution. Returns false if a pivot is not positive or not finite.
fn factor(h: &mut [f64], n: usize, columns: Range<usize>) -> bool {
    let (first, width) = (columns.start, columns.len());
    for j in columns.clone() {
        let mut pivot = h[j * n + j];
        for k in first..j {
            pivot -= h[j * n + k] * h[j * n + k];
        }
        if !(pivot > 0.0 && pivot.is_finite()) {
            return false;
        }
        h[j * n + j] = pivot.sqrt();
        let (above, below) = h.split_at_mut((j + 1) * n);
        let row = &above[j * n..];
        for other in below.chunks_exact_mut(n).take(columns.end - j - 1) {
            substitute(other, row, first, j);
        }
    }
    let (block, below) = h.split_at_mut(columns.end * n);
    below.par_chunks_mut(n * ROWS).for_each(|rows| {
        rows.chunks_mut(n * WIDTH).for_each(|rows| substitute_rows(rows, &block[first * n..], n, first, width));
    });
    true
}

/// Like [`substitute`], for the `width` entries from `first` on in up to [`WIDTH`] rows at once. `block` starts at row
/// `first` of `L`.
fn substitute_rows(rows: &mut [f64], block: &[f64], n: usize, first: usize, width: usize) {
    let mut entries: [Row<f64>; WIDTH] = [[0.0; WIDTH]; WIDTH];
    for (lane, row) in rows.chunks_exact(n).enumerate() {
        (0..width).for_each(|j| entries[j][lane] = row[first + j]);
    }
    for j in 0..width {
        let pivot_row = &block[j * n + first..][..=j];
        let (before, rest) = entries.split_at_mut(j);
        let sums = &mut rest[0];
        for (before, pivot) in before.iter().zip(pivot_row) {
            sums.iter_mut().zip(before).for_each(|(sum, x)| *sum -= x * pivot);
        }
        sums.iter_mut().for_each(|sum| *sum /= pivot_row[j]);
    }
    for (lane, row) in rows.chunks_exact_mut(n).enumerate() {
        (0..width).for_each(|j| row[first + j] = entries[j][lane]);
    }
}

/// Computes entry `j` of a row of `L` from its entries `first..j` and row `j` of `L`.
fn substitute(row: &mut [f64], pivot_row: &[f64], first: usize, j: usize) {
    let mut sum = row[j];
    for k in first..j {
        sum -= row[k] * pivot_row[k];
    }
    row[j] = sum / pivot_row[j];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_definite(n: usize) -> Vec<f64> {
        let mut state = 9u64;
        let a: Vec<f64> = (0..n * n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as f64 / 2f64.powi(31) - 0.5
            })
            .collect();
        let entry = |i: usize, j: usize| (0..n).map(|k| a[i * n + k] * a[j * n + k]).sum::<f64>();
        (0..n * n).map(|x| entry(x / n, x % n) + if x / n == x % n { 0.01 } else { 0.0 }).collect()
    }

    #[test]
    fn the_factor_gives_the_matrix_back() {
        for n in [1, 2, 15, 16, 17, 33, 64, 65, 100, 340] {
            let h = random_definite(n);
            let mut l = h.clone();
            assert!(cholesky(&mut l, n));
            for i in 0..n {
                for j in 0..=i {
                    let product: f64 = (0..=j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                    assert!((product - h[i * n + j]).abs() < 1e-9, "{n} {i} {j}");
                }
            }
        }
    }

    #[test]
    fn rows_that_follow_are_solved_for() {
        for (n, rows) in [(1, 1), (17, 3), (40, 100)] {
            let mut h = random_definite(n);
            let x: Vec<f64> = (0..rows * n).map(|i| (i * i % 31) as f64 - 15.0).collect();
            h.extend(&x);
            assert!(cholesky(&mut h, n));
            let (l, y) = h.split_at(n * n);
            for (y, x) in y.chunks_exact(n).zip(x.chunks_exact(n)) {
                for i in 0..n {
                    let product: f64 = (0..=i).map(|k| l[i * n + k] * y[k]).sum();
                    assert!((product - x[i]).abs() < 1e-9, "{n} {i}");
                }
            }
        }
    }

    #[test]
    fn the_same_bits_for_any_number_of_threads() {
        let h = random_definite(150);
        let factor = |threads| {
            let mut l = h.clone();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            assert!(pool.install(|| cholesky(&mut l, 150)));
            l
        };
        assert_eq!(factor(1), factor(5));
    }

    #[test]
    fn refuses_what_is_not_definite() {
        assert!(!cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2));
        assert!(!cholesky(&mut [0.0], 1));
        assert!(!cholesky(&mut [f64::NAN], 1));
        assert!(cholesky(&mut [], 0));
    }
}
