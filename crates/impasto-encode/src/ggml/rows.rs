//! Rounds rows to blocks.

use impasto_core::blocks::apart::{Form, Parts};
use impasto_core::{DType, Isa, at_each_isa};

use super::fit::{Block, Local, Type};
use super::levels::{AnyLevels, Even, Table};
use super::metric::{BlockMetric, Stage};
use crate::feedback::{Row, WIDTH, multiply_add};

/// Times that all blocks are chosen again, given all others.
const SWEEPS: usize = 2;

/// Rounds rows to the blocks of a type.
pub struct BlockRounder<'a> {
    dtype: DType,
    form: Form,
    levels: AnyLevels,
    metric: &'a BlockMetric,
    sweeps: usize,
}

at_each_isa! {
    fn fit_even(kind: &Type<Even>, targets: &[Row<f32>], local: Local, before: Option<&Block>) -> Block {
        kind.fit(targets, local, before)
    }
}

at_each_isa! {
    fn fit_table(kind: &Type<Table>, targets: &[Row<f32>], local: Local, before: Option<&Block>) -> Block {
        kind.fit(targets, local, before)
    }
}

impl<'a> BlockRounder<'a> {
    /// Creates one for a type; `None` if no blocks of it are written, or the metric has blocks of another width.
    pub fn new(dtype: DType, metric: &'a BlockMetric) -> Option<BlockRounder<'a>> {
        let form = Form::of(dtype).filter(|form| form.block == metric.width)?;
        let is_written = Parts::default().write(dtype, &mut vec![0; dtype.size()]);
        is_written.then_some(BlockRounder { dtype, form, levels: AnyLevels::of(dtype, &form), metric, sweeps: SWEEPS })
    }

    /// Rounds up to 16 rows of weights, row-major. Returns their blocks, row by row, and the sum of their errors.
    ///
    /// # Panics
    /// If there are more rows, or one is not complete.
    pub fn round(&self, weights: &[f32]) -> (Vec<u8>, f64) {
        let n = self.metric.n;
        let rows = weights.len() / n.max(1);
        assert!(rows <= WIDTH && rows * n == weights.len(), "up to 16 whole rows");
        let mut ordered = vec![[0.0; WIDTH]; n];
        for (row, column) in ordered.iter_mut().zip(self.metric.columns()) {
            (0..rows).for_each(|lane| row[lane] = weights[lane * n + column]);
        }
        let (blocks, error) = self.choose(&ordered);
        let (size, count) = (self.dtype.size(), self.metric.order.len());
        let mut bytes = vec![0; rows * count * size];
        for (block, &place) in blocks.iter().zip(&self.metric.order) {
            for (lane, parts) in block.parts.iter().take(rows).enumerate() {
                let written = parts.write(self.dtype, &mut bytes[(lane * count + place) * size..][..size]);
                debug_assert!(written, "{:?} is written", self.dtype);
            }
        }
        (bytes, error)
    }

    /// Chooses the blocks of rows in the order of the metric. Returns them with the sum of their errors.
    fn choose(&self, weights: &[Row<f32>]) -> (Vec<Block>, f64) {
        let (metric, width) = (self.metric, self.metric.width);
        let mut errors = vec![[0.0; WIDTH]; metric.n];
        let mut blocks: Vec<Block> = Vec::with_capacity(metric.order.len());
        for at in (0..metric.order.len()).rev() {
            let targets = self.targets(&metric.first, at, weights, &errors, (at + 1) * width);
            let block = self.fit(&targets, metric.first.local(at), None);
            note(&block, at * width, weights, &mut errors);
            blocks.push(block);
        }
        blocks.reverse();
        let mut error: f64 = blocks.iter().flat_map(|block| block.errors).map(f64::from).sum();
        // Without a covariance, nothing depends on other blocks.
        let sweeps = if metric.again.others.is_empty() { 0 } else { self.sweeps };
        for at in (0..sweeps).flat_map(|_| (0..metric.order.len()).rev()) {
            let targets = self.targets(&metric.again, at, weights, &errors, 0);
            let local = metric.again.local(at);
            let new = self.fit(&targets, local, Some(&blocks[at]));
            let before = error_of(&blocks[at], &targets, local);
            let better: Vec<usize> = (0..WIDTH).filter(|&lane| new.errors[lane] < before[lane]).collect();
            for lane in better {
                blocks[at].parts[lane] = new.parts[lane];
                blocks[at].values.iter_mut().zip(&new.values).for_each(|(to, from)| to[lane] = from[lane]);
                error -= f64::from(before[lane] - new.errors[lane]);
            }
            note(&blocks[at], at * width, weights, &mut errors);
        }
        (blocks, error)
    }

    /// Returns the targets of a block, given the errors of columns from `from` on.
    fn targets(
        &self,
        stage: &Stage,
        at: usize,
        weights: &[Row<f32>],
        errors: &[Row<f32>],
        from: usize,
    ) -> Vec<Row<f32>> {
        let (n, width) = (self.metric.n, self.metric.width);
        let mut targets = weights[at * width..(at + 1) * width].to_vec();
        if !stage.others.is_empty() && from < n {
            multiply_add(&mut targets, &stage.others[at * width * n + from..], n, &errors[from..], 0.0);
        }
        targets
    }

    fn fit(&self, targets: &[Row<f32>], local: Local, before: Option<&Block>) -> Block {
        let isa = Isa::best();
        match self.levels {
            AnyLevels::Even(levels) => fit_even(isa, &Type::new(self.dtype, self.form, levels), targets, local, before),
            AnyLevels::Table(levels) => {
                fit_table(isa, &Type::new(self.dtype, self.form, levels), targets, local, before)
            }
        }
    }
}

/// Takes note of the errors of a block.
fn note(block: &Block, from: usize, weights: &[Row<f32>], errors: &mut [Row<f32>]) {
    let columns = errors[from..].iter_mut().zip(&weights[from..]).zip(&block.values);
    for ((error, weight), value) in columns {
        *error = std::array::from_fn(|lane| weight[lane] - value[lane]);
    }
}

/// Returns the error of a block under other targets.
fn error_of(block: &Block, targets: &[Row<f32>], local: Local) -> Row<f32> {
    let n = targets.len();
    let difference = |(target, value): (&Row<f32>, &Row<f32>)| std::array::from_fn(|lane| target[lane] - value[lane]);
    let errors: Vec<Row<f32>> = targets.iter().zip(&block.values).map(difference).collect();
    let mut sums = errors.clone();
    multiply_add(&mut sums, local.coefficients, n, &errors, 0.0);
    let mut found = [0.0; WIDTH];
    for (row, weight) in sums.iter().zip(local.weights) {
        (0..WIDTH).for_each(|lane| found[lane] += weight * row[lane] * row[lane]);
    }
    found
}

#[cfg(test)]
mod tests {
    use impasto_core::blocks;
    use impasto_core::blocks::pack::WRITTEN;
    use proptest::prelude::*;

    use super::*;

    fn random(n: usize, mut state: u64) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next() + next() + next()).collect()
    }

    /// The covariance of inputs that share a few causes, some of them large.
    fn covariance(n: usize, seed: u64) -> Vec<f32> {
        let (mix, causes) = (random(n * 12, seed), 12);
        let entry = |i: usize, j: usize| -> f32 {
            let shared: f32 = (0..causes).map(|k| mix[i * causes + k] * mix[j * causes + k]).sum();
            (shared + if i == j { 0.2 } else { 0.0 }) * (1 + i % 7) as f32 * (1 + j % 7) as f32
        };
        (0..n * n).map(|x| entry(x / n, x % n)).collect()
    }

    fn error(covariance: &[f32], weights: &[f32], values: &[f32]) -> f64 {
        let n = covariance.len().isqrt();
        let mut sum = 0.0;
        for (w, v) in weights.chunks_exact(n).zip(values.chunks_exact(n)) {
            let e: Vec<f64> = w.iter().zip(v).map(|(w, v)| f64::from(w - v)).collect();
            for i in 0..n {
                sum += e[i] * (0..n).map(|j| f64::from(covariance[i.max(j) * n + i.min(j)]) * e[j]).sum::<f64>();
            }
        }
        sum
    }

    fn values(dtype: DType, bytes: &[u8], weights: usize) -> Vec<f32> {
        let mut values = vec![0.0; weights];
        assert!(blocks::dequantize(dtype, bytes, &mut values), "{dtype:?}");
        values
    }

    fn rounded(dtype: DType, metric: &BlockMetric, weights: &[f32]) -> (Vec<f32>, f64) {
        let rounder = BlockRounder::new(dtype, metric).expect("a type that is written");
        let (bytes, error) = rounder.round(weights);
        (values(dtype, &bytes, weights.len()), error)
    }

    /// The error that rounding reports is that of what a decoder finds in the blocks; it is less with feedback, and never more
    /// when blocks are chosen again.
    #[test]
    fn feedback_and_second_thoughts_lower_the_error() {
        let mut improved = 0;
        for dtype in WRITTEN {
            let (n, rows) = (512, 5);
            let (covariance, weights) = (covariance(n, 5), random(n * rows, 8));
            let width = dtype.weights();
            let plain = rounded(dtype, &BlockMetric::identity(n, width), &weights);
            assert!((plain.1 / error(&identity(n), &weights, &plain.0) - 1.0).abs() < 1e-3, "{dtype:?}");
            let metric = BlockMetric::new(covariance.clone(), n, 0.0, width).expect("definite");
            let plain = error(&covariance, &weights, &plain.0);
            let found = [0, 1, 3].map(|sweeps| {
                let rounder = BlockRounder::new(dtype, &metric).expect("a type that is written");
                let (bytes, found) = BlockRounder { sweeps, ..rounder }.round(&weights);
                let measured = error(&covariance, &weights, &values(dtype, &bytes, weights.len()));
                assert!((found / measured - 1.0).abs() < 0.01, "{dtype:?}: {found} is not {measured}");
                measured
            });
            assert!(found[0] < plain * 0.8, "{dtype:?}: {found:?} of {plain}");
            assert!(found[1] <= found[0] && found[2] <= found[1], "{dtype:?}: {found:?}");
            improved += usize::from(found[2] < found[0] * 0.98);
        }
        assert!(improved >= 6, "{improved} of {}", WRITTEN.len());
    }

    fn identity(n: usize) -> Vec<f32> {
        (0..n * n).map(|x| if x / n == x % n { 1.0 } else { 0.0 }).collect()
    }

    /// Without a covariance, the search is better than the usual way to quantize.
    #[test]
    fn scales_are_searched() {
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0] {
            let (n, rows) = (256, 16);
            let weights = random(n * rows, 3);
            let mut usual = Vec::new();
            assert!(blocks::quantize(dtype, &weights, &mut usual));
            let usual = error(&identity(n), &weights, &values(dtype, &usual, weights.len()));
            let (_, found) = rounded(dtype, &BlockMetric::identity(n, 32), &weights);
            assert!(found < usual * if dtype == DType::Q8_0 { 1.0 } else { 0.92 }, "{dtype:?}: {found} of {usual}");
        }
    }

    #[test]
    fn weights_on_the_grid_stay() {
        for dtype in WRITTEN {
            let width = dtype.weights();
            let mut block = vec![0u8; dtype.size() * 4];
            let mut parts = Parts::default();
            for (row, block) in block.chunks_exact_mut(dtype.size()).enumerate() {
                let form = Form::of(dtype).expect("a form");
                parts.integers.iter_mut().enumerate().for_each(|(i, integer)| {
                    *integer = ((i * 7 + row) % (1 << form.bits)).max(usize::from(dtype == DType::Q8_0)) as u8;
                });
                (parts.scale, parts.minimum) = (0x2C00, 0x2E00);
                (parts.scales, parts.minimums) = ([7; 16], [3; 16]);
                assert!(parts.write(dtype, block));
            }
            let weights = values(dtype, &block, 4 * width);
            let (found, error) = rounded(dtype, &BlockMetric::identity(width, width), &weights);
            let largest = weights.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
            let off = weights.iter().zip(&found).fold(0.0f32, |off, (w, v)| off.max((w - v).abs()));
            assert!(off < largest * 2e-2, "{dtype:?}: {off} of {largest}, {error}");
        }
    }

    #[test]
    fn other_types_and_widths_are_refused() {
        let metric = BlockMetric::identity(512, 256);
        for dtype in [DType::F16, DType::Mxfp4, DType::Iq2Xs, DType::Q4_0] {
            assert!(BlockRounder::new(dtype, &metric).is_none(), "{dtype:?}");
        }
        let definite = identity(64);
        assert!(BlockMetric::new(definite.clone(), 64, 0.0, 48).is_none(), "48 does not divide 64");
        assert!(
            BlockMetric::new(definite.clone(), 63, 0.0, 32).is_none()
                && BlockMetric::new(definite, 64, 0.0, 0).is_none()
        );
        assert!(BlockMetric::new(vec![0.0; 64 * 64], 64, 0.01, 32).is_none(), "not definite");
        assert!(BlockMetric::new(vec![f32::NAN; 64 * 64], 64, 0.01, 32).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever the weights, blocks decode to finite numbers.
        #[test]
        fn any_weights_are_rounded(
            kind in 0usize..12, seed: u64, rows in 1usize..=16, exponent in -44i32..15, zeros in 0usize..4,
        ) {
            let (dtype, n) = (WRITTEN[kind], 256);
            let metric = BlockMetric::new(covariance(n, seed), n, 0.01, dtype.weights()).expect("definite");
            let mut weights = random(n * rows, seed ^ 1);
            weights.iter_mut().for_each(|w| *w *= 2f32.powi(exponent));
            weights.iter_mut().step_by(3).take(zeros * 60).for_each(|w| *w = 0.0);
            let (found, error) = rounded(dtype, &metric, &weights);
            prop_assert!(found.iter().all(|v| v.is_finite()) && error.is_finite());
            let none = error_of_nothing(&covariance(n, seed), &weights);
            prop_assert!(error <= none * 1.02 + 1e-30, "{error} of {none}");
        }
    }

    fn error_of_nothing(covariance: &[f32], weights: &[f32]) -> f64 {
        let n = covariance.len().isqrt();
        let damping = 0.01 * (0..n).map(|i| f64::from(covariance[i * n + i])).sum::<f64>() / n as f64;
        let squares: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        error(covariance, weights, &vec![0.0; weights.len()]) + damping * squares
    }
}
