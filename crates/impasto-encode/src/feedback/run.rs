//! Rounds rows with error feedback, column by column.

use std::ops::Range;

use super::covariance::{Feedback, side_by_side};
use super::multiply::{Row, WIDTH, multiply_add};
use super::prune::Pruner;

/// Columns that are rounded before their errors are propagated to all earlier columns in one product.
pub(crate) const BLOCK: usize = 64;

/// Turns a target into an integer, and the integer into a weight.
pub trait Rounding: Sync {
    /// Rounds the targets of column `column` in the rows from `row` on. Writes the integers to `z`, and to `weights`
    /// what a decoder makes of them.
    fn round(&self, column: usize, row: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>);
}

/// The rounding of up to [`WIDTH`] rows in progress. Columns are rounded from last to first; the error of each column
/// corrects the targets of the columns before it.
///
/// A run can stop at any column. A [`Checkpoint`] taken there restores that state, so several rules or steps can be
/// tried on a block of columns and the best one kept. The result is bit for bit the same wherever the run stops.
///
/// ```
/// use impasto_encode::feedback::{Feedback, Rounding, RoundingRun, Row};
///
/// /// Rounds to the nearest multiple of a step.
/// struct Nearest(f32);
///
/// impl Rounding for Nearest {
///     fn round(&self, _column: usize, _row: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>) {
///         for lane in 0..z.len() {
///             z[lane] = (targets[lane] / self.0).round_ties_even() as i32;
///             weights[lane] = z[lane] as f32 * self.0;
///         }
///     }
/// }
///
/// // Two correlated inputs: one weight compensates for the error of the other.
/// let feedback = Feedback::new(&[1.0, 0.9, 0.9, 1.0], 2, 0.0).expect("positive definite");
/// let mut run = RoundingRun::new(&feedback, &[0.3, 0.4], 0, 1.0).expect("one row of two weights");
///
/// run.round_to(1, &Nearest(1.0)); // the last column
/// let checkpoint = run.checkpoint();
/// run.round_to(0, &Nearest(1.0));
/// assert_eq!(run.integers(), [1, 0]); // 0.3 + 0.9 * 0.4 is nearer to 1
///
/// run.roll_back(&checkpoint); // try a finer step for the first column
/// run.round_to(0, &Nearest(0.5));
/// assert_eq!(run.integers(), [1, 0]);
/// ```
pub struct RoundingRun<'a> {
    feedback: &'a Feedback,
    /// Index of the first row.
    first: usize,
    /// Number of rows.
    rows: usize,
    /// Share of each error that the columns before it compensate.
    kept: f32,
    pruner: Option<&'a dyn Pruner>,
    weights: Vec<Row<f32>>,
    /// Weights, corrected for the errors of all completed blocks.
    targets: Vec<Row<f32>>,
    z: Vec<Row<i32>>,
    /// Rows whose weight becomes 0, one bit each, in the columns of the groups that were chosen.
    pruned: Vec<u16>,
    /// Errors of the current block, whose first column is `start`: known from column `next` on, and not yet propagated
    /// to earlier blocks.
    errors: [Row<f32>; BLOCK],
    /// Columns before this one are not yet rounded.
    next: usize,
}

/// The state of a [`RoundingRun`]: the integers so far, and the errors not yet propagated.
#[derive(Clone)]
pub struct Checkpoint {
    /// Targets of the columns that are not yet rounded; `z` has the integers of the others.
    targets: Vec<Row<f32>>,
    z: Vec<Row<i32>>,
    pruned: Vec<u16>,
    errors: [Row<f32>; BLOCK],
}

impl<'a> RoundingRun<'a> {
    /// Starts a run at the last column.
    ///
    /// `weights` are up to [`WIDTH`] rows of [`Feedback::inputs`] weights, row-major. `first` is the index of the first
    /// of these rows, which is passed to the [`Rounding`]. `kept` is the share of each error that the columns before it
    /// compensate; 1 for all of it. Returns `None` if `weights` is not a whole number of rows or more than [`WIDTH`]
    /// rows.
    pub fn new(feedback: &'a Feedback, weights: &[f32], first: usize, kept: f32) -> Option<Self> {
        let n = feedback.n;
        let rows = weights.len() / n.max(1);
        if rows > WIDTH || rows * n != weights.len() {
            return None;
        }
        let targets = side_by_side(weights, n);
        Some(RoundingRun {
            feedback,
            first,
            rows,
            kept,
            pruner: None,
            weights: targets.clone(),
            targets,
            z: vec![[0; WIDTH]; n],
            pruned: vec![0; n],
            errors: [[0.0; WIDTH]; BLOCK],
            next: n,
        })
    }

    /// Makes the weights 0 that a pruner chooses. Their errors are those of any rounding: earlier columns compensate them.
    pub fn pruned_by(self, pruner: Option<&'a dyn Pruner>) -> Self {
        RoundingRun { pruner, ..self }
    }

    /// Lets the pruner choose among the weights of the group that ends at column `last`, if one does. Columns up to `end`
    /// belong to the current block.
    fn prune(&mut self, last: usize, end: usize) {
        let Some(pruner) = self.pruner else { return };
        let Feedback { n, coefficients, .. } = self.feedback;
        let first = pruner.group(last).min(last);
        if last + 1 < *n && pruner.group(last + 1) == first {
            return;
        }
        let mut targets = self.targets[first..=last].to_vec();
        if !coefficients.is_empty() {
            let start = end.saturating_sub(BLOCK);
            let errors = &self.errors[last + 1 - start..end - start];
            multiply_add(&mut targets, &coefficients[first * n + last + 1..], *n, errors, 0.0);
        }
        let rows = self.first..self.first + self.rows;
        let weights = &self.weights[first..=last];
        pruner.choose(rows, first..last + 1, weights, &targets, &mut self.pruned[first..=last]);
    }

    /// Returns the number of columns that are not yet rounded, which are the first ones.
    pub fn remaining(&self) -> usize {
        self.next
    }

    /// Rounds the remaining columns, from last to first, down to and including `column`.
    pub fn round_to(&mut self, column: usize, rounding: &impl Rounding) {
        while self.next > column {
            let (mut z, mut weights) = ([0; WIDTH], [0.0; WIDTH]);
            rounding.round(self.next - 1, self.first, &self.target(), &mut z, &mut weights);
            self.settle(z, weights);
        }
    }

    /// Returns the block of the next column. Blocks are counted from the last column, wherever a run stops.
    fn block(&self) -> Range<usize> {
        let n = self.feedback.n;
        let end = n - (n - self.next) / BLOCK * BLOCK;
        end.saturating_sub(BLOCK)..end
    }

    /// Returns the targets of the next column: the last one that is not yet rounded.
    ///
    /// # Panics
    /// If all columns are rounded.
    pub(super) fn target(&mut self) -> Row<f32> {
        let (Feedback { n, coefficients, .. }, i) = (self.feedback, self.next - 1);
        let Range { start, end } = self.block();
        self.prune(i, end);
        let mut target = [self.targets[i]];
        if !coefficients.is_empty() {
            // Errors of the columns of this block that are already rounded.
            let row = &coefficients[i * n + i + 1..i * n + end];
            multiply_add(&mut target, row, *n, &self.errors[i + 1 - start..end - start], 0.0);
        }
        target[0]
    }

    /// Takes the integers of the next column, and the weights that a decoder makes of them.
    ///
    /// # Panics
    /// If all columns are rounded.
    pub(super) fn settle(&mut self, mut z: Row<i32>, mut v: Row<f32>) {
        let (Feedback { n, coefficients, .. }, i) = (self.feedback, self.next - 1);
        let Range { start, end } = self.block();
        for lane in (0..WIDTH).filter(|lane| self.pruned[i] >> lane & 1 == 1) {
            (z[lane], v[lane]) = (0, 0.0);
        }
        let weights = &self.weights[i];
        self.errors[i - start] = std::array::from_fn(|lane| (weights[lane] - v[lane]) * self.kept);
        (self.z[i], self.next) = (z, i);
        if !coefficients.is_empty() && i == start && start > 0 {
            let coefficients = &coefficients[start..];
            multiply_add(&mut self.targets[..start], coefficients, *n, &self.errors[..end - start], 0.0);
        }
    }

    /// Returns the state of the run. It takes 66 bytes per column, and 4 KB.
    pub fn checkpoint(&self) -> Checkpoint {
        let (targets, z) = (self.targets[..self.next].to_vec(), self.z[self.next..].to_vec());
        Checkpoint { targets, z, pruned: self.pruned.clone(), errors: self.errors }
    }

    /// Returns to the state of a checkpoint, earlier or later, of a run over the same weights. Returns false and
    /// changes nothing if the checkpoint has a different number of columns.
    pub fn roll_back(&mut self, to: &Checkpoint) -> bool {
        let next = to.targets.len();
        if next + to.z.len() != self.feedback.n {
            return false;
        }
        self.targets[..next].copy_from_slice(&to.targets);
        self.z[next..].copy_from_slice(&to.z);
        self.pruned.copy_from_slice(&to.pruned);
        (self.errors, self.next) = (to.errors, next);
        true
    }

    /// Returns the integers, row-major; columns that are not yet rounded are 0.
    pub fn integers(&self) -> Vec<i32> {
        let mut out = vec![0; self.rows * self.feedback.n];
        self.write(&mut out);
        out
    }

    /// Writes the integers of the rounded columns to `out`, row-major.
    pub(super) fn write(&self, out: &mut [i32]) {
        for (lane, row) in out.chunks_exact_mut(self.feedback.n.max(1)).take(self.rows).enumerate() {
            row.iter_mut().zip(&self.z).skip(self.next).for_each(|(out, z)| *out = z[lane]);
        }
    }
}

/// Rounds up to [`WIDTH`] rows at once.
///
/// The first arguments are those of [`RoundingRun::new`] and [`RoundingRun::pruned_by`]. `out` receives an integer for each
/// weight, row-major.
///
/// # Panics
/// If there are more than [`WIDTH`] rows, an incomplete row, or if `out` has another length than `weights`.
pub(crate) fn round_rows(
    feedback: &Feedback,
    weights: &[f32],
    first: usize,
    kept: f32,
    rounding: &impl Rounding,
    pruner: Option<&dyn Pruner>,
    out: &mut [i32],
) {
    let run = RoundingRun::new(feedback, weights, first, kept).filter(|_| weights.len() == out.len());
    let mut run = run.expect("at most 16 whole rows, and room for as many integers").pruned_by(pruner);
    run.round_to(0, rounding);
    run.write(out);
}

#[cfg(test)]
mod tests {
    use super::super::cholesky;
    use super::*;
    use proptest::prelude::*;

    /// Rounds to the nearest multiple of each column's step.
    struct Nearest(Vec<f32>);

    impl Rounding for Nearest {
        fn round(&self, column: usize, _: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>) {
            for lane in 0..WIDTH {
                z[lane] = (targets[lane] / self.0[column]).round_ties_even() as i32;
                weights[lane] = z[lane] as f32 * self.0[column];
            }
        }
    }

    /// Groups of three columns, of each of which the least target becomes 0.
    struct LeastOfThree;

    impl Pruner for LeastOfThree {
        fn group(&self, column: usize) -> usize {
            column / 3 * 3
        }

        fn choose(&self, _: Range<usize>, _: Range<usize>, _: &[Row<f32>], targets: &[Row<f32>], pruned: &mut [u16]) {
            pruned.fill(0);
            for lane in 0..WIDTH {
                let least =
                    (0..targets.len()).min_by(|&a, &b| targets[a][lane].abs().total_cmp(&targets[b][lane].abs()));
                least.into_iter().for_each(|least| pruned[least] |= 1 << lane);
            }
        }
    }

    /// A group is chosen by targets that are corrected for all columns after it, wherever blocks end.
    #[test]
    fn pruners_see_the_targets_that_are_rounded() {
        for n in [1, 2, 3, 64, 67, 130] {
            let feedback = Feedback::new(&covariance(n), n, 0.01).expect("definite");
            let w = random(2 * n, 4);
            let mut z = vec![0; w.len()];
            round_rows(&feedback, &w, 0, 1.0, &Nearest(vec![1e-6; n]), Some(&LeastOfThree), &mut z);
            for (w, z) in w.chunks_exact(n).zip(z.chunks_exact(n)) {
                // By definition, in another order of sums.
                let (mut errors, mut chosen) = (vec![0.0; n], 0);
                let target = |errors: &[f64], i: usize, after: usize| {
                    let c = |j: usize| f64::from(feedback.coefficients[i * n + j]);
                    f64::from(w[i]) + (after..n).map(|j| errors[j] * c(j)).sum::<f64>()
                };
                for i in (0..n).rev() {
                    if i == n - 1 || i % 3 == 2 {
                        let size = |&j: &usize| target(&errors, j, i + 1).abs();
                        chosen = (i / 3 * 3..=i).min_by(|a, b| size(a).total_cmp(&size(b))).expect("a column");
                    }
                    let v = if i == chosen { 0.0 } else { target(&errors, i, i + 1) };
                    assert_eq!(z[i] == 0, i == chosen, "{n}: {i}");
                    assert!((f64::from(z[i]) * 1e-6 - v).abs() < 1e-4, "{n}: {i}");
                    errors[i] = f64::from(w[i]) - v;
                }
            }
        }
    }

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    /// `x x^T` of correlated inputs.
    fn covariance(n: usize) -> Vec<f32> {
        let mix = random(n * n, 3);
        let entry = |i: usize, j: usize| (0..n).map(|k| mix[i * n + k] * mix[j * n + k]).sum::<f32>();
        (0..n * n).map(|x| entry(x / n, x % n)).collect()
    }

    /// The purpose of feedback: every entry of `(W - V) L` is at most half of the common step, so the error is as
    /// predicted, whatever the covariance. Without feedback it would be much larger.
    #[test]
    fn every_column_errs_by_half_a_step_at_most() {
        for n in [1, 5, 63, 64, 65, 150] {
            let h = covariance(n);
            let damping = 0.01;
            let feedback = Feedback::new(&h, n, damping).expect("definite");
            let c = 0.05f64;
            let steps: Vec<f32> = feedback.diagonal().iter().map(|l| (c / l) as f32).collect();
            let rows = 13;
            let w = random(rows * n, 8);
            let mut z = vec![0; rows * n];
            round_rows(&feedback, &w, 0, 1.0, &Nearest(steps.clone()), None, &mut z);
            let mut l: Vec<f64> = h.iter().map(|&x| f64::from(x)).collect();
            let mean = (0..n).map(|i| l[i * n + i]).sum::<f64>() / n as f64;
            (0..n).for_each(|i| l[i * n + i] += damping * mean);
            assert!(cholesky(&mut l, n));
            let error: Vec<f32> = (0..rows * n).map(|k| w[k] - z[k] as f32 * steps[k % n]).collect();
            let mut square = 0.0;
            for error in error.chunks_exact(n) {
                for i in 0..n {
                    let y: f64 = (i..n).map(|j| f64::from(error[j]) * l[j * n + i]).sum();
                    assert!(y.abs() <= c / 2.0 * 1.001, "{n}: column {i} errs by {y}");
                    square += y * y;
                }
            }
            assert!((feedback.square(&error) / square - 1.0).abs() < 1e-3, "{n}: {square}");
        }
    }

    #[test]
    fn without_covariance_it_is_rounding() {
        let w = random(16 * 70, 5);
        let mut z = vec![0; w.len()];
        round_rows(&Feedback::none(70), &w, 0, 1.0, &Nearest(vec![0.01; 70]), None, &mut z);
        assert!(w.iter().zip(&z).all(|(w, &z)| z == (w / 0.01).round_ties_even() as i32));
    }

    #[test]
    fn a_covariance_that_is_not_definite_is_refused() {
        assert!(Feedback::new(&[0.0; 4], 2, 0.01).is_none());
        assert!(Feedback::new(&[f32::NAN], 1, 0.01).is_none());
        assert!(Feedback::new(&[1.0, 0.0, 3.0, 1.0], 2, 0.0).is_none());
    }

    proptest! {
        /// Stops, trials with another rule, and rollbacks do not change a bit.
        #[test]
        fn roll_backs_leave_no_trace(
            n in 1usize..200, prunes: bool, rows in 1usize..=16, stops in prop::collection::vec((0usize..200, 0usize..200, any::<bool>()), 0..8), kept in 0.0f32..1.0,
        ) {
            let feedback = Feedback::new(&covariance(n), n, 0.01).expect("definite");
            let w = random(rows * n, 21);
            let (rule, other) = (Nearest(vec![0.07; n]), Nearest(vec![0.011; n]));
            let pruner = prunes.then_some(&LeastOfThree as &dyn Pruner);
            let mut straight = vec![0; w.len()];
            round_rows(&feedback, &w, 0, kept, &rule, pruner, &mut straight);
            let mut run = RoundingRun::new(&feedback, &w, 0, kept).expect("rows").pruned_by(pruner);
            let mut older = run.checkpoint();
            for (column, trial, from_older) in stops {
                run.round_to(column, &rule);
                let here = run.checkpoint();
                run.round_to(trial, &other);
                if from_older {
                    prop_assert!(run.roll_back(&older));
                    run.round_to(trial, &other);
                }
                prop_assert!(run.roll_back(&here));
                prop_assert_eq!(run.remaining(), here.targets.len());
                older = here;
            }
            run.round_to(0, &rule);
            prop_assert_eq!(run.integers(), straight);
        }
    }

    #[test]
    fn other_sizes_are_refused() {
        let (three, four) = (Feedback::none(3), Feedback::none(4));
        assert!(RoundingRun::new(&three, &[0.0; 4], 0, 1.0).is_none(), "no whole row");
        assert!(RoundingRun::new(&three, &[0.0; 51], 0, 1.0).is_none(), "17 rows");
        let checkpoint = RoundingRun::new(&four, &[0.0; 4], 0, 1.0).expect("a row").checkpoint();
        assert!(!RoundingRun::new(&three, &[0.0; 3], 0, 1.0).expect("a row").roll_back(&checkpoint));
        assert!(RoundingRun::new(&Feedback::none(0), &[], 0, 1.0).expect("no rows").integers().is_empty());
    }
}
