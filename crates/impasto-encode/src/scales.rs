//! Row and column scales of a matrix: the standard deviation of an element is modelled as `row * column`.
//!
//! Sums have a fixed order (rows within chunks of [`CHUNK`], then chunks), so they do not depend on the number of
//! threads.

use impasto_core::{Isa, at_each_isa};
use rayon::prelude::*;

use crate::arithmetic::log2_fixed;
use crate::matrix::MatrixView;

/// Rows that are summed together.
const CHUNK: usize = 64;
/// Chunks that are summed in parallel.
const TOGETHER: usize = 64;
/// Fewest elements of a row or column that give it a scale.
pub const ENOUGH: usize = 16;
/// Iterations of fitting rows to columns and columns to rows.
const ROUNDS: usize = 2;
/// Scale of a row or column of zeros, as a power of two.
const NOTHING: i32 = -150;

/// Scales of the rows and columns of a matrix: `log2` in units of 2^-16.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// One per row. They include the overall scale.
    pub rows: Vec<i32>,
    /// One per column, near 0.
    pub columns: Vec<i32>,
    /// Mean square of the weights; those that are not finite count as 0.
    pub mean_square: f64,
    /// Number of weights that are NaN or infinite.
    pub non_finite: u64,
}

impl Scales {
    /// Returns scales that are the same for all rows and columns: the root of the mean square, times so many powers of two.
    pub fn alike(&self, octaves: i32) -> Scales {
        let log = log2_fixed(self.mean_square).map_or(NOTHING << 16, |l| (l / 2).max(NOTHING << 16));
        Scales { rows: vec![log + (octaves << 16); self.rows.len()], columns: vec![0; self.columns.len()], ..*self }
    }
}

/// Sums over a chunk of rows.
struct Sums {
    /// Mean of `w^2 / column` for each row.
    rows: Vec<f64>,
    /// Sum of `w^2 / row` for each column.
    columns: Vec<f64>,
    square: f64,
    non_finite: u64,
}

/// Fits the scales of a matrix of floats.
pub fn fit(matrix: &MatrixView) -> Scales {
    let (n, m) = (matrix.rows, matrix.columns);
    let mut columns = vec![1.0f64; m];
    if n >= ENOUGH {
        for _ in 1..ROUNDS {
            columns = pass(matrix, &columns).columns;
        }
    }
    let last = pass(matrix, &columns);
    if n >= ENOUGH {
        columns = last.columns;
    }
    // The scale is the square root of the mean square: half its logarithm.
    let log = |square: f64| log2_fixed(square).map_or(NOTHING << 16, |l| (l / 2).max(NOTHING << 16));
    let square = last.square / (n * m).max(1) as f64;
    Scales {
        rows: if m >= ENOUGH { last.rows.into_iter().map(log).collect() } else { vec![log(square); n] },
        columns: columns.into_iter().map(|c| if c > 0.0 { log(c) } else { 0 }).collect(),
        mean_square: square,
        non_finite: last.non_finite,
    }
}

/// Sums over all rows; the sums of columns are divided by the number of rows.
fn pass(matrix: &MatrixView, columns: &[f64]) -> Sums {
    let (n, m) = (matrix.rows, matrix.columns);
    let inverse: Vec<f64> = columns.iter().map(|&c| if c > 0.0 { 1.0 / c } else { 0.0 }).collect();
    let mut all = Sums { rows: Vec::with_capacity(n), columns: vec![0.0; m], square: 0.0, non_finite: 0 };
    let chunks: Vec<usize> = (0..n.div_ceil(CHUNK)).collect();
    // A limited number of chunks at once bounds memory. They are added in order, so that the result does not depend on
    // the number of threads.
    for some in chunks.chunks(TOGETHER) {
        let part = |&i: &usize| sums(matrix, i * CHUNK..((i + 1) * CHUNK).min(n), &inverse);
        for chunk in some.par_iter().map(part).collect::<Vec<_>>() {
            all.rows.extend(chunk.rows);
            all.columns.iter_mut().zip(&chunk.columns).for_each(|(sum, part)| *sum += part / n as f64);
            all.square += chunk.square;
            all.non_finite += chunk.non_finite;
        }
    }
    all
}

fn sums(matrix: &MatrixView, rows: std::ops::Range<usize>, inverse: &[f64]) -> Sums {
    let mut sums = Sums { rows: Vec::new(), columns: vec![0.0; matrix.columns], square: 0.0, non_finite: 0 };
    let (isa, mut w) = (Isa::best(), Vec::new());
    for r in rows {
        matrix.weights(r, &mut w);
        let (square, weighted, non_finite) = squares(isa, &mut w, inverse);
        let row = weighted / matrix.columns.max(1) as f64;
        sums.rows.push(row);
        sums.square += square;
        sums.non_finite += non_finite;
        if row > 0.0 {
            add_squares(isa, &w, 1.0 / row, &mut sums.columns);
        }
    }
    sums
}

/// Partial sums of a row, so that the compiler can use vectors without a change of the order of any sum.
const LANES: usize = 16;

at_each_isa! {
    /// Replaces weights that are not finite by 0. Returns the sum of squares of a row, the same with weights `inverse`,
    /// and the number of weights replaced.
    fn squares(w: &mut [f32], inverse: &[f64]) -> (f64, f64, u64) {
        let mut sums = Squares::default();
        // Most of the row has a known number of lanes, which the compiler needs for vectors.
        let (chunks, rest) = w.as_chunks_mut::<LANES>();
        let (inverses, inverse_rest) = inverse.as_chunks::<LANES>();
        chunks.iter_mut().zip(inverses).for_each(|(w, inverse)| sums.add(w, inverse));
        sums.add(rest, inverse_rest);
        (sums.plain.iter().sum(), sums.weighted.iter().sum(), sums.non_finite.iter().map(|&n| u64::from(n)).sum())
    }
}

/// Partial sums of [`squares`].
#[derive(Default)]
struct Squares {
    plain: [f64; LANES],
    weighted: [f64; LANES],
    non_finite: [u32; LANES],
}

impl Squares {
    /// Adds at most [`LANES`] weights.
    #[inline(always)]
    fn add(&mut self, w: &mut [f32], inverse: &[f64]) {
        let sums = self.plain.iter_mut().zip(&mut self.weighted).zip(&mut self.non_finite);
        for ((w, &inverse), ((plain, weighted), non_finite)) in w.iter_mut().zip(inverse).zip(sums) {
            let finite = w.is_finite();
            *non_finite += u32::from(!finite);
            *w = if finite { *w } else { 0.0 };
            let square = f64::from(*w) * f64::from(*w);
            *plain += square;
            *weighted += square * inverse;
        }
    }
}

at_each_isa! {
    /// Adds the squares of a row, times `factor`, to the sums of the columns.
    fn add_squares(w: &[f32], factor: f64, columns: &mut [f64]) {
        columns.iter_mut().zip(w).for_each(|(sum, &w)| *sum += f64::from(w) * f64::from(w) * factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::DType;

    #[test]
    fn finds_the_scales_of_a_product() {
        let (n, m) = (200usize, 160usize);
        let sign = |i: usize| if i.wrapping_mul(2_654_435_761) >> 7 & 1 == 0 { 1.0f32 } else { -1.0 };
        let row = |r: usize| if r.is_multiple_of(2) { 4.0f32 } else { 0.25 };
        let column = |c: usize| if c.is_multiple_of(3) { 8.0f32 } else { 1.0 };
        let bytes: Vec<u8> = (0..n * m).flat_map(|i| (sign(i) * row(i / m) * column(i % m)).to_le_bytes()).collect();
        let scales = fit(&MatrixView::plain(&bytes, DType::F32, n, m));
        for r in 0..n {
            for c in 0..m {
                let exact = f64::from(row(r) * column(c)).log2() * 65536.0;
                assert!((f64::from(scales.rows[r] + scales.columns[c]) - exact).abs() < 300.0, "{r} {c}");
            }
        }
        assert_eq!(scales.non_finite, 0);
    }

    #[test]
    fn counts_what_is_not_finite() {
        let mut bytes = vec![0u8; 4 * 64];
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes[4..8].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
        let scales = fit(&MatrixView::plain(&bytes, DType::F32, 2, 32));
        assert_eq!(scales.non_finite, 2);
        assert_eq!(scales.mean_square, 0.0);
        assert_eq!(scales.rows, vec![NOTHING << 16; 2]);
    }
}
