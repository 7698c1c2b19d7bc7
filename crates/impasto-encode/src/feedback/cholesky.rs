//! Cholesky factorization in a fixed order of operations.

use rayon::prelude::*;

use super::multiply::{Row, WIDTH, multiply_add};

/// Factors a symmetric positive definite matrix, `H = L L^T` with `L` lower triangular, in place.
///
/// `h` is `n * n`, row-major. Its lower triangle becomes `L`; the entries above the diagonal are unchanged. Rows of a
/// matrix `X` with `n` columns may follow; they become `X L^-T`. Columns are processed [`WIDTH`] at a time, and the
/// contribution of all earlier columns is one matrix product.
///
/// Returns false, with `h` partly overwritten, if a pivot is not positive or not finite.
pub fn cholesky(h: &mut [f64], n: usize) -> bool {
    assert!(h.len() >= n * n && h.len().is_multiple_of(n.max(1)));
    let mut panel: Vec<Row<f64>> = Vec::new();
    for first in (0..n).step_by(WIDTH) {
        let width = WIDTH.min(n - first);
        // The rows of the panel's columns, transposed and negated: row k holds the factors of column k.
        panel.clear();
        panel
            .extend((0..first).map(|k| std::array::from_fn(|j| if j < width { -h[(first + j) * n + k] } else { 0.0 })));
        let rows = &mut h[first * n..];
        rows.par_chunks_mut(n * 32).for_each(|rows| {
            let mut sums = vec![[0.0; WIDTH]; rows.len() / n];
            multiply_add(&mut sums, rows, n, &panel, 0.0);
            for (row, sum) in rows.chunks_exact_mut(n).zip(sums) {
                row[first..first + width].iter_mut().zip(sum).for_each(|(h, s)| *h += s);
            }
        });
        // The diagonal block first, then the rows below it by substitution.
        for j in first..first + width {
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
            for other in below.chunks_exact_mut(n).take(first + width - j - 1) {
                substitute(other, row, first, j);
            }
        }
        let (block, below) = h.split_at_mut((first + width) * n);
        below.par_chunks_mut(n * 32).for_each(|rows| {
            rows.chunks_mut(n * WIDTH).for_each(|rows| substitute_rows(rows, &block[first * n..], n, first, width));
        });
    }
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
        for n in [1, 2, 15, 16, 17, 33, 100] {
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
