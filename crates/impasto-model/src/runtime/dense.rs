//! Matrices in memory as floats of 16 or 32 bits: what is not on a lattice.

use std::ops::Range;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use impasto_core::Isa;

use super::parts::Parts;
use super::pool::Pool;
use super::workers::{Buffers, Workers};
use crate::Halves;
use crate::product::{Mat, Threads, product};

/// Tokens from which on weights are multiplied by all of them at once.
const MANY: usize = 4;
/// Rows that a task widens together.
const STRIP: usize = 32;
/// Sums of a dot product that are kept apart, so that every instruction isa adds in the same order.
const LANES: usize = 32;

/// A matrix of floats, outputs x inputs, row-major.
pub struct DenseMatrix {
    values: Values,
    outputs: usize,
    inputs: usize,
}

enum Values {
    F32(Vec<f32>),
    Half(Halves),
}

impl DenseMatrix {
    /// A matrix of 32-bit floats.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` of them.
    pub fn new(weights: Vec<f32>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(weights.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::F32(weights), outputs, inputs }
    }

    /// A matrix of 16-bit floats.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` of them.
    pub fn of_halves(weights: Halves, outputs: usize, inputs: usize) -> Self {
        let (Halves::Bf16(bits) | Halves::F16(bits)) = &weights;
        assert_eq!(Some(bits.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::Half(weights), outputs, inputs }
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        match &self.values {
            Values::F32(weights) => size_of_val(weights.as_slice()),
            Values::Half(Halves::Bf16(bits) | Halves::F16(bits)) => size_of_val(bits.as_slice()),
        }
    }

    /// The weights of row `row`.
    ///
    /// # Panics
    /// If there is no such row, or `out` has not one element for each input.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.widen(row..row + 1, out);
    }

    /// `y = W x` for each of the rows x of `x`; outputs in `out`, rows `stride` apart.
    pub(super) fn multiply(&self, x: &[f32], out: &mut [f32], stride: usize, workers: &Workers, pool: &Pool) {
        let out = Parts::new(out);
        pool.run(self.outputs.div_ceil(STRIP), &|worker, strip| {
            let rows = strip * STRIP..((strip + 1) * STRIP).min(self.outputs);
            workers.with(worker, |Buffers { weights, outputs }| {
                let weights = self.widened(rows.clone(), weights);
                // SAFETY: strips are different rows.
                unsafe { multiply_rows(weights, rows, x, self.inputs, &out, stride, outputs, workers.isa) };
            });
        });
    }

    /// Some rows as 32-bit floats; in `buffer`, unless they are that already.
    fn widened<'a>(&'a self, rows: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let (start, length) = (rows.start * self.inputs, rows.len() * self.inputs);
        if let Values::F32(weights) = &self.values {
            return &weights[start..start + length];
        }
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        self.widen(rows, &mut buffer[..length]);
        &buffer[..length]
    }

    fn widen(&self, rows: Range<usize>, out: &mut [f32]) {
        let range = rows.start * self.inputs..rows.end * self.inputs;
        match &self.values {
            Values::F32(weights) => out.copy_from_slice(&weights[range]),
            Values::Half(Halves::Bf16(bits)) => bits[range].reinterpret_cast::<bf16>().convert_to_f32_slice(out),
            Values::Half(Halves::F16(bits)) => bits[range].reinterpret_cast::<f16>().convert_to_f32_slice(out),
        }
    }
}

/// Outputs `rows` of a matrix for each of the rows of `x`, given the weights of these rows of the matrix; to `out`,
/// whose rows are `stride` apart, by way of `buffer`.
///
/// # Safety
/// Nobody else may have these rows of `out`, for any of the rows of `x`.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn multiply_rows(
    weights: &[f32],
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
    if tokens >= MANY {
        let (x, w) = (Mat::new(x, tokens, inputs, inputs), Mat::new(weights, count, inputs, inputs));
        product(buffer, count, 1.0, x, w.t(), Threads::One);
    } else {
        for (x, out) in x.chunks_exact(inputs).zip(buffer.chunks_exact_mut(count)) {
            out.iter_mut().zip(weights.chunks_exact(inputs)).for_each(|(out, w)| *out = dot(isa, w, x));
        }
    }
    for (t, values) in buffer.chunks_exact(count).enumerate() {
        let at = t * stride + rows.start;
        // SAFETY: the caller's promise.
        unsafe { out.part(at..at + count) }.copy_from_slice(values);
    }
}

/// The sum of products, in [`LANES`] sums by position which are then added in order: the same bits at every isa.
fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    #[inline(always)]
    fn portable(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0.0f32; LANES];
        let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.0.iter().zip(b.0) {
            for i in 0..LANES {
                sums[i] = a[i].mul_add(b[i], sums[i]);
            }
        }
        for (i, (a, b)) in a.1.iter().zip(b.1).enumerate() {
            sums[i] = a.mul_add(*b, sums[i]);
        }
        sums.iter().sum()
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2(a: &[f32], b: &[f32]) -> f32 {
        portable(a, b)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    fn avx512(a: &[f32], b: &[f32]) -> f32 {
        portable(a, b)
    }

    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the isa, and every one that has AVX-512 has FMA.
        Isa::Avx512 if is_x86_feature_detected!("fma") => unsafe { avx512(a, b) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, and FMA was asked for.
        Isa::Avx2 if is_x86_feature_detected!("fma") => unsafe { avx2(a, b) },
        _ => portable(a, b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    #[test]
    fn dots_are_the_same_bits_at_every_level() {
        let mut rng = SplitMix64::new(3);
        for length in [0, 1, 31, 32, 33, 576, 1001] {
            let mut random = || (0..length).map(|_| rng.next_f64() as f32 - 0.5).collect::<Vec<f32>>();
            let (a, b) = (random(), random());
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let scalar = dot(Isa::Scalar, &a, &b);
            assert!((f64::from(scalar) - exact).abs() < 1e-5);
            for isa in Isa::available() {
                assert_eq!(dot(isa, &a, &b).to_bits(), scalar.to_bits(), "{isa}");
            }
        }
    }

    #[test]
    fn products_of_every_format() {
        let mut rng = SplitMix64::new(7);
        let (outputs, inputs) = (70, 45);
        let f32s: Vec<f32> = (0..outputs * inputs).map(|_| bf16::from_f64(rng.next_f64() - 0.5).to_f32()).collect();
        let bf16s = f32s.iter().map(|&w| bf16::from_f32(w).to_bits()).collect();
        let f16s = f32s.iter().map(|&w| f16::from_f32(w).to_bits()).collect();
        let matrices = [
            DenseMatrix::new(f32s.clone(), outputs, inputs),
            DenseMatrix::of_halves(Halves::Bf16(bf16s), outputs, inputs),
            DenseMatrix::of_halves(Halves::F16(f16s), outputs, inputs),
        ];
        for tokens in [1, 3, 4, 9] {
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
                        // 45 products, each rounded: 45 x 2^-24 x 0.25, and f16 rounds small weights.
                        assert!((f64::from(y[r]) - exact).abs() < 2e-5, "token {t} row {r}");
                    }
                    assert_eq!(y[outputs..], [9.0; 3]);
                }
                let mut row = vec![0.0; inputs];
                matrix.row(69, &mut row);
                assert!(row.iter().zip(&f32s[69 * inputs..]).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        }
    }
}
