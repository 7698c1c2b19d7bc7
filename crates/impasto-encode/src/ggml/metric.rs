//! A covariance in the form that blocks are rounded by.
//!
//! The error of a row is `e H e^T`, where `e` are the weights less what they are rounded to, and `H` is the covariance of the inputs.
//! Blocks are chosen one after the other. Given the errors of some other blocks, that of a block is `(t - v) S (t - v)^T` plus what
//! does not depend on it: `t` are its targets, the weights plus a linear function of the errors of the others, and `S` is a
//! metric of its own. There are two stages. In the first, the blocks before it are still free, and will make the best of its
//! errors: that is error feedback, and `S` is `L L^T` for the diagonal block `L` of the factor of `H`. In the second, all other blocks are
//! known, and `S` is the diagonal block of `H`.

use rayon::prelude::*;

use super::fit::Local;
use crate::feedback::cholesky;

/// The metric of a matrix, whose columns are in the order in which blocks are chosen: from last to first.
pub struct BlockMetric {
    /// Columns.
    pub n: usize,
    /// Columns of a block.
    pub width: usize,
    /// The index of each block in the matrix.
    pub order: Vec<usize>,
    /// While blocks before it are free.
    pub first: Stage,
    /// When all other blocks are known.
    pub again: Stage,
}

/// What the choice of a block depends on.
pub struct Stage {
    /// `n * n`, row-major: what the error of a column adds to the target of another; 0 within a block. Empty for the identity.
    pub others: Vec<f32>,
    /// For each block, its coefficients as in [`Local`].
    coefficients: Vec<f32>,
    /// For each column, its weight as in [`Local`].
    weights: Vec<f32>,
    width: usize,
}

impl Stage {
    /// Returns the metric of a block.
    pub fn local(&self, block: usize) -> Local<'_> {
        let (width, square) = (self.width, self.width * self.width);
        Local {
            coefficients: &self.coefficients[block * square..(block + 1) * square],
            weights: &self.weights[block * width..(block + 1) * width],
        }
    }

    /// Makes a stage of the lower triangular factor of each block.
    fn new(n: usize, width: usize, others: Vec<f32>, factors: &[Vec<f64>]) -> Stage {
        let (mut coefficients, mut weights) = (Vec::with_capacity(n * width), Vec::with_capacity(n));
        for factor in factors {
            for i in 0..width {
                let pivot = factor[i * width + i];
                weights.push((pivot * pivot) as f32);
                let of_row = |j: usize| if j > i { (factor[j * width + i] / pivot) as f32 } else { 0.0 };
                coefficients.extend((0..width).map(of_row));
            }
        }
        Stage { others, coefficients, weights, width }
    }
}

impl BlockMetric {
    /// The identity: every error counts the same, and columns do not depend on each other. `width` must divide `n`.
    pub fn identity(n: usize, width: usize) -> BlockMetric {
        let mut factor = vec![0.0; width * width];
        (0..width).for_each(|i| factor[i * width + i] = 1.0);
        let stage = || Stage::new(n, width, vec![], &vec![factor.clone(); n / width.max(1)]);
        BlockMetric { n, width, order: (0..n / width.max(1)).collect(), first: stage(), again: stage() }
    }

    /// Factors a covariance (`n * n`, row-major; the lower triangle is read) after adding `damping` times its mean diagonal to the
    /// diagonal. Blocks of `width` columns, which must divide `n`, are ordered so that those with the largest inputs are rounded
    /// first. Returns `None` if the result is not positive definite, or the sizes do not fit.
    ///
    /// It holds 16 n^2 bytes at most, with the covariance, and 8 n^2 in the end.
    pub fn new(covariance: Vec<f32>, n: usize, damping: f64, width: usize) -> Option<BlockMetric> {
        if covariance.len() != n.checked_mul(n)? || width == 0 || !n.is_multiple_of(width) {
            return None;
        }
        let blocks = n / width;
        let energy =
            |block: usize| (block * width..(block + 1) * width).map(|i| f64::from(covariance[i * n + i])).sum();
        let energies: Vec<f64> = (0..blocks).map(energy).collect();
        let mut order: Vec<usize> = (0..blocks).collect();
        order.sort_by(|&a, &b| energies[a].total_cmp(&energies[b]).then(a.cmp(&b)));
        let damping = damping * energies.iter().sum::<f64>() / n as f64;
        let ordered = reordered(&covariance, n, width, &order, damping);
        drop(covariance);

        let mut factor: Vec<f64> = ordered.iter().map(|&x| f64::from(x)).collect();
        if !cholesky(&mut factor, n) {
            return None;
        }
        let factors: Vec<Vec<f64>> = (0..blocks).map(|block| diagonal_block(&factor, n, width, block)).collect();
        let mut others = vec![0.0; n * n];
        others.par_chunks_mut(width * n).zip(&factors).enumerate().for_each(|(block, (rows, own))| {
            let from = block * width;
            let transposed = transposed(own, width);
            let mut x = vec![0.0; width];
            for j in from + width..n {
                x.copy_from_slice(&factor[j * n + from..][..width]);
                solve_from_last(&mut x, own, &transposed);
                x.iter().enumerate().for_each(|(i, x)| rows[i * n + j] = *x as f32);
            }
        });
        drop(factor);
        let first = Stage::new(n, width, others, &factors);

        let own = |block: usize| {
            let mut own: Vec<f64> = diagonal_block(&ordered, n, width, block).into_iter().map(f64::from).collect();
            cholesky(&mut own, width).then_some(own)
        };
        let factors: Vec<Vec<f64>> = (0..blocks).map(own).collect::<Option<_>>()?;
        let mut others = vec![0.0; n * n];
        others.par_chunks_mut(width * n).zip(&factors).enumerate().for_each(|(block, (rows, own))| {
            let from = block * width;
            let transposed = transposed(own, width);
            let mut x = vec![0.0; width];
            for j in (0..from).chain(from + width..n) {
                let entries = &ordered[j * n + from..][..width];
                x.iter_mut().zip(entries).for_each(|(x, &entry)| *x = f64::from(entry));
                solve_from_first(&mut x, own);
                solve_from_last(&mut x, own, &transposed);
                x.iter().enumerate().for_each(|(i, x)| rows[i * n + j] = *x as f32);
            }
        });
        let again = Stage::new(n, width, others, &factors);
        Some(BlockMetric { n, width, order, first, again })
    }

    /// Returns the columns of the matrix, in the order of the metric.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().flat_map(|block| block * self.width..(block + 1) * self.width)
    }
}

/// Returns a covariance with its blocks in another order, damped, with both triangles.
fn reordered(covariance: &[f32], n: usize, width: usize, order: &[usize], damping: f64) -> Vec<f32> {
    let columns: Vec<usize> = order.iter().flat_map(|block| block * width..(block + 1) * width).collect();
    let mut ordered = vec![0.0; n * n];
    ordered.par_chunks_mut(n.max(1)).zip(&columns).for_each(|(row, &i)| {
        let entry = |j: usize| if i >= j { covariance[i * n + j] } else { covariance[j * n + i] };
        row.iter_mut().zip(&columns).for_each(|(to, &j)| {
            *to = if i == j { (f64::from(entry(j)) + damping) as f32 } else { entry(j) };
        });
    });
    ordered
}

fn diagonal_block<T: Copy>(matrix: &[T], n: usize, width: usize, block: usize) -> Vec<T> {
    let from = block * width;
    (from..from + width).flat_map(|row| &matrix[row * n + from..][..width]).copied().collect()
}

fn transposed(matrix: &[f64], width: usize) -> Vec<f64> {
    (0..width * width).map(|at| matrix[at % width * width + at / width]).collect()
}

/// Replaces `y` by the solution of `x L = y`, for `L` lower triangular; its transpose is given, too.
fn solve_from_last(y: &mut [f64], factor: &[f64], transposed: &[f64]) {
    let n = y.len();
    for k in (0..n).rev() {
        let after = y[k + 1..].iter().zip(&transposed[k * n + k + 1..(k + 1) * n]);
        let sum: f64 = after.map(|(x, l)| x * l).sum();
        y[k] = (y[k] - sum) / factor[k * n + k];
    }
}

/// Replaces `y` by the solution of `z L^T = y`, for `L` lower triangular.
fn solve_from_first(y: &mut [f64], factor: &[f64]) {
    let n = y.len();
    for k in 0..n {
        let before = y[..k].iter().zip(&factor[k * n..k * n + k]);
        let sum: f64 = before.map(|(z, l)| z * l).sum();
        y[k] = (y[k] - sum) / factor[k * n + k];
    }
}
