//! Products with a matrix of few weights that are not 0, in compressed sparse rows (*CSR*).

use crate::Pool;
use crate::parts::Parts;

/// Tasks per thread of a product: rows differ in how many weights they have.
const TASKS: usize = 4;

/// A sparse matrix, outputs x inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseMatrix {
    inputs: usize,
    /// Where the entries of each row end.
    ends: Vec<usize>,
    columns: Vec<u16>,
    values: Vec<f32>,
}

impl SparseMatrix {
    /// Creates a matrix of `inputs` columns from where the entries of each row end, and their columns and values; `None` if the
    /// ends are not in order, or a column is not there.
    pub fn new(inputs: usize, ends: Vec<usize>, columns: Vec<u16>, values: Vec<f32>) -> Option<Self> {
        let all = ends.last().copied().unwrap_or(0);
        let fits = ends.is_sorted() && [columns.len(), values.len()] == [all; 2];
        let is_there = |&column: &u16| usize::from(column) < inputs;
        (fits && columns.iter().all(is_there)).then_some(SparseMatrix { inputs, ends, columns, values })
    }

    /// Returns the number of rows.
    pub fn outputs(&self) -> usize {
        self.ends.len()
    }

    /// Returns the number of columns.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the number of weights that are stored.
    pub fn entries(&self) -> usize {
        self.values.len()
    }

    /// Returns the memory of the matrix in bytes.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&self.ends[..]) + size_of_val(&self.columns[..]) + size_of_val(&self.values[..])
    }

    /// Adds `W x` for each row x of `x` to the rows of `out`, which begin `stride` elements apart. Each sum is in the order of the
    /// entries.
    ///
    /// # Panics
    /// If `out` is too short, or `stride` is less than the number of outputs.
    pub fn multiply_add(&self, x: &[f32], out: &mut [f32], stride: usize, pool: &Pool) {
        if self.values.is_empty() {
            return;
        }
        let outputs = self.outputs();
        assert!(stride >= outputs, "the outputs of rows are apart");
        let out = Parts::new(out);
        let tasks = outputs.min(TASKS * pool.threads());
        pool.run(tasks, &|_, task| {
            let rows = outputs * task / tasks..outputs * (task + 1) / tasks;
            for (token, x) in x.chunks_exact(self.inputs).enumerate() {
                // SAFETY: tasks have disjoint rows, and the outputs of tokens are disjoint.
                let out = unsafe { out.part(token * stride + rows.start..token * stride + rows.end) };
                for (row, out) in rows.clone().zip(out) {
                    let products = self.row(row).map(|(column, value)| value * x[column]);
                    *out += products.sum::<f32>();
                }
            }
        });
    }

    /// Adds the weights of row `row` to `out`, one per input.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn add_row(&self, row: usize, out: &mut [f32]) {
        self.row(row).for_each(|(column, value)| out[column] += value);
    }

    /// Returns the entries of a row.
    fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> {
        let begin = if row == 0 { 0 } else { self.ends[row - 1] };
        let here = begin..self.ends[row];
        self.columns[here.clone()].iter().map(|&column| usize::from(column)).zip(self.values[here].iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use impasto_core::rng::SplitMix64;

    use super::*;

    /// Rows without entries, with one, and with all; few tokens and many.
    #[test]
    fn sparse_products_equal_the_dense_one() {
        let (outputs, inputs) = (61, 40);
        let mut rng = SplitMix64::new(5);
        let mut dense = vec![0.0f32; outputs * inputs];
        for (row, weights) in dense.chunks_exact_mut(inputs).enumerate() {
            let count = [0, 1, 3, inputs][row % 4];
            for k in 0..count {
                weights[(k * 7 + row) % inputs] = rng.next_f64() as f32 - 0.5;
            }
        }
        let (mut ends, mut columns, mut values) = (vec![], vec![], vec![]);
        for weights in dense.chunks_exact(inputs) {
            for (column, &weight) in (0..).zip(weights).filter(|(_, weight)| **weight != 0.0) {
                columns.push(column);
                values.push(weight);
            }
            ends.push(values.len());
        }
        let matrix = SparseMatrix::new(inputs, ends, columns, values).unwrap();
        assert_eq!((matrix.outputs(), matrix.inputs()), (outputs, inputs));
        assert_eq!(matrix.memory_bytes(), matrix.entries() * 6 + outputs * 8);
        let pool = Pool::new(2).unwrap();
        for tokens in [1, 3, 20] {
            let x: Vec<f32> = (0..tokens * inputs).map(|_| rng.next_f64() as f32).collect();
            let mut out = vec![2.0; tokens * outputs];
            matrix.multiply_add(&x, &mut out, outputs, &pool);
            for (i, y) in out.into_iter().enumerate() {
                let row = &dense[i % outputs * inputs..][..inputs];
                let products = row.iter().zip(&x[i / outputs * inputs..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                assert!((f64::from(y) - 2.0 - products.sum::<f64>()).abs() < 1e-5, "{i}");
            }
        }
        let mut row = vec![1.0; inputs];
        matrix.add_row(3, &mut row);
        assert!(row.iter().zip(&dense[3 * inputs..]).all(|(sum, w)| *sum == 1.0 + w));
    }

    #[test]
    fn matrices_that_are_empty_or_invalid() {
        let new = |ends: &[usize], columns: &[u16]| {
            SparseMatrix::new(2, ends.to_vec(), columns.to_vec(), vec![1.0; columns.len()])
        };
        for (ends, columns) in [(&[1][..], &[2][..]), (&[1], &[]), (&[], &[0]), (&[1, 0, 1], &[0])] {
            assert!(new(ends, columns).is_none(), "{ends:?} {columns:?}");
        }
        let matrix = new(&[0, 0], &[]).unwrap();
        assert_eq!((matrix.outputs(), matrix.entries()), (2, 0));
        let mut out = [3.0; 2];
        matrix.multiply_add(&[1.0, 1.0], &mut out, 2, &Pool::new(1).unwrap());
        assert_eq!(out, [3.0; 2]);
    }
}
