//! Products with weights stored as 16-bit or 32-bit floats, or decoded during the product: tensors that are not packed.

mod dot;
mod halves;
mod stored;

use std::ops::{Deref, Range};

use bytemuck::{AnyBitPattern, NoUninit};
use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use impasto_core::Isa;

pub use halves::HalfRows;

use crate::Pool;
use crate::packed::Arena;
use crate::packed::arena::Lines;
use crate::parts::Parts;
use crate::workers::{Buffers, Workers, floats};

/// From this number of tokens on, weights of 16 bits are widened first, and then multiplied by all tokens.
const MANY: usize = 7;
/// Rows that are multiplied together.
const STRIP: usize = 32;
/// Weights of a row that are widened at a time, on the stack.
const CHUNK: usize = 256;
/// The largest number of tasks per thread. Tasks even out differences in the speed of threads; taking one has a cost.
const TASKS: usize = 8;

/// A matrix of floats, outputs x inputs, row-major.
pub struct DenseMatrix {
    values: Values,
    outputs: usize,
    inputs: usize,
}

enum Values {
    F32(Words<f32>),
    /// The bits of the floats, as in `F16`.
    Bf16(Words<u16>),
    F16(Words<u16>),
}

/// The elements of a matrix.
enum Words<T> {
    /// In their own allocation.
    Own(Vec<T>),
    /// This many in an arena.
    Kept(Lines, usize),
}

impl<T: NoUninit + AnyBitPattern> Words<T> {
    /// Moves the elements into an arena, unless the system refuses memory.
    fn keep_in(self, arena: &Arena) -> Words<T> {
        match arena.copy(bytemuck::cast_slice(&self)) {
            Some(lines) => Words::Kept(lines, self.len()),
            None => self,
        }
    }
}

impl<T: AnyBitPattern> Deref for Words<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Words::Own(words) => words,
            Words::Kept(lines, count) => &bytemuck::cast_slice(lines)[..*count],
        }
    }
}

impl DenseMatrix {
    /// Creates a matrix of binary32.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` weights.
    pub fn new(weights: Vec<f32>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(weights.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::F32(Words::Own(weights)), outputs, inputs }
    }

    /// Creates a matrix of bfloat16, given as bits.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` weights.
    pub fn of_bf16(bits: Vec<u16>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(bits.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::Bf16(Words::Own(bits)), outputs, inputs }
    }

    /// Creates a matrix of binary16, given as bits.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` weights.
    pub fn of_f16(bits: Vec<u16>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(bits.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::F16(Words::Own(bits)), outputs, inputs }
    }

    /// Moves the weights into an arena, whose huge pages make products of few tokens faster.
    pub fn keep_in(self, arena: &Arena) -> Self {
        let values = match self.values {
            Values::F32(weights) => Values::F32(weights.keep_in(arena)),
            Values::Bf16(bits) => Values::Bf16(bits.keep_in(arena)),
            Values::F16(bits) => Values::F16(bits.keep_in(arena)),
        };
        DenseMatrix { values, ..self }
    }

    /// Returns the numbers of outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// Returns the memory of the weights in bytes.
    pub fn memory_bytes(&self) -> usize {
        match &self.values {
            Values::F32(weights) => size_of_val(&weights[..]),
            Values::Bf16(bits) | Values::F16(bits) => size_of_val(&bits[..]),
        }
    }

    /// Writes the weights of row `row` to `out`, one per input.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.widen(row..row + 1, out, Isa::best());
    }

    /// Returns the weight in a row and a column.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, row: usize, column: usize) -> f32 {
        assert!(column < self.inputs, "a column");
        let (mut weight, at) = ([0.0], row * self.inputs + column);
        self.widen_range(at..at + 1, &mut weight, Isa::Scalar);
        weight[0]
    }

    /// Adds `factor` times the weights of row `row` to `out`, one per input. Nothing is allocated.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn add_row(&self, row: usize, factor: f32, isa: Isa, out: &mut [f32]) {
        assert_eq!(out.len(), self.inputs, "one number per input");
        let mut buffer = [0.0; CHUNK];
        for (i, out) in out.chunks_mut(CHUNK).enumerate() {
            let first = row * self.inputs + i * CHUNK;
            let weights = &mut buffer[..out.len()];
            self.widen_range(first..first + out.len(), weights, isa);
            out.iter_mut().zip(&*weights).for_each(|(out, weight)| *out += factor * weight);
        }
    }

    /// Computes `y = W x` for each row x of `x`. The outputs of the rows begin `stride` elements apart in `out`. Those of a row do
    /// not depend on the other rows, the threads or the instruction set.
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn multiply(&self, x: &[f32], out: &mut [f32], stride: usize, workers: &Workers, pool: &Pool) {
        let out = Parts::new(out);
        let strips = self.outputs.div_ceil(STRIP);
        let tasks = strips.min(TASKS * pool.threads());
        workers.aligned(x, |x| {
            pool.run(tasks, &|worker, task| {
                workers.with(worker, |buffers| {
                    for strip in strips * task / tasks..strips * (task + 1) / tasks {
                        let rows = strip * STRIP..((strip + 1) * STRIP).min(self.outputs);
                        // SAFETY: strips are disjoint rows.
                        unsafe { self.multiply_rows(rows, x, &out, stride, buffers, workers.isa()) };
                    }
                });
            });
        });
    }

    /// Computes the outputs `rows` for each row of `x`. Few tokens are multiplied straight from the stored weights.
    ///
    /// # Safety
    /// As for [`multiply_rows`].
    unsafe fn multiply_rows(
        &self,
        rows: Range<usize>,
        x: &[f32],
        out: &Parts<f32>,
        stride: usize,
        Buffers { widened, outputs, .. }: &mut Buffers,
        isa: Isa,
    ) {
        let inputs = self.inputs;
        let range = rows.start * inputs..rows.end * inputs;
        // SAFETY: the caller guarantees the same for these functions.
        unsafe {
            match &self.values {
                Values::F32(weights) => multiply_rows(&weights[range], rows, x, inputs, out, stride, outputs, isa),
                Values::Bf16(bits) if x.len() / inputs < MANY => {
                    let weights = bits[range].reinterpret_cast::<bf16>();
                    multiply_stored(weights, rows, x, inputs, out, stride, outputs, isa);
                }
                Values::F16(bits) if x.len() / inputs < MANY => {
                    let weights = bits[range].reinterpret_cast::<f16>();
                    multiply_stored(weights, rows, x, inputs, out, stride, outputs, isa);
                }
                Values::Bf16(_) | Values::F16(_) => {
                    let weights = floats(widened, range.len());
                    self.widen(rows.clone(), weights, isa);
                    multiply_rows(weights, rows, x, inputs, out, stride, outputs, isa);
                }
            }
        }
    }

    fn widen(&self, rows: Range<usize>, out: &mut [f32], isa: Isa) {
        self.widen_range(rows.start * self.inputs..rows.end * self.inputs, out, isa);
    }

    /// Writes the weights with some indices, row-major, to `out`.
    fn widen_range(&self, range: Range<usize>, out: &mut [f32], isa: Isa) {
        match &self.values {
            Values::F32(weights) => out.copy_from_slice(&weights[range]),
            Values::Bf16(bits) => dot::widen(isa, bits[range].reinterpret_cast::<bf16>(), out),
            Values::F16(bits) => dot::widen(isa, bits[range].reinterpret_cast::<f16>(), out),
        }
    }
}

/// Some rows of one of the matrices that are multiplied together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Number of the matrix.
    pub matrix: usize,
    /// The rows.
    pub rows: Range<usize>,
}

/// Computes `y = W x` for each row x of `x`, for several matrices with the same inputs whose weights are decoded during
/// the product.
///
/// `read` replaces the content of its second argument by the weights of the part whose index in `parts` is its first
/// argument; the worker that called it then multiplies them. `outs` has one slice per matrix: rows of `x` x outputs.
///
/// # Errors
/// Errors of `read`; if there are several, that of the first part.
///
/// # Panics
/// If the parts of a matrix do not cover the rows of its output in order, or `read` returns a wrong number of weights.
pub fn multiply_parts<E: Send>(
    parts: &[Part],
    read: impl Fn(usize, &mut Vec<f32>) -> Result<(), E> + Sync,
    x: &[f32],
    inputs: usize,
    outs: &mut [&mut [f32]],
    workers: &Workers,
    pool: &Pool,
) -> Result<(), E> {
    let tokens = x.len() / inputs;
    let mut outputs = vec![0; outs.len()];
    for Part { matrix, rows } in parts {
        assert!(outputs[*matrix] == rows.start && rows.start <= rows.end, "parts are all rows in order");
        outputs[*matrix] = rows.end;
    }
    assert!(outs.iter().zip(&outputs).all(|(out, outputs)| out.len() == tokens * outputs), "outputs");
    let outs: Vec<Parts<f32>> = outs.iter_mut().map(|out| Parts::new(out)).collect();
    pool.try_run(parts.len(), &|worker, i| {
        workers.with(worker, |Buffers { weights, outputs: buffer, .. }| {
            read(i, weights)?;
            let Part { matrix, rows } = parts[i].clone();
            assert_eq!(weights.len(), rows.len() * inputs, "weights of a part");
            let stride = outputs[matrix];
            // SAFETY: parts are disjoint rows of one matrix, or rows of different matrices.
            unsafe { multiply_rows(weights, rows, x, inputs, &outs[matrix], stride, buffer, workers.isa()) };
            Ok(())
        })
    })
}

/// Computes the outputs `rows` of a matrix for each row of `x`, given the weights of these rows. The rows of `out` are
/// `stride` elements apart; `buffer` is working memory.
///
/// # Safety
/// Nothing else may refer to these outputs in `out`, for any row of `x`.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn multiply_rows(
    weights: &[f32],
    rows: Range<usize>,
    x: &[f32],
    inputs: usize,
    out: &Parts<f32>,
    stride: usize,
    buffer: &mut Vec<f32>,
    isa: Isa,
) {
    // SAFETY: the caller guarantees the same.
    unsafe { multiply_stored(weights, rows, x, inputs, out, stride, buffer, isa) };
}

/// Like [`multiply_rows`], for weights of any format.
///
/// # Safety
/// As for [`multiply_rows`].
#[allow(clippy::too_many_arguments)]
unsafe fn multiply_stored<W: dot::Format>(
    weights: &[W],
    rows: Range<usize>,
    x: &[f32],
    inputs: usize,
    out: &Parts<f32>,
    stride: usize,
    buffer: &mut Vec<f32>,
    isa: Isa,
) {
    let (tokens, count) = (x.len() / inputs, rows.len());
    buffer.resize(tokens * count, 0.0);
    dot::products(isa, weights, x, inputs, &mut buffer[..]);
    // SAFETY: the caller guarantees the same.
    unsafe { copy(buffer, rows, out, stride) };
}

/// Copies the outputs `rows` of all tokens to their places, which are `stride` elements apart.
///
/// # Safety
/// As for [`multiply_rows`].
unsafe fn copy(values: &[f32], rows: Range<usize>, out: &Parts<f32>, stride: usize) {
    for (t, values) in values.chunks_exact(rows.len()).enumerate() {
        let at = t * stride + rows.start;
        // SAFETY: the caller guarantees exclusive access to these elements.
        unsafe { out.part(at..at + rows.len()) }.copy_from_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::rng::SplitMix64;

    #[test]
    fn products_of_every_format() {
        let mut rng = SplitMix64::new(7);
        let (outputs, inputs) = (70, 45);
        let f32s: Vec<f32> = (0..outputs * inputs).map(|_| bf16::from_f64(rng.next_f64() - 0.5).to_f32()).collect();
        let bf16s = f32s.iter().map(|&w| bf16::from_f32(w).to_bits()).collect();
        let f16s = f32s.iter().map(|&w| f16::from_f32(w).to_bits()).collect();
        let arena = Arena::new();
        let matrices = [
            DenseMatrix::new(f32s.clone(), outputs, inputs),
            DenseMatrix::of_bf16(bf16s, outputs, inputs).keep_in(&arena),
            DenseMatrix::of_f16(f16s, outputs, inputs).keep_in(&arena),
        ];
        for tokens in [1, 3, MANY - 1, MANY] {
            let x: Vec<f32> = (0..tokens * inputs).map(|_| rng.next_f64() as f32 - 0.5).collect();
            let stride = outputs + 3;
            for (matrix, threads) in matrices.iter().zip([1, 2, 3]) {
                let pool = Pool::new(threads).unwrap();
                let workers = Workers::new(threads, Isa::best());
                let mut out = vec![9.0; tokens * stride];
                matrix.multiply(&x, &mut out, stride, &workers, &pool);
                for (t, (x, y)) in x.chunks(inputs).zip(out.chunks(stride)).enumerate() {
                    for (r, w) in f32s.chunks(inputs).enumerate() {
                        let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        // 45 products, each rounded: 45 x 2^-24 x 0.25. In addition, f16 rounds small weights.
                        assert!((f64::from(y[r]) - exact).abs() < 2e-5, "token {t} row {r}");
                    }
                    assert_eq!(y[outputs..], [9.0; 3]);
                }
                let mut row = vec![0.0; inputs];
                matrix.row(69, &mut row);
                let mut sums = vec![1.0; inputs];
                matrix.add_row(69, -2.0, Isa::best(), &mut sums);
                assert_eq!(matrix.at(69, 7), row[7]);
                assert!(sums.iter().zip(&row).all(|(sum, w)| *sum == 1.0 - 2.0 * w));
                assert!(row.iter().zip(&f32s[69 * inputs..]).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        }
    }
}
