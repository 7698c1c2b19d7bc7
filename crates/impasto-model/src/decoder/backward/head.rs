//! Backward pass of the loss and the output projection.

use rayon::prelude::*;

use super::Labels;
use super::elementwise::softcap_slope;
use crate::decoder::Frame;
use crate::decoder::elementwise::softcap;
use crate::decoder::exp::exponentials;
use crate::{GradientProbe, ModelError, Result};
use impasto_core::Isa;
use impasto_core::rng::SplitMix64;

/// Largest number of logits in memory at once, unless one row is longer: 64 MiB, and as much again for their Fisher
/// information.
pub(super) const LOGITS: usize = 1 << 24;

/// The source of a position's label.
#[derive(Clone, Copy)]
pub(super) enum Label {
    Given(u32),
    /// A point in [0, 1) at which the cumulative distribution of the model is inverted.
    At(f64),
}

impl Labels<'_> {
    /// Returns one label for each of `tokens` positions.
    pub(super) fn rows(&self, tokens: usize) -> Vec<Label> {
        match self {
            Self::Given(labels) => labels.iter().map(|&id| Label::Given(id)).collect(),
            Self::Sampled { seed } => {
                let mut rng = SplitMix64::new(*seed);
                (0..tokens).map(|_| Label::At(rng.next_f64())).collect()
            }
        }
    }
}

/// Applies softmax to one row in place and returns the row's label; `None` if the logits are not finite.
fn predict(row: &mut [f32], label: Label) -> Option<usize> {
    let sum = exponentials(Isa::best(), row);
    if !sum.is_finite() {
        return None;
    }
    let label = match label {
        Label::Given(id) => id as usize,
        Label::At(at) => {
            let mut reached = 0.0;
            let passed = row.iter().position(|&x| {
                reached += f64::from(x);
                reached > at * sum
            });
            // With rounding, the sum may end just below the target.
            passed.or_else(|| row.iter().rposition(|x| *x > 0.0))?
        }
    };
    let scale = (1.0 / sum) as f32;
    row.iter_mut().for_each(|x| *x *= scale);
    Some(label)
}

/// Turns a row of uncapped logits into the gradient of the loss with respect to them, and fills `fisher`.
fn row_backward(row: &mut [f32], fisher: &mut [f32], cap: Option<f32>, label: Label) -> Option<()> {
    let slopes = &mut *fisher;
    match cap {
        None => slopes.fill(1.0),
        Some(cap) => {
            softcap(row, cap);
            slopes.iter_mut().zip(row.iter()).for_each(|(slope, &x)| *slope = softcap_slope(x, cap));
        }
    }
    let label = predict(row, label)?;
    let own = *slopes.get(label)?;
    for (x, f) in row.iter_mut().zip(fisher) {
        let (p, slope) = (*x, *f);
        *x = p * slope;
        *f = p * (1.0 - p) * (slope * slope);
    }
    row[label] -= own;
    Some(())
}

impl Frame {
    /// Returns the gradient of the input `x` of the output projection, tokens x hidden size, given a label for each
    /// token.
    pub(super) fn head_backward(&self, x: &[f32], labels: &[Label], probe: &mut dyn GradientProbe) -> Result<Vec<f32>> {
        let (width, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let (head, cap) = (self.ends.projection(), self.ends.softcap);
        let rows = (LOGITS / vocab).max(1);
        let mut gradient = vec![0.0; x.len()];
        let mut fisher = Vec::new();
        let pieces = gradient.chunks_mut(rows * width).zip(x.chunks(rows * width)).zip(labels.chunks(rows));
        for (piece, ((gradient, x), labels)) in pieces.enumerate() {
            let mut logits = head.linear.forward(x, self.threads);
            fisher.resize(logits.len(), 0.0);
            let each = logits.par_chunks_mut(vocab).zip(fisher.par_chunks_mut(vocab)).zip(labels).enumerate();
            each.try_for_each(|(at, ((row, fisher), &label))| {
                let position = || format!(" at position {}", piece * rows + at);
                row_backward(row, fisher, cap, label).ok_or_else(|| ModelError::NonFinite(position()))
            })?;
            probe.head(&head.name, &fisher, vocab);
            head.linear.backward(&logits, gradient, self.threads);
        }
        Ok(gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_distribution() {
        let p = [0.0f32, 0.3, 0.05, 0.0, 0.25, 0.4, 0.0];
        let logits = p.map(|p| p.ln() + 50.0);
        const DRAWS: usize = 20_000;
        let mut counts = [0usize; 7];
        for label in (Labels::Sampled { seed: 17 }).rows(DRAWS) {
            let mut row = logits;
            counts[predict(&mut row, label).unwrap()] += 1;
            assert!(row.iter().zip(p).all(|(got, p)| (got - p).abs() < 1e-6));
        }
        let chi_square: f64 = (counts.iter().zip(p))
            .filter(|(_, p)| *p > 0.0)
            .map(|(&n, p)| (n as f64 - f64::from(p) * DRAWS as f64).powi(2) / (f64::from(p) * DRAWS as f64))
            .sum();
        // 99.9th percentile for three degrees of freedom.
        assert!(chi_square < 16.27, "{chi_square} {counts:?}");
        assert_eq!((counts[0], counts[3], counts[6]), (0, 0, 0), "impossible tokens");
    }

    #[test]
    fn the_ends_of_the_line() {
        let label = |at| predict(&mut [f32::NEG_INFINITY, 0.0, 0.0, f32::NEG_INFINITY], Label::At(at));
        assert_eq!((label(0.0), label(0.5), label(1.0 - f64::EPSILON / 2.0)), (Some(1), Some(2), Some(2)));
        assert_eq!(label(1.0), Some(2), "the last that is possible");
        assert_eq!(predict(&mut [f32::NAN, 0.0], Label::At(0.0)), None);
        assert_eq!(predict(&mut [f32::INFINITY, 0.0], Label::At(0.0)), None);
        assert_eq!(predict(&mut [f32::NEG_INFINITY; 2], Label::At(0.0)), None);
    }

    #[test]
    fn fisher_is_the_mean_square_over_labels() {
        let logits = [1.0f32, -0.5, 2.0, 0.25];
        for cap in [None, Some(1.5)] {
            let (mut mean, mut squares) = ([0.0f32; 4], [0.0f32; 4]);
            let mut fisher = [0.0; 4];
            let mut p = logits;
            if let Some(cap) = cap {
                softcap(&mut p, cap);
            }
            predict(&mut p, Label::Given(0)).unwrap();
            for label in 0..4 {
                let mut row = logits;
                row_backward(&mut row, &mut fisher, cap, Label::Given(label)).unwrap();
                for at in 0..4 {
                    mean[at] += p[label as usize] * row[at];
                    squares[at] += p[label as usize] * row[at] * row[at];
                }
            }
            for at in 0..4 {
                assert!(mean[at].abs() < 1e-6 && (squares[at] - fisher[at]).abs() < 1e-6);
            }
        }
    }
}
