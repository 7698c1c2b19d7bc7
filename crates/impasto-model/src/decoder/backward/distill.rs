//! Distillation: the divergence of a model from another one on a text, and its gradient.

use rayon::prelude::*;

use super::elementwise::softcap_slope;
use super::head::LOGITS;
use super::ops::{Values, products};
use crate::decoder::elementwise::softcap;
use crate::decoder::exp::exponentials;
use crate::decoder::layer::Watch;
use crate::decoder::pass::{Over, Pass};
use crate::decoder::{Decoder, Frame, Walk};
use crate::network::check_tokens;
use crate::{GradientProbe, ModelError, Result};
use impasto_core::Isa;

/// What another model predicts at each position of a window.
#[derive(Clone, Copy)]
pub struct Predictions<'a> {
    /// That model.
    pub frame: &'a Frame,
    /// The inputs of its output projection, tokens x hidden size.
    pub inputs: &'a [f32],
}

/// What to make of the logits of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Divergence,
    Gradient,
}

/// Returns KL(p || q) in nats, where p and q are the softmax of two rows of logits, and the sum of the exponentials of each; `p`
/// and `q` become these exponentials. `None` if a logit is not finite.
fn divergence(p: &mut [f32], q: &mut [f32], difference: &mut Vec<f32>) -> Option<(f64, [f64; 2])> {
    let greatest = |row: &[f32]| row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shift = f64::from(greatest(p)) - f64::from(greatest(q));
    difference.clear();
    difference.extend(p.iter().zip(&*q).map(|(p, q)| p - q));
    let sums = [exponentials(Isa::best(), p), exponentials(Isa::best(), q)];
    let mean = p.iter().zip(&*difference).map(|(&p, &d)| f64::from(p) * f64::from(d)).sum::<f64>() / sums[0];
    // ln p - ln q = (x - ln of the sum) - (y - ln of the sum), where exponentials are relative to the greatest logit.
    let nats = mean - shift - (sums[0].ln() - sums[1].ln());
    nats.is_finite().then_some((nats, sums))
}

impl Frame {
    /// Returns the sum over positions of the divergence of the predictions from `teacher`, given the input `x` of the output
    /// projection, tokens x hidden size; and its gradient with respect to `x`, if it is wished.
    fn distill_head(&self, x: &[f32], teacher: &Predictions<'_>, wish: Wish) -> Result<(f64, Vec<f32>)> {
        let (width, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let (other, other_width) = (teacher.frame, teacher.frame.config.hidden_size);
        if other.config.vocab_size != vocab || teacher.inputs.len() / other_width != x.len() / width {
            let value = format!("{} for {} tokens", teacher.inputs.len() / other_width, x.len() / width);
            return Err(ModelError::BadOption { name: "predictions", value, rule: "must be one per token" });
        }
        let head = self.ends.projection();
        let rows = (LOGITS / vocab).max(1);
        let mut gradient = if wish == Wish::Gradient { vec![0.0; x.len()] } else { Vec::new() };
        let mut nats = 0.0;
        let pieces = x.chunks(rows * width).zip(teacher.inputs.chunks(rows * other_width));
        for (piece, (x, inputs)) in pieces.enumerate() {
            let mut logits = head.linear.forward(x, self.threads);
            let mut targets = other.ends.projection().linear.forward(inputs, self.threads);
            let each = logits.par_chunks_mut(vocab).zip(targets.par_chunks_mut(vocab)).enumerate();
            let row = |difference: &mut Vec<f32>, (at, (q, p)): (usize, (&mut [f32], &mut [f32]))| {
                let refused = || ModelError::NonFinite(format!(" at position {}", piece * rows + at));
                if let Some(cap) = other.ends.softcap {
                    softcap(p, cap);
                }
                let slopes: Option<Vec<f32>> = self.ends.softcap.map(|cap| {
                    softcap(q, cap);
                    q.iter().map(|&x| softcap_slope(x, cap)).collect()
                });
                let (nats, [of_p, of_q]) = divergence(p, q, difference).ok_or_else(refused)?;
                if wish == Wish::Gradient {
                    let (of_p, of_q) = ((1.0 / of_p) as f32, (1.0 / of_q) as f32);
                    q.iter_mut().zip(&*p).for_each(|(q, p)| *q = *q * of_q - p * of_p);
                    let slopes = slopes.iter().flatten();
                    q.iter_mut().zip(slopes).for_each(|(q, slope)| *q *= slope);
                }
                Ok(nats)
            };
            let of_rows: Result<Vec<f64>> = each.map_init(Vec::new, row).collect();
            nats += of_rows?.iter().sum::<f64>();
            if wish == Wish::Gradient {
                head.linear.backward(&logits, &mut gradient[piece * rows * width..][..x.len()], self.threads);
            }
        }
        Ok((nats, gradient))
    }
}

impl Decoder {
    /// Runs the window `tokens` forward, from an empty context. Returns the sum over positions of KL(teacher || model), in nats.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, predictions of another number of tokens or vocabulary, more tokens than the
    /// context allows, or logits that are not finite ([`ModelError::NonFinite`]).
    pub fn divergence(&self, tokens: &[u32], teacher: &Predictions<'_>) -> Result<f64> {
        let (frame, window) = (&self.frame, tokens.len());
        check_tokens(tokens, frame.config.vocab_size, 0, self.max_context)?;
        frame.pool.install(|| {
            let tables = frame.rope_tables(0, window, window);
            let mut x = frame.embed(tokens);
            for sublayer in self.sublayers() {
                Pass::new(&mut x, Over::Windows(window), &tables, frame.threads, &mut Watch(None)).run(&sublayer.ops);
            }
            Ok(frame.distill_head(&frame.normed(&x), teacher, Wish::Divergence)?.0)
        })
    }

    /// Runs the window `tokens` forward and backward, from an empty context. The loss, in nats, is the sum over positions of
    /// KL(teacher || model), which is returned. `probe` receives gradients as in [`Decoder::backward`], but no inputs, and those
    /// of rows and norms. All values of the window are kept in memory ([`Sublayer::values_per_token`](crate::graph::Sublayer::values_per_token)).
    ///
    /// # Errors
    /// Those of [`Decoder::divergence`].
    pub fn distill(&self, tokens: &[u32], teacher: &Predictions<'_>, probe: &mut dyn GradientProbe) -> Result<f64> {
        let frame = &self.frame;
        check_tokens(tokens, frame.config.vocab_size, 0, self.max_context)?;
        frame.pool.install(|| {
            let (window, tables) = (tokens.len(), frame.rope_tables(0, tokens.len(), tokens.len()));
            let mut x = frame.embed(tokens);
            let mut kept = Vec::new();
            for sublayer in self.sublayers() {
                let (stream, mut watch) = (x.clone(), Watch(None));
                let mut pass = Pass::new(&mut x, Over::Windows(window), &tables, frame.threads, &mut watch).keeping();
                pass.run(&sublayer.ops);
                kept.push((sublayer, Values { stream, others: pass.into_values() }));
            }
            let normed = frame.normed(&x);
            let (nats, gradient) = frame.distill_head(&normed, teacher, Wish::Gradient)?;
            let mut norm = self.sublayers().map(|sublayer| sublayer.norms().count()).sum::<usize>();
            probe.norm_gradient(norm, &products(&normed, &gradient, frame.ends.norm.len()));
            let mut gradient = frame.before_norm(&x, &gradient);
            while let Some((sublayer, values)) = kept.pop() {
                norm -= sublayer.norms().count();
                frame.sublayer_gradients(sublayer, &tables, &values, window, &mut gradient, probe, Some(norm));
            }
            frame.embedding_backward(tokens, gradient, probe);
            Ok(nats)
        })
    }
}

impl Walk {
    /// Returns, for each window, the sum over positions of KL(teacher || model), in nats. Call it after the last block.
    ///
    /// # Errors
    /// Predictions of another number of tokens or vocabulary, or logits that are not finite ([`ModelError::NonFinite`]).
    pub fn divergences(&self, frame: &Frame, teacher: &Predictions<'_>) -> Result<Vec<f64>> {
        let (size, other) = (self.window * frame.config.hidden_size, self.window * teacher.frame.config.hidden_size);
        if self.stream().len() / size != teacher.inputs.len() / other {
            let value = format!("{} windows for {}", teacher.inputs.len() / other, self.stream().len() / size);
            return Err(ModelError::BadOption { name: "predictions", value, rule: "must be one per token" });
        }
        let windows = self.stream().chunks(size).zip(teacher.inputs.chunks(other));
        let divergence = |(x, inputs)| {
            let teacher = Predictions { frame: teacher.frame, inputs };
            Ok(frame.distill_head(&frame.normed(x), &teacher, Wish::Divergence)?.0)
        };
        frame.pool.install(|| windows.map(divergence).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_rows() {
        let (p, q) = ([1.0f32, -2.0, 300.0, 299.0], [5.0f32, 2.0, 7.0, 6.5]);
        let softmax = |row: &[f32]| {
            let exps: Vec<f64> = row.iter().map(|&x| (f64::from(x) - 300.0).exp()).collect();
            let sum: f64 = exps.iter().sum();
            exps.into_iter().map(|x| x / sum).collect::<Vec<f64>>()
        };
        let expected: f64 =
            softmax(&p).iter().zip(softmax(&q)).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum();
        let (nats, sums) = divergence(&mut p.clone(), &mut q.clone(), &mut Vec::new()).unwrap();
        assert!((nats - expected).abs() < 1e-6, "{nats} {expected}");
        assert!((sums[0] - 1.0 - (-1.0f64).exp()).abs() < 1e-6);
        let (same, _) = divergence(&mut q.clone(), &mut q.clone(), &mut Vec::new()).unwrap();
        assert_eq!(same, 0.0);
        assert!(divergence(&mut [f32::NAN, 0.0], &mut [0.0, 0.0], &mut Vec::new()).is_none());
        assert!(divergence(&mut [1.0, 0.0], &mut [f32::INFINITY, 0.0], &mut Vec::new()).is_none());
    }
}
