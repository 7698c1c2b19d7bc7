//! A product of low rank that lies in given intervals.
//!
//! The sum over all elements of the squared distance from the interval, divided by its squared length, is made small by the
//! method of Levenberg and Marquardt. The equations of a step are those of bundle adjustment: rows depend on each other only
//! through columns, and are eliminated (the Schur complement); the columns are found by conjugate gradients. Every number is a sum
//! in a fixed order, so the result does not depend on the processor or the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::intervals::Intervals;
use super::solve::{factor, solve};
use super::subspace::Leading;
use crate::eigen::eigenvectors;
use crate::feedback::{Row, WIDTH, multiply_add};

/// Rows that are worked on together.
const CHUNK: usize = 64;
/// Least length of an interval, in the median length, that weighs more than longer ones.
const LEAST_LENGTH: f32 = 1.0 / 64.0;
/// Damping, as a share of the mean of the diagonals.
const DAMPING: f64 = 1e-3;
/// At most so many conjugate gradients, and the square of what they leave of the gradient at which they end.
const ROUNDS: usize = 8;
const LEFT: f64 = 3e-3;

/// What a step moves elements to.
#[derive(Clone, Copy)]
pub enum Aim {
    /// The middles of their intervals.
    Middle,
    /// Their intervals. Those inside are held where they are, with this share of the weight of those outside.
    Inside(f32),
}

/// A product of factors, in the unit of its intervals.
#[derive(Clone)]
pub struct Product {
    pub rank: usize,
    /// Factors of the rows, `rows` x `rank`, and of the columns, likewise.
    pub rows: Vec<f64>,
    pub columns: Vec<f64>,
}

/// The equations of a step: `W` are the weights of the elements, `R` what they are off.
struct Equations {
    weights: Vec<f32>,
    /// For each row, its damped normal matrix, factored, and its part of the gradient.
    row_normals: Vec<f64>,
    row_gradient: Vec<f64>,
    /// For each column, its damped normal matrix, and its part of the gradient.
    column_normals: Vec<f64>,
    column_gradient: Vec<f64>,
}

impl Product {
    /// Creates the product of leading singular vectors.
    pub fn new(found: &Leading) -> Product {
        let values: Vec<_> = found.values.iter().filter(|value| value.value > 0.0).collect();
        let rank = values.len();
        let length = |side: fn(&super::subspace::Value) -> &Vec<f64>| values.first().map_or(0, |v| side(v).len());
        // The length of left vectors is the value; both sides get its root.
        let rows = (0..length(|v| &v.left)).flat_map(|r| values.iter().map(move |v| v.left[r] / v.value.sqrt()));
        let columns = (0..length(|v| &v.right)).flat_map(|c| values.iter().map(move |v| v.right[c] * v.value.sqrt()));
        Product { rank, rows: rows.collect(), columns: columns.collect() }
    }

    /// Returns the first terms of the product.
    pub fn first(&self, rank: usize) -> Product {
        let first = |side: &[f64]| side.chunks_exact(self.rank).flat_map(|factors| &factors[..rank]).copied().collect();
        Product { rank, rows: first(&self.rows), columns: first(&self.columns) }
    }

    /// Returns the product with its columns and so many rows, all 0.
    pub fn with_rows(self, rows: usize) -> Product {
        Product { rows: vec![0.0; rows * self.rank], ..self }
    }

    /// Turns the terms so that they are orthogonal, the largest first, and both sides of each are equally large.
    pub fn balance(&mut self) {
        let n = self.rank;
        let (squares, turn) = eigenvectors(&gram(&self.rows, n), n);
        let most = squares.first().copied().unwrap_or(0.0);
        let lengths: Vec<f64> = squares.iter().map(|square| square.max(1e-18 * most).sqrt()).collect();
        let inverse: Vec<f64> = lengths.iter().map(|length| if *length > 0.0 { 1.0 / length } else { 0.0 }).collect();
        self.rows = turned(&self.rows, &turn, &inverse);
        self.columns = turned(&self.columns, &turn, &lengths);
        let (squares, turn) = eigenvectors(&gram(&self.columns, n), n);
        let roots: Vec<f64> = squares.iter().map(|square| square.max(0.0).sqrt().sqrt()).collect();
        let inverse: Vec<f64> = roots.iter().map(|root| if *root > 0.0 { 1.0 / root } else { 0.0 }).collect();
        self.rows = turned(&self.rows, &turn, &roots);
        self.columns = turned(&self.columns, &turn, &inverse);
    }

    /// Returns the share of the elements that are outside of their intervals.
    pub fn outside(&self, at: &Intervals) -> f64 {
        let blocks = side_by_side(&self.columns, self.rank, at.stride);
        let outside = chunks(at.rows).into_par_iter().map(|rows| {
            let mut x = Vec::new();
            product(&narrow(&self.rows, &rows, self.rank), self.rank, &blocks, at.stride, &mut x);
            let first = rows.start * at.stride;
            (first..).zip(&x).filter(|&(i, &x)| !at.has(i, x)).count()
        });
        outside.sum::<usize>() as f64 / (at.rows * at.columns).max(1) as f64
    }

    /// Improves the factors.
    pub fn step(&mut self, at: &Intervals, aim: Aim) {
        self.balance();
        let equations = self.equations(at, aim, true);
        let n = self.rank;
        let mut factored = equations.column_normals.clone();
        factored.par_chunks_exact_mut(n * n).for_each(|normal| factor(normal, n));
        let preconditioned = |gradient: &[f64]| {
            let mut out = gradient.to_vec();
            out.par_chunks_exact_mut(n).zip(factored.par_chunks_exact(n * n)).for_each(|(out, l)| solve(l, out));
            out
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut left = equations.column_gradient.clone();
        left.iter_mut().zip(self.returned(at, &equations, None)).for_each(|(left, x)| *left -= x);
        let mut found = vec![0.0; left.len()];
        let mut direction = preconditioned(&left);
        let mut square = dot(&left, &direction);
        let end = LEFT * square;
        for _ in 0..ROUNDS {
            let mut image = self.returned(at, &equations, Some(&direction));
            let normals = equations.column_normals.par_chunks_exact(n * n).zip(direction.par_chunks_exact(n));
            image.par_chunks_exact_mut(n).zip(normals).for_each(|(image, (normal, direction))| {
                image.iter_mut().zip(normal.chunks_exact(n)).for_each(|(image, row)| *image += dot(row, direction));
            });
            let length = square / dot(&direction, &image);
            if !length.is_finite() {
                break;
            }
            found.iter_mut().zip(&direction).for_each(|(found, d)| *found += length * d);
            left.iter_mut().zip(&image).for_each(|(left, image)| *left -= length * image);
            let next = preconditioned(&left);
            let before = std::mem::replace(&mut square, dot(&left, &next));
            if square.is_nan() || square <= end {
                break;
            }
            direction.iter_mut().zip(next).for_each(|(d, next)| *d = next + square / before * *d);
        }
        let blocks = side_by_side(&found, n, at.stride);
        let lanes = lanes(&self.columns, n, at.stride);
        let moves = |rows: Range<usize>| self.solved(at, &equations, &rows, Some(&blocks), true, &lanes);
        let moves: Vec<Vec<f64>> = chunks(at.rows).into_par_iter().map(moves).collect();
        self.rows.iter_mut().zip(moves.iter().flatten()).for_each(|(x, step)| *x += step);
        self.columns.iter_mut().zip(&found).for_each(|(x, step)| *x += step);
    }

    /// Improves the factors of the rows for those of the columns.
    pub fn step_rows(&mut self, at: &Intervals, aim: Aim) {
        let equations = self.equations(at, aim, false);
        let n = self.rank;
        let rows = self.rows.par_chunks_exact_mut(n).zip(equations.row_gradient.par_chunks_exact(n));
        rows.zip(equations.row_normals.par_chunks_exact(n * n)).for_each(|((row, gradient), normal)| {
            let mut step = gradient.to_vec();
            solve(normal, &mut step);
            row.iter_mut().zip(step).for_each(|(x, step)| *x += step);
        });
    }

    fn equations(&self, at: &Intervals, aim: Aim, with_columns: bool) -> Equations {
        let (n, stride) = (self.rank, at.stride);
        let mut out = Equations {
            weights: vec![0.0; at.rows * stride],
            row_normals: Vec::with_capacity(at.rows * n * n),
            row_gradient: Vec::with_capacity(at.rows * n),
            column_normals: vec![],
            column_gradient: vec![],
        };
        let blocks = side_by_side(&self.columns, n, stride);
        let column_lanes = lanes(&self.columns, n, stride);
        let pairs = n * (n + 1) / 2;
        let column_pairs = lanes(&products(&self.columns, n), pairs, stride);
        let mut column_sums = [vec![0.0; at.columns * pairs], vec![0.0; at.columns * n]];
        let together = rayon::current_num_threads().max(1) * CHUNK;
        for (first, weights) in (0..).step_by(together).zip(out.weights.chunks_mut((together * stride).max(1))) {
            let one = |(chunk, weights): (usize, &mut [f32])| {
                let start = first + chunk * CHUNK;
                let rows = start..start + weights.len() / stride;
                let mut off = Vec::new();
                product(&narrow(&self.rows, &rows, n), n, &blocks, stride, &mut off);
                weigh(at, aim, start * stride, &mut off, weights);
                let by_row = [times(weights, stride, &column_pairs, pairs), times(&off, stride, &column_lanes, n)];
                let by_column = with_columns.then(|| {
                    let factors = self.rows[rows.start * n..rows.end * n].to_vec();
                    let [pair_lanes, row_lanes] =
                        [lanes(&products(&factors, n), pairs, rows.len()), lanes(&factors, n, rows.len())];
                    let [weights, off] = [transposed(weights, stride), transposed(&off, stride)];
                    [times(&weights, rows.len(), &pair_lanes, pairs), times(&off, rows.len(), &row_lanes, n)]
                });
                (by_row, by_column)
            };
            let parts: Vec<_> = weights.par_chunks_mut(CHUNK * stride).enumerate().map(one).collect();
            for ([normals, gradient], by_column) in parts {
                out.row_normals.extend(normals.chunks_exact(pairs).flat_map(|packed| square(packed, n)));
                out.row_gradient.extend(gradient);
                for (sums, part) in column_sums.iter_mut().zip(by_column.into_iter().flatten()) {
                    sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
                }
            }
        }
        let [normals, gradient] = column_sums;
        out.column_gradient = gradient;
        out.column_normals = normals.chunks_exact(pairs).flat_map(|packed| square(packed, n)).collect();
        damp(&mut out.row_normals, n);
        damp(&mut out.column_normals, n);
        out.row_normals.par_chunks_exact_mut(n * n).for_each(|normal| factor(normal, n));
        out
    }

    /// Returns how some rows move: the solution of their equations, if columns move by `columns`, with or without their gradient.
    fn solved(
        &self,
        at: &Intervals,
        equations: &Equations,
        rows: &Range<usize>,
        columns: Option<&[Row<f32>]>,
        with_gradient: bool,
        lanes: &[Vec<Row<f32>>],
    ) -> Vec<f64> {
        let n = self.rank;
        let gradient = &equations.row_gradient[rows.start * n..rows.end * n];
        let mut out = if with_gradient { gradient.to_vec() } else { vec![0.0; gradient.len()] };
        if let Some(columns) = columns {
            let mut x = Vec::new();
            product(&narrow(&self.rows, rows, n), n, columns, at.stride, &mut x);
            x.iter_mut().zip(&equations.weights[rows.start * at.stride..]).for_each(|(x, weight)| *x *= weight);
            out.iter_mut().zip(times(&x, at.stride, lanes, n)).for_each(|(out, x)| *out -= x);
        }
        let normals = &equations.row_normals[rows.start * n * n..rows.end * n * n];
        out.chunks_exact_mut(n).zip(normals.chunks_exact(n * n)).for_each(|(out, normal)| solve(normal, out));
        out
    }

    /// Returns the gradient of the columns when rows move: as they do by their gradient or, if columns move by `columns`, by that.
    fn returned(&self, at: &Intervals, equations: &Equations, columns: Option<&[f64]>) -> Vec<f64> {
        let (n, stride) = (self.rank, at.stride);
        let moved = columns.map(|columns| side_by_side(columns, n, stride));
        let blocks = side_by_side(&self.columns, n, stride);
        let column_lanes = lanes(&self.columns, n, stride);
        let mut sums = vec![0.0; at.columns * n];
        for some in chunks(at.rows).chunks(rayon::current_num_threads().max(1)) {
            let one = |rows: &Range<usize>| {
                let step = self.solved(at, equations, rows, moved.as_deref(), moved.is_none(), &column_lanes);
                let mut x = Vec::new();
                product(&narrow(&step, &(0..rows.len()), n), n, &blocks, stride, &mut x);
                x.iter_mut().zip(&equations.weights[rows.start * stride..]).for_each(|(x, weight)| *x *= weight);
                let row_lanes = lanes(&self.rows[rows.start * n..rows.end * n], n, rows.len());
                times(&transposed(&x, stride), rows.len(), &row_lanes, n)
            };
            for part in some.par_iter().map(one).collect::<Vec<_>>() {
                sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
        }
        sums
    }
}

/// Replaces elements of the product by what they are off, times their weights.
fn weigh(at: &Intervals, aim: Aim, first: usize, elements: &mut [f32], weights: &mut [f32]) {
    for (i, (x, weight)) in (first..).zip(elements.iter_mut().zip(weights)) {
        let (low, high) = (at.low[i], at.high[i]);
        let length = (high - low).max(LEAST_LENGTH);
        let whole = 1.0 / (length * length);
        let (off, share) = match aim {
            Aim::Middle if length.is_finite() => (0.5 * (low + high) - *x, 1.0),
            Aim::Inside(held) => {
                let off = x.clamp(low, high) - *x;
                (off, if off == 0.0 { held } else { 1.0 })
            }
            Aim::Middle => (0.0, 0.0),
        };
        *weight = share * whole;
        *x = off * *weight;
    }
}

/// Adds the mean of a matrix's diagonal, and that of all, times [`DAMPING`] to the diagonals of matrices of side `n`.
fn damp(normals: &mut [f64], n: usize) {
    let mean = |normal: &[f64]| normal.iter().step_by(n + 1).sum::<f64>() / n as f64;
    let count = (normals.len() / (n * n)).max(1) as f64;
    let of_all = normals.chunks_exact(n * n).map(mean).sum::<f64>() / count;
    for normal in normals.chunks_exact_mut(n * n) {
        let added = DAMPING * (mean(normal) + of_all);
        normal.iter_mut().step_by(n + 1).for_each(|x| *x += added);
    }
}

fn chunks(rows: usize) -> Vec<Range<usize>> {
    (0..rows).step_by(CHUNK).map(|first| first..(first + CHUNK).min(rows)).collect()
}

/// Returns the sums of the products of all pairs of `n` columns.
fn gram(side: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for factors in side.chunks_exact(n) {
        for (i, a) in factors.iter().enumerate() {
            out[i * n..(i + 1) * n].iter_mut().zip(factors).for_each(|(sum, b)| *sum += a * b);
        }
    }
    out
}

/// Returns factors times orthogonal vectors, each of which is then scaled.
fn turned(side: &[f64], vectors: &[f32], scales: &[f64]) -> Vec<f64> {
    let n = scales.len();
    let one = |factors: &[f64]| -> Vec<f64> {
        let turned = vectors.chunks_exact(n).zip(scales);
        let dot = |vector: &[f32]| vector.iter().zip(factors).map(|(&v, x)| f64::from(v) * x).sum::<f64>();
        turned.map(|(vector, scale)| dot(vector) * scale).collect()
    };
    side.chunks_exact(n).flat_map(one).collect()
}

/// Returns for each entry the products of pairs of its factors, those of the lower triangle.
fn products(side: &[f64], n: usize) -> Vec<f64> {
    let of = |factors: &[f64]| -> Vec<f64> {
        (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))).map(|(i, j)| factors[i] * factors[j]).collect()
    };
    side.chunks_exact(n).flat_map(of).collect()
}

/// Returns a symmetric matrix of side `n` whose lower triangle is `packed`.
fn square(packed: &[f64], n: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| packed[i.max(j) * (i.max(j) + 1) / 2 + i.min(j)];
    (0..n * n).map(|i| at(i / n, i % n)).collect()
}

/// Returns factors of some rows in binary32.
fn narrow(side: &[f64], rows: &Range<usize>, n: usize) -> Vec<f32> {
    side[rows.start * n..rows.end * n].iter().map(|&x| x as f32).collect()
}

/// Returns for each [`WIDTH`] columns, of which there are `stride`, their `n` factors side by side.
fn side_by_side(columns: &[f64], n: usize, stride: usize) -> Vec<Row<f32>> {
    let factor = |column: usize, k: usize| columns.get(column * n + k).map_or(0.0, |&x| x as f32);
    let block = |block: usize| (0..n).map(move |k| std::array::from_fn(|lane| factor(block * WIDTH + lane, k)));
    (0..stride / WIDTH).flat_map(block).collect()
}

/// Returns for each [`WIDTH`] of `n` vectors, their numbers at each of `length` entries side by side.
fn lanes(side: &[f64], n: usize, length: usize) -> Vec<Vec<Row<f32>>> {
    let factor = |at: usize, k: usize| if k < n { side.get(at * n + k).map_or(0.0, |&x| x as f32) } else { 0.0 };
    let block = |first: usize| (0..length).map(|at| std::array::from_fn(|lane| factor(at, first + lane))).collect();
    (0..n).step_by(WIDTH).map(block).collect()
}

/// Sets `out` to the product of factors of rows and those of columns, which are side by side.
fn product(rows: &[f32], n: usize, blocks: &[Row<f32>], stride: usize, out: &mut Vec<f32>) {
    let height = rows.len() / n.max(1);
    out.clear();
    out.resize(height * stride, 0.0);
    let mut sums: Vec<Row<f32>> = vec![[0.0; WIDTH]; height];
    for (first, block) in (0..stride).step_by(WIDTH).zip(blocks.chunks_exact(n)) {
        sums.fill([0.0; WIDTH]);
        multiply_add(&mut sums, rows, n, block, 0.0);
        out.chunks_exact_mut(stride).zip(&sums).for_each(|(row, sums)| row[first..first + WIDTH].copy_from_slice(sums));
    }
}

/// Returns the product of a matrix of rows of `length` numbers with `n` vectors, row by row.
fn times(matrix: &[f32], length: usize, lanes: &[Vec<Row<f32>>], n: usize) -> Vec<f64> {
    let rows = matrix.len() / length.max(1);
    let mut out = vec![0.0; rows * n];
    let mut sums: Vec<Row<f32>> = vec![[0.0; WIDTH]; rows];
    for (block, lanes) in lanes.iter().enumerate() {
        sums.fill([0.0; WIDTH]);
        multiply_add(&mut sums, matrix, length, lanes, 0.0);
        for (row, sums) in out.chunks_exact_mut(n).zip(&sums) {
            row[block * WIDTH..].iter_mut().zip(sums).for_each(|(out, &sum)| *out = f64::from(sum));
        }
    }
    out
}

/// Returns a matrix of rows of `length` numbers, transposed.
fn transposed(matrix: &[f32], length: usize) -> Vec<f32> {
    let rows = matrix.len() / length.max(1);
    let mut out = vec![0.0; matrix.len()];
    for (c, column) in out.chunks_exact_mut(rows.max(1)).enumerate() {
        column.iter_mut().enumerate().for_each(|(r, x)| *x = matrix[r * length + c]);
    }
    out
}
