//! Matrix products in binary32: a safe wrapper of the crate `gemm-f32`.

use rayon::prelude::*;

/// Number of threads that a product may use, from the current Rayon pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Only the calling thread.
    One,
    /// This many tasks.
    Rayon(usize),
}

impl From<Threads> for gemm_common::Parallelism {
    fn from(threads: Threads) -> Self {
        match threads {
            Threads::One => Self::None,
            Threads::Rayon(n) => Self::Rayon(n),
        }
    }
}

/// Strides of a matrix inside a slice.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl Layout {
    /// Number of elements that the slice must have.
    fn span(&self) -> usize {
        if self.rows == 0 || self.cols == 0 {
            return 0;
        }
        let last_row = (self.rows - 1).checked_mul(self.row_stride);
        let last_col = (self.cols - 1).checked_mul(self.col_stride);
        last_row.zip(last_col).and_then(|(r, c)| r.checked_add(c)?.checked_add(1)).expect("matrix fits in memory")
    }
}

/// A read-only view of a matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    layout: Layout,
}

impl<'a> Mat<'a> {
    /// `rows` x `cols`, row-major, rows `row_stride` elements apart.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        let layout = Layout { rows, cols, row_stride, col_stride: 1 };
        assert!(layout.span() <= data.len(), "matrix extends past its slice");
        Self { data, layout }
    }

    /// Returns the transpose, without copying.
    pub(crate) fn t(self) -> Self {
        let Layout { rows, cols, row_stride, col_stride } = self.layout;
        let layout = Layout { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride };
        Self { layout, ..self }
    }
}

/// `out = alpha * a * b`; `out` is row-major with rows `out_stride` elements apart.
pub(crate) fn product(out: &mut [f32], out_stride: usize, alpha: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    multiply(out, out_stride, false, alpha, a, b, threads);
}

/// `out += alpha * a * b`, as [`product`].
pub(crate) fn add_product(out: &mut [f32], out_stride: usize, alpha: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    multiply(out, out_stride, true, alpha, a, b, threads);
}

/// Adds the sum of `x x^T` over the rows `x` of `rows` to the lower triangle of `gram` (`width` x `width`, row-major).
/// Some elements above the diagonal change too; they have no meaning. Runs on the current Rayon pool; the order of sums
/// does not depend on the number of threads.
///
/// # Panics
/// If `gram` is smaller than that.
pub fn add_gram(gram: &mut [f32], rows: &[f32], width: usize) {
    /// Rows of the result per product. A product computes columns up to the diagonal of its last row; smaller panels
    /// waste less work above the diagonal.
    const PANEL: usize = 192;
    let count = rows.len().checked_div(width).unwrap_or(0);
    if count == 0 {
        return;
    }
    let threads = Threads::Rayon(rayon::current_num_threads());
    for first in (0..width).step_by(PANEL) {
        let last = width.min(first + PANEL);
        let (panel, before) =
            (Mat::new(&rows[first..], count, last - first, width), Mat::new(rows, count, last, width));
        add_product(&mut gram[first * width..], width, 1.0, panel.t(), before, threads);
    }
}

/// Returns `a b^T`: the products of all rows of `a` with all rows of `b`, both row-major with rows of `width` values. Runs on the
/// current Rayon pool.
///
/// # Panics
/// If `width` is 0.
pub fn row_products(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    let (rows, columns) = (a.len() / width, b.len() / width);
    let mut out = vec![0.0; rows * columns];
    let threads = Threads::Rayon(rayon::current_num_threads());
    product(&mut out, columns, 1.0, Mat::new(a, rows, width, width), Mat::new(b, columns, width, width).t(), threads);
    out
}

/// The product, added to `out` if `add` is set.
fn multiply(out: &mut [f32], out_stride: usize, add: bool, alpha: f32, a: Mat<'_>, b: Mat<'_>, threads: Threads) {
    let (m, n, k) = (a.layout.rows, b.layout.cols, a.layout.cols);
    assert_eq!(k, b.layout.rows, "inner dimensions must match");
    let layout = Layout { rows: m, cols: n, row_stride: out_stride, col_stride: 1 };
    assert!(out_stride >= n && layout.span() <= out.len(), "output extends past its slice");
    // The transposed product: gemm-f32 writes columns. (The crate `gemm` would do this, and compile products of binary64
    // and of complex numbers too.)
    //
    // SAFETY: `Mat::new` and the assertion above keep every element of the three matrices inside its slice. Rows of
    // `out` do not overlap, and `out` is borrowed mutably, so it aliases neither operand. Strides fit isize because
    // slices do.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            k,
            out.as_mut_ptr(),
            out_stride as isize,
            1,
            add,
            b.data.as_ptr(),
            b.layout.row_stride as isize,
            b.layout.col_stride as isize,
            a.data.as_ptr(),
            a.layout.row_stride as isize,
            a.layout.col_stride as isize,
            if add { 1.0 } else { 0.0 },
            alpha,
            false,
            false,
            false,
            threads.into(),
        );
    }
}

/// A weight matrix, outputs x inputs, row-major, with an optional bias.
pub(crate) struct Linear {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    outputs: usize,
    inputs: usize,
}

impl Linear {
    /// Takes `outputs * inputs` weights and `outputs` biases.
    pub(crate) fn new(weight: Vec<f32>, bias: Option<Vec<f32>>, outputs: usize, inputs: usize) -> Self {
        assert_eq!(Some(weight.len()), outputs.checked_mul(inputs), "weight size");
        assert!(bias.as_ref().is_none_or(|b| b.len() == outputs), "bias size");
        Self { weight, bias, outputs, inputs }
    }

    /// Outputs and inputs.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// The weights, outputs x inputs, row-major.
    pub(crate) fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// The weights, mutably.
    pub(crate) fn weight_mut(&mut self) -> &mut [f32] {
        &mut self.weight
    }

    /// Row `i`: the weights of output `i`, or the embedding of token `i`.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        &self.weight[i * self.inputs..][..self.inputs]
    }

    /// Bytes of weights and bias.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(self.weight.as_slice()) + self.bias.as_deref().map_or(0, size_of_val)
    }

    /// `x` (rows x inputs) times the transposed weight, plus the bias: rows x outputs.
    pub(crate) fn forward(&self, x: &[f32], threads: Threads) -> Vec<f32> {
        let rows = x.len() / self.inputs;
        let mut out = vec![0.0; rows * self.outputs];
        let x = Mat::new(x, rows, self.inputs, self.inputs);
        match threads {
            // A single row is bound by reading the weights, which gemm does on one thread: split the outputs among
            // threads.
            Threads::Rayon(n) if rows == 1 && n > 1 => {
                let share = self.outputs.div_ceil(n).max(1);
                let weights = self.weight.par_chunks(share * self.inputs);
                out.par_chunks_mut(share).zip(weights).for_each(|(out, w)| {
                    let w = Mat::new(w, out.len(), self.inputs, self.inputs);
                    let width = out.len();
                    product(out, width, 1.0, x, w.t(), Threads::One);
                });
            }
            _ => {
                let w = Mat::new(&self.weight, self.outputs, self.inputs, self.inputs);
                product(&mut out, self.outputs, 1.0, x, w.t(), threads);
            }
        }
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(self.outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        out
    }

    /// Multiplies each row of the weight by a factor.
    pub(crate) fn scale_rows(&mut self, factors: &[f32]) {
        let rows = self.weight.par_chunks_mut(self.inputs.max(1)).zip(factors);
        rows.for_each(|(row, factor)| row.iter_mut().for_each(|w| *w *= factor));
    }

    /// Returns for each output the sum over rows of `gradient` times `y` without the bias: the derivative with respect to the
    /// logarithm of a factor on that row of the weight. `y` are outputs, rows x outputs, and `gradient` their gradients.
    pub(crate) fn row_gradient(&self, y: &[f32], gradient: &[f32]) -> Vec<f64> {
        let bias = |output: usize| self.bias.as_ref().map_or(0.0, |bias| bias[output]);
        let mut sums = vec![0.0; self.outputs];
        for (y, gradient) in y.chunks_exact(self.outputs).zip(gradient.chunks_exact(self.outputs)) {
            let terms = y.iter().zip(gradient).enumerate().map(|(o, (y, g))| f64::from(*g) * f64::from(y - bias(o)));
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
        sums
    }

    /// Adds the gradient of the inputs to `out` (rows x inputs): `gradient` (rows x outputs), that of the outputs,
    /// times the weight.
    pub(crate) fn backward(&self, gradient: &[f32], out: &mut [f32], threads: Threads) {
        let rows = gradient.len() / self.outputs;
        let gradient = Mat::new(gradient, rows, self.outputs, self.outputs);
        let w = Mat::new(&self.weight, self.outputs, self.inputs, self.inputs);
        add_product(out, self.inputs, 1.0, gradient, w, threads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(x: &[f32], w: &[f32], rows: usize, outputs: usize, inputs: usize) -> Vec<f64> {
        let dot = |r: usize, o: usize| -> f64 {
            (0..inputs).map(|i| f64::from(x[r * inputs + i]) * f64::from(w[o * inputs + i])).sum()
        };
        (0..rows * outputs).map(|at| dot(at / outputs, at % outputs)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn linear_is_the_naive_product(
            rows in 1usize..9, outputs in 1usize..40, inputs in 1usize..40, threads in 1usize..4, seed in any::<u64>()
        ) {
            let mut rng = impasto_core::rng::SplitMix64::new(seed);
            let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.next_f64() as f32 - 0.5).collect() };
            let (x, w, bias) = (random(rows * inputs), random(outputs * inputs), random(outputs));
            let expected = naive(&x, &w, rows, outputs, inputs);
            let threads = if threads == 1 { Threads::One } else { Threads::Rayon(threads) };
            let plain = Linear::new(w.clone(), None, outputs, inputs).forward(&x, threads);
            let linear = Linear::new(w.clone(), Some(bias.clone()), outputs, inputs);
            let biased = linear.forward(&x, threads);
            for (at, e) in expected.into_iter().enumerate() {
                prop_assert!((f64::from(plain[at]) - e).abs() < 1e-5);
                prop_assert_eq!(biased[at], plain[at] + bias[at % outputs]);
            }
            // The backward pass multiplies by the transpose and adds to the previous contents.
            let gradient = random(rows * outputs);
            let mut back = x.clone();
            linear.backward(&gradient, &mut back, threads);
            let transposed: Vec<f32> = (0..inputs * outputs).map(|at| w[at % outputs * inputs + at / outputs]).collect();
            for (at, e) in naive(&gradient, &transposed, rows, inputs, outputs).into_iter().enumerate() {
                prop_assert!((f64::from(back[at]) - e - f64::from(x[at])).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn gram_is_the_naive_sum_for_any_number_of_threads() {
        let mut rng = impasto_core::rng::SplitMix64::new(4);
        for (count, width) in [(1, 1), (3, 5), (700, 300), (40, 513)] {
            let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.next_f64() as f32 - 0.5).collect() };
            let (rows, before) = (random(count * width), random(width * width));
            let sums = |threads| {
                let mut gram = before.clone();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| add_gram(&mut gram, &rows, width));
                (0..width).flat_map(|i| gram[i * width..=i * width + i].to_vec()).collect::<Vec<f32>>()
            };
            let one = sums(1);
            let mut at = one.iter();
            for i in 0..width {
                for j in 0..=i {
                    let dot = rows.chunks_exact(width).map(|x| f64::from(x[i]) * f64::from(x[j])).sum::<f64>();
                    assert!((f64::from(*at.next().unwrap()) - dot - f64::from(before[i * width + j])).abs() < 1e-4);
                }
            }
            assert_eq!(one, sums(3));
        }
        add_gram(&mut [], &[], 0);
    }

    #[test]
    #[should_panic(expected = "past its slice")]
    fn short_slices_are_refused() {
        let _ = Mat::new(&[0.0; 5], 2, 3, 3);
    }
}
