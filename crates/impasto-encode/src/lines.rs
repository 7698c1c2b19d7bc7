//! Lines of a matrix, rows or columns, and orders of them in which neighbours are alike.

use std::ops::Range;

use crate::arithmetic::log2;

/// Most of their values by which lines are compared for a chain.
const COMPARED: usize = 64;
/// Rounds of power iteration.
const ROUNDS: usize = 12;

/// The rows or columns of a matrix.
pub struct Lines {
    values: Vec<f32>,
    /// Number of lines.
    pub count: usize,
    /// Values of each.
    pub length: usize,
}

impl Lines {
    /// Takes the rows (side 0) or columns (side 1) of values, which are row-major.
    pub fn new(values: &[f32], width: usize, side: usize) -> Lines {
        let height = values.len() / width.max(1);
        if side == 0 {
            return Lines::of_rows(values.to_vec(), width);
        }
        let values = (0..values.len()).map(|i| values[i % height * width + i / height]).collect();
        Lines { values, count: width, length: height }
    }

    /// Takes rows of `length` values.
    pub fn of_rows(values: Vec<f32>, length: usize) -> Lines {
        Lines { count: values.len() / length.max(1), length, values }
    }

    fn line(&self, i: usize) -> &[f32] {
        &self.values[i * self.length..][..self.length]
    }

    /// Returns some of the lines.
    pub fn part(&self, lines: Range<usize>) -> Lines {
        Lines::of_rows(self.values[lines.start * self.length..lines.end * self.length].to_vec(), self.length)
    }

    /// Returns the order by the sum of the values.
    pub fn by_sum(&self) -> Vec<u32> {
        let sums: Vec<f64> = (0..self.count).map(|i| self.line(i).iter().map(|&x| f64::from(x)).sum()).collect();
        ascending(&sums)
    }

    /// Returns the order by the norm.
    pub fn by_norm(&self) -> Vec<u32> {
        let norms: Vec<f64> = (0..self.count).map(|i| distance(self.line(i), &[])).collect();
        ascending(&norms)
    }

    /// Returns the order by the first principal component (spectral order).
    pub fn by_component(&self) -> Vec<u32> {
        ascending(&self.component())
    }

    /// Returns a chain from the line `first`: always to the nearest one that is left, by some of the values.
    pub fn chain(&self, first: u32) -> Vec<u32> {
        let stride = self.length.div_ceil(COMPARED).max(1);
        let some: Vec<Vec<f32>> =
            (0..self.count).map(|i| self.line(i).iter().step_by(stride).copied().collect()).collect();
        let mut left: Vec<u32> = (0..self.count as u32).filter(|&i| i != first).collect();
        let mut order = vec![first];
        let mut at = first as usize;
        while !left.is_empty() {
            let distances = left.iter().map(|&i| distance(&some[at], &some[i as usize]));
            let nearest =
                distances.enumerate().fold((0, f64::INFINITY), |best, (i, d)| if d < best.1 { (i, d) } else { best });
            let next = left.swap_remove(nearest.0);
            order.push(next);
            at = next as usize;
        }
        order
    }

    /// Returns about the bits of lines, in this order, that are predicted from the ones before.
    pub fn roughness(&self, order: &[u32]) -> f64 {
        let length = self.length as f64;
        let bits = |square: f64| 0.5 * length * log2(1.0 + 4.0 * square / length);
        order.windows(2).map(|pair| bits(distance(self.line(pair[0] as usize), self.line(pair[1] as usize)))).sum()
    }

    /// Returns how much each line has of the first principal component of all (spectral order).
    fn component(&self) -> Vec<f64> {
        let mut mean = vec![0.0f64; self.length];
        for i in 0..self.count {
            mean.iter_mut().zip(self.line(i)).for_each(|(sum, &x)| *sum += f64::from(x) / self.count as f64);
        }
        // Begins with the differences from the middle line: no particular direction, but not an orthogonal one.
        let mut scores: Vec<f64> = (0..self.count).map(|i| i as f64 - self.count as f64 / 2.0 + 0.3).collect();
        for _ in 0..ROUNDS {
            let mut direction = vec![0.0f64; self.length];
            for (i, &score) in scores.iter().enumerate() {
                let line = self.line(i).iter().zip(&mean);
                direction.iter_mut().zip(line).for_each(|(sum, (&x, mean))| *sum += score * (f64::from(x) - mean));
            }
            let size = direction.iter().map(|x| x * x).sum::<f64>().sqrt();
            if size == 0.0 {
                break;
            }
            for (i, score) in scores.iter_mut().enumerate() {
                let line = self.line(i).iter().zip(&mean).zip(&direction);
                *score = line.map(|((&x, mean), d)| (f64::from(x) - mean) * d).sum::<f64>() / size;
            }
        }
        scores
    }
}

/// Returns the indices of keys in ascending order; equal ones keep theirs.
pub fn ascending(keys: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    order.sort_by(|&a, &b| keys[a as usize].total_cmp(&keys[b as usize]));
    order
}

/// Partial sums, so that the compiler can use vectors.
const LANES: usize = 16;

/// Returns the sum of the squared differences of two lines; without a second one, of the squares.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0f32; LANES];
    if b.is_empty() {
        for a in a.chunks(LANES) {
            sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += a * a);
        }
    }
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += (a - b) * (a - b));
    }
    sums.iter().map(|&sum| f64::from(sum)).sum()
}
