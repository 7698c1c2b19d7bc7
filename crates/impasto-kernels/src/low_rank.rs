//! Products with a matrix of low rank, which is never made dense: two thin products.

use std::io;

use half::f16;
use impasto_core::Isa;

use crate::dense::DenseMatrix;
use crate::packed::Arena;
use crate::parts::Parts;
use crate::stored::{Reader, Writer};
use crate::{Pool, Workers};

/// The most terms of a matrix (SPEC 19.1).
pub const MOST_RANK: usize = 255;

/// A matrix `left * diagonal(scales) * right` of low rank, outputs x inputs.
pub struct LowRankMatrix {
    /// The left factor, transposed: rank x outputs. Few terms are added to many outputs at once.
    left: DenseMatrix,
    scales: Vec<f32>,
    /// Rank x inputs.
    right: DenseMatrix,
}

/// Working memory of products.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Products with the right factor.
    terms: Vec<f32>,
}

impl LowRankMatrix {
    /// Creates a matrix from integer factors of magnitude 2048 or less, which binary16 holds exactly: `left` outputs x rank,
    /// `right` rank x inputs, and a scale for each term.
    ///
    /// # Panics
    /// If the factors are not whole rows, or there are more than [`MOST_RANK`] terms.
    pub fn new(left: &[i16], scales: Vec<f32>, right: &[i16], arena: &Arena) -> Self {
        assert!(scales.len() <= MOST_RANK, "{MOST_RANK} terms at most");
        let rank = scales.len().max(1);
        let half = |x: i16| f16::from_f32(f32::from(x)).to_bits();
        let outputs = left.len() / rank;
        let turned = (0..rank * outputs).map(|i| half(left[i % outputs * rank + i / outputs])).collect();
        LowRankMatrix {
            left: DenseMatrix::of_f16(turned, rank, outputs).keep_in(arena),
            right: DenseMatrix::of_f16(right.iter().map(|&x| half(x)).collect(), rank, right.len() / rank)
                .keep_in(arena),
            scales,
        }
    }

    /// Writes the matrix as bytes, for [`Self::read`].
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.numbers(&[self.scales.len()])?;
        to.array(&self.scales)?;
        self.left.write(to)?;
        self.right.write(to)
    }

    /// Reads a matrix whose factors stay in the mapped file; `None` if the bytes are not one.
    pub fn read(from: &mut Reader) -> Option<Self> {
        let [rank] = from.numbers()?;
        let scales: Vec<f32> = from.array(rank)?;
        let (left, right) = (DenseMatrix::read(from)?, DenseMatrix::read(from)?);
        let fits = rank <= MOST_RANK && [&left, &right].iter().all(|factor| factor.shape()[0] == rank.max(1));
        fits.then_some(LowRankMatrix { left, scales, right })
    }

    /// Returns the numbers of outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.left.shape()[1], self.right.shape()[1]]
    }

    /// Returns the memory of the factors in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.left.memory_bytes() + self.right.memory_bytes() + size_of_val(&self.scales[..])
    }

    /// Adds `W x` for each row x of `x` to the rows of `out`, which begin `stride` elements apart.
    ///
    /// # Panics
    /// If `out` is too short, or `stride` is less than the number of outputs.
    pub fn multiply_add(
        &self,
        x: &[f32],
        out: &mut [f32],
        stride: usize,
        scratch: &mut Scratch,
        workers: &Workers,
        pool: &Pool,
    ) {
        let ([rank, outputs], [_, inputs]) = (self.left.shape(), self.right.shape());
        let tokens = x.len() / inputs.max(1);
        let Scratch { terms } = scratch;
        terms.resize(terms.len().max(tokens * rank), 0.0);
        let terms = &mut terms[..tokens * rank];
        self.right.multiply(x, terms, rank, workers, pool);
        for row in terms.chunks_exact_mut(rank) {
            row.iter_mut().zip(&self.scales).for_each(|(term, scale)| *term *= scale);
        }
        assert!(stride >= outputs, "the outputs of rows are apart");
        let (out, terms) = (Parts::new(out), &*terms);
        let tasks = tokens.min(pool.threads());
        pool.run(tasks, &|_, task| {
            for token in tokens * task / tasks..tokens * (task + 1) / tasks {
                // SAFETY: the outputs of tokens are disjoint, and each token belongs to one task.
                let out = unsafe { out.part(token * stride..token * stride + outputs) };
                for (k, &term) in terms[token * rank..(token + 1) * rank].iter().enumerate() {
                    self.left.add_row(k, term, workers.isa(), out);
                }
            }
        });
    }

    /// Adds the weights of row `row` to `out`, one per input. Nothing is allocated.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn add_row(&self, row: usize, out: &mut [f32]) {
        for (k, scale) in self.scales.iter().enumerate() {
            self.right.add_row(k, self.left.at(k, row) * scale, Isa::best(), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use impasto_core::rng::SplitMix64;

    use super::*;

    /// Every instruction set, few tokens and many: the sums of the dense product, which is computed in binary64.
    #[test]
    fn thin_products_equal_the_dense_one() {
        let mut rng = SplitMix64::new(3);
        let (outputs, inputs, rank) = (77, 50, 5);
        let mut factors = |n: usize| -> Vec<i16> { (0..n).map(|_| (rng.next_u64() % 4095) as i16 - 2047).collect() };
        let (left, right) = (factors(outputs * rank), factors(rank * inputs));
        let scales: Vec<f32> = (0..rank).map(|k| 1e-4 * (k + 1) as f32).collect();
        let weight = |r: usize, c: usize| -> f64 {
            let term =
                |k: usize| f64::from(left[r * rank + k]) * f64::from(scales[k]) * f64::from(right[k * inputs + c]);
            (0..rank).map(term).sum()
        };
        let arena = Arena::new();
        let matrix = LowRankMatrix::new(&left, scales.clone(), &right, &arena);
        assert_eq!(matrix.memory_bytes(), 2 * rank * (outputs + inputs) + 4 * rank);
        for (isa, tokens) in Isa::available().into_iter().flat_map(|isa| [1, 3, 4, 40].map(|tokens| (isa, tokens))) {
            let (pool, workers) = (Pool::new(2).expect("threads"), Workers::new(2, isa));
            let x: Vec<f32> = (0..tokens * inputs).map(|_| rng.next_f64() as f32 - 0.5).collect();
            let mut out = vec![2.0; tokens * outputs];
            let mut scratch = Scratch::default();
            matrix.multiply_add(&x, &mut out, outputs, &mut scratch, &workers, &pool);
            for (i, &y) in out.iter().enumerate() {
                let (t, r) = (i / outputs, i % outputs);
                let products = (0..inputs).map(|c| weight(r, c) * f64::from(x[t * inputs + c]));
                let size: f64 = products.clone().map(f64::abs).sum();
                assert!((f64::from(y) - 2.0 - products.sum::<f64>()).abs() < 1e-5 * (size + 1.0), "{isa:?} {t} {r}");
            }
        }
        let mut row = vec![1.0; inputs];
        matrix.add_row(outputs - 1, &mut row);
        assert!((0..inputs).all(|c| (f64::from(row[c]) - 1.0 - weight(outputs - 1, c)).abs() < 1e-2));
    }
}
