//! Products with weights stored as 16-bit or 32-bit floats, or decoded during the product: tensors that are not packed.

use std::ops::Range;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use impasto_core::Isa;

use crate::Pool;
use crate::parts::Parts;
use crate::workers::{Buffers, Workers};

/// From this number of tokens on, products use matrix multiplication; below it, a dot product per output and token.
const MANY: usize = 4;
/// Rows that a task multiplies together.
const STRIP: usize = 32;
/// Number of partial sums of a dot product, fixed so that all instruction sets add in the same order.
const LANES: usize = 32;

/// A matrix of floats, outputs x inputs, row-major.
pub struct DenseMatrix {
    values: Values,
    outputs: usize,
    inputs: usize,
}

enum Values {
    F32(Vec<f32>),
    /// The bits of the floats, as in `F16`.
    Bf16(Vec<u16>),
    F16(Vec<u16>),
}

impl DenseMatrix {
    /// Creates a matrix of binary32.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` weights.
    pub fn new(weights: Vec<f32>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(weights.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::F32(weights), outputs, inputs }
    }

    /// Creates a matrix of bfloat16, given as bits.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` weights.
    pub fn of_bf16(bits: Vec<u16>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(bits.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::Bf16(bits), outputs, inputs }
    }

    /// Creates a matrix of binary16, given as bits.
    ///
    /// # Panics
    /// If there are not `outputs * inputs` weights.
    pub fn of_f16(bits: Vec<u16>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(bits.len()), outputs.checked_mul(inputs), "weights");
        DenseMatrix { values: Values::F16(bits), outputs, inputs }
    }

    /// Returns the numbers of outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// Returns the memory of the weights in bytes.
    pub fn memory_bytes(&self) -> usize {
        match &self.values {
            Values::F32(weights) => size_of_val(weights.as_slice()),
            Values::Bf16(bits) | Values::F16(bits) => size_of_val(bits.as_slice()),
        }
    }

    /// Writes the weights of row `row` to `out`, one per input.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.widen(row..row + 1, out);
    }

    /// Computes `y = W x` for each row x of `x`. The outputs of the rows begin `stride` elements apart in `out`.
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn multiply(&self, x: &[f32], out: &mut [f32], stride: usize, workers: &Workers, pool: &Pool) {
        let out = Parts::new(out);
        pool.run(self.outputs.div_ceil(STRIP), &|worker, strip| {
            let rows = strip * STRIP..((strip + 1) * STRIP).min(self.outputs);
            workers.with(worker, |Buffers { weights, outputs }| {
                let weights = self.widened(rows.clone(), weights);
                // SAFETY: strips are disjoint rows.
                unsafe { multiply_rows(weights, rows, x, self.inputs, &out, stride, outputs, workers.isa()) };
            });
        });
    }

    /// Returns some rows as binary32: borrowed if they are stored so, otherwise converted into `buffer`.
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
            Values::Bf16(bits) => bits[range].reinterpret_cast::<bf16>().convert_to_f32_slice(out),
            Values::F16(bits) => bits[range].reinterpret_cast::<f16>().convert_to_f32_slice(out),
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
        workers.with(worker, |Buffers { weights, outputs: buffer }| {
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
unsafe fn multiply_rows(
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
        product(x, weights, inputs, buffer);
    } else {
        for (x, out) in x.chunks_exact(inputs).zip(buffer.chunks_exact_mut(count)) {
            out.iter_mut().zip(weights.chunks_exact(inputs)).for_each(|(out, w)| *out = dot(isa, w, x));
        }
    }
    for (t, values) in buffer.chunks_exact(count).enumerate() {
        let at = t * stride + rows.start;
        // SAFETY: the caller guarantees exclusive access to these elements.
        unsafe { out.part(at..at + count) }.copy_from_slice(values);
    }
}

/// Writes the products of all rows of `x` with all rows of `w` to `out`: rows of `x` x rows of `w`. All rows have
/// `inputs` elements.
fn product(x: &[f32], w: &[f32], inputs: usize, out: &mut [f32]) {
    let (m, n) = (x.len() / inputs, w.len() / inputs);
    assert_eq!(out.len(), m * n, "room for the products");
    // The transposed product: gemm-f32 writes columns. (The crate `gemm` would do this, and compile products of binary64
    // and of complex numbers too.)
    //
    // SAFETY: `x` holds m rows and `w` n rows of `inputs` elements, `out` m rows of n. `out` is mutably borrowed, so it
    // aliases neither. Strides of slices fit isize.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            inputs,
            out.as_mut_ptr(),
            n as isize,
            1,
            false,
            w.as_ptr(),
            1,
            inputs as isize,
            x.as_ptr(),
            inputs as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

/// Returns the dot product. It uses [`LANES`] partial sums by position, added in order at the end, so all instruction
/// sets give the same bits.
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
        // SAFETY: `or_scalar` returned this variant, so the processor supports AVX-512; the guard checks FMA.
        Isa::Avx512 if is_x86_feature_detected!("fma") => unsafe { avx512(a, b) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above, for AVX2.
        Isa::Avx2 if is_x86_feature_detected!("fma") => unsafe { avx2(a, b) },
        _ => portable(a, b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::rng::SplitMix64;

    #[test]
    fn dots_are_the_same_bits_with_every_isa() {
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
            DenseMatrix::of_bf16(bf16s, outputs, inputs),
            DenseMatrix::of_f16(f16s, outputs, inputs),
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
                        // 45 products, each rounded: 45 x 2^-24 x 0.25. In addition, f16 rounds small weights.
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
