//! The leading singular vectors of a matrix that is read row by row.

use std::ops::Range;

use impasto_core::rng::SplitMix64;
use rayon::prelude::*;

use crate::eigen::eigenvectors;
use crate::feedback::{Row, WIDTH, multiply_add};

/// Rows that are multiplied together.
const CHUNK: usize = 64;
/// Chunks that are multiplied in parallel; bounds memory.
const TOGETHER: usize = 16;
/// Passes over the matrix that turn random vectors towards the leading ones.
const PASSES: usize = 4;
/// Vectors beyond the wanted ones, which make these more exact.
const SPARE: usize = 4;

/// The leading singular values of a matrix, the largest first, with their vectors.
pub struct Leading {
    /// The value, the left vector, whose length is the value, and the right vector, of length 1.
    pub values: Vec<Value>,
    /// Sum of the squares of the matrix.
    pub square: f64,
}

/// A singular value and its vectors.
pub struct Value {
    pub value: f64,
    pub left: Vec<f64>,
    pub right: Vec<f64>,
}

/// Finds the leading `count` singular values of a matrix of `sides` rows and columns. `read` appends the numbers of some rows
/// to a vector.
///
/// Subspace iteration from random vectors (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4): each pass multiplies
/// by the matrix and its transpose. The result does not depend on the processor or the number of threads.
pub fn leading(sides: [usize; 2], count: usize, read: impl Fn(Range<usize>, &mut Vec<f32>) + Sync) -> Leading {
    let [rows, columns] = sides;
    let count = count.min(rows).min(columns);
    let width = (count + SPARE).next_multiple_of(WIDTH);
    let mut random = SplitMix64::new(1);
    let mut right: Vec<Vec<f64>> =
        (0..width).map(|_| (0..columns).map(|_| random.next_f64() - 0.5).collect()).collect();
    orthonormalize(&mut right);
    for _ in 0..PASSES {
        right = pass(sides, &right, &read).turned;
        orthonormalize(&mut right);
    }
    let Pass { left, square, .. } = pass(sides, &right, &read);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let gram: Vec<f64> = left.iter().flat_map(|a| left.iter().map(|b| dot(a, b))).collect();
    let (squares, turns) = eigenvectors(&gram, width);
    let values = squares.iter().zip(turns.chunks_exact(width)).take(count).map(|(&square, turn)| Value {
        value: square.max(0.0).sqrt(),
        left: combined(&left, turn, rows),
        right: combined(&right, turn, columns),
    });
    Leading { values: values.collect(), square }
}

/// The sum of vectors of length `length` times their weights.
fn combined(vectors: &[Vec<f64>], weights: &[f32], length: usize) -> Vec<f64> {
    let mut out = vec![0.0; length];
    for (vector, &weight) in vectors.iter().zip(weights) {
        out.iter_mut().zip(vector).for_each(|(out, x)| *out += f64::from(weight) * x);
    }
    out
}

/// Makes vectors orthogonal and of length 1, or 0, by the Gram-Schmidt process, twice for accuracy.
fn orthonormalize(vectors: &mut [Vec<f64>]) {
    for i in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(i);
        let vector = &mut rest[0];
        let length = |vector: &[f64]| vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        let whole = length(vector);
        for _ in 0..2 {
            for other in &*before {
                let shadow: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
                vector.iter_mut().zip(other).for_each(|(x, b)| *x -= shadow * b);
            }
        }
        // What is left of a vector that depends on the others is rounding errors.
        let left = length(vector);
        let factor = if left > 1e-12 * whole { 1.0 / left } else { 0.0 };
        vector.iter_mut().for_each(|x| *x *= factor);
    }
}

/// The products of a matrix with vectors.
struct Pass {
    /// Of the matrix with each vector.
    left: Vec<Vec<f64>>,
    /// Of the transposed matrix with these.
    turned: Vec<Vec<f64>>,
    /// Sum of the squares of the matrix.
    square: f64,
}

fn pass(sides: [usize; 2], right: &[Vec<f64>], read: &(impl Fn(Range<usize>, &mut Vec<f32>) + Sync)) -> Pass {
    let [rows, columns] = sides;
    let blocks = right.len() / WIDTH;
    let side_by_side = |block: usize, at: usize| -> Row<f32> {
        std::array::from_fn(|lane| right[block * WIDTH + lane].get(at).map_or(0.0, |&x| x as f32))
    };
    let right_rows: Vec<Vec<Row<f32>>> =
        (0..blocks).map(|block| (0..columns).map(|c| side_by_side(block, c)).collect()).collect();
    let mut out = Pass {
        left: vec![Vec::with_capacity(rows); right.len()],
        turned: vec![vec![0.0; columns]; right.len()],
        square: 0.0,
    };
    let chunks: Vec<Range<usize>> = (0..rows).step_by(CHUNK).map(|r| r..(r + CHUNK).min(rows)).collect();
    for some in chunks.chunks(TOGETHER) {
        let one = |chunk: &Range<usize>| {
            let mut numbers = Vec::with_capacity(chunk.len() * columns);
            read(chunk.clone(), &mut numbers);
            let height = chunk.len();
            let transposed: Vec<f32> = (0..columns)
                .flat_map(|c| (0..height).map(move |r| (r, c)))
                .map(|(r, c)| numbers[r * columns + c])
                .collect();
            let square: f64 = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let products = right_rows.iter().map(|right| {
                let mut left: Vec<Row<f32>> = vec![[0.0; WIDTH]; height];
                multiply_add(&mut left, &numbers, columns, right, 0.0);
                let mut turned: Vec<Row<f32>> = vec![[0.0; WIDTH]; columns];
                multiply_add(&mut turned, &transposed, height, &left, 0.0);
                (left, turned)
            });
            (products.collect::<Vec<_>>(), square)
        };
        // Chunks are added in order, so that the result does not depend on the number of threads.
        for (products, square) in some.par_iter().map(one).collect::<Vec<_>>() {
            out.square += square;
            for (block, (left, turned)) in products.into_iter().enumerate() {
                for lane in 0..WIDTH {
                    let vector = block * WIDTH + lane;
                    out.left[vector].extend(left.iter().map(|row| f64::from(row[lane])));
                    let sums = out.turned[vector].iter_mut().zip(&turned);
                    sums.for_each(|(sum, row)| *sum += f64::from(row[lane]));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix of rank 3 with noise: its values and vectors are found, in order, and what is left is noise.
    #[test]
    fn finds_what_a_matrix_is_made_of() {
        let (rows, columns) = (150, 90);
        let mut random = SplitMix64::new(7);
        let mut vector = |n: usize| -> Vec<f64> { (0..n).map(|_| random.next_f64() - 0.5).collect() };
        let mut made = |n: usize| {
            let mut vectors: Vec<Vec<f64>> = (0..3).map(|_| vector(n)).collect();
            orthonormalize(&mut vectors);
            vectors
        };
        let (left, right) = (made(rows), made(columns));
        let sizes = [100.0, 10.0, 3.0];
        let mut noise = SplitMix64::new(9);
        let numbers: Vec<f32> = (0..rows * columns)
            .map(|i| {
                let made = |k: usize| sizes[k] * left[k][i / columns] * right[k][i % columns];
                ((0..3).map(made).sum::<f64>() + 0.01 * (noise.next_f64() - 0.5)) as f32
            })
            .collect();
        let read = |range: Range<usize>, out: &mut Vec<f32>| {
            out.extend_from_slice(&numbers[range.start * columns..range.end * columns]);
        };
        let found = leading([rows, columns], 5, read);
        assert_eq!(found.values.len(), 5);
        for (k, Value { value, left: u, right: v }) in found.values.iter().take(3).enumerate() {
            assert!((value / sizes[k] - 1.0).abs() < 0.01, "{k}: {value}");
            let along: f64 = right[k].iter().zip(v).map(|(a, b)| a * b).sum();
            assert!(along.abs() > 0.999, "{k}: {along}");
            let along: f64 = left[k].iter().zip(u).map(|(a, b)| a * b).sum();
            assert!((along.abs() / sizes[k] - 1.0).abs() < 0.01, "{k}: {along}");
        }
        assert!(found.values[3].value < 0.1);
        let of_three: f64 = sizes.iter().map(|s| s * s).sum();
        assert!((found.square / of_three - 1.0).abs() < 0.01);
    }

    #[test]
    fn small_and_empty_matrices() {
        let zeros = |range: Range<usize>, out: &mut Vec<f32>| out.resize(out.len() + range.len() * 3, 0.0);
        let found = leading([2, 3], 8, zeros);
        assert_eq!(found.values.len(), 2);
        assert!(found.values.iter().all(|v| v.value == 0.0 && v.right.iter().all(|x| x.is_finite())));
        assert!(leading([0, 3], 8, zeros).values.is_empty());
    }
}
