//! The backward pass: gradients of the loss with respect to activations. Weights are constant.
//!
//! A window runs forward once, and the residual stream before each sublayer is kept: 2 x blocks x tokens x hidden size
//! values, and nothing else. The backward pass takes the operations of each sublayer in reverse and first recomputes
//! the values that gradients depend on. This excludes the last product and the attention itself, unless a norm follows
//! them. A function `f_backward` takes the gradient of the result of `f` and returns that of its input.

mod attention;
mod distill;
mod elementwise;
mod head;
mod ops;
mod walk;

use super::layer::Watch;
use super::pass::{Over, Pass};
use super::walk::room;
use super::{Decoder, Frame, Sublayer};
use crate::network::check_tokens;
use crate::{GradientProbe, ModelError, Result};
pub use distill::Predictions;
use elementwise::rms_norm_backward;
pub use walk::WalkBack;

/// The label of each position of a window: the next token, for the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels<'a> {
    /// One label per token.
    Given(&'a [u32]),
    /// Drawn from the model's own distribution at each position; the same seed gives the same labels. The mean squared
    /// gradients are then the diagonal of the Fisher information, which labels from a text do not give (Kunstner et
    /// al., arXiv 1905.12558).
    Sampled {
        /// Seed; use a different one for every window.
        seed: u64,
    },
}

impl Labels<'_> {
    fn check(&self, tokens: usize, vocab: usize) -> Result<()> {
        let Self::Given(labels) = self else { return Ok(()) };
        if labels.len() != tokens {
            let value = format!("{} for {tokens} tokens", labels.len());
            return Err(ModelError::BadOption { name: "labels", value, rule: "must be one per token" });
        }
        match labels.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
            Some((position, &id)) => Err(ModelError::TokenId { id, position, vocab }),
            None => Ok(()),
        }
    }
}

impl Frame {
    /// Returns the gradient of the residual stream `x` after the last block.
    fn stream_gradient(&self, x: &[f32], labels: &[head::Label], probe: &mut dyn GradientProbe) -> Result<Vec<f32>> {
        let gradient = self.head_backward(&self.normed(x), labels, probe)?;
        Ok(self.before_norm(x, &gradient))
    }

    /// Turns the gradient of the input of the output projection into that of the residual stream `x` after the last block.
    fn before_norm(&self, x: &[f32], gradient: &[f32]) -> Vec<f32> {
        rms_norm_backward(x, &self.ends.norm, self.ends.eps, gradient)
    }

    /// Reports the gradient of the embeddings, given that of the residual stream before the first block.
    fn embedding_backward(&self, tokens: &[u32], mut gradient: Vec<f32>, probe: &mut dyn GradientProbe) {
        if let Some(scale) = self.ends.scale {
            gradient.iter_mut().for_each(|g| *g *= scale);
        }
        probe.embedding_gradient(tokens, &gradient, self.config.hidden_size);
    }
}

impl Decoder {
    /// Runs the window `tokens` forward and backward, from an empty context. The loss, in nats, is the sum over
    /// positions t of -ln p(label t | tokens 0..=t). `probe` receives the inputs of the linear layers and the gradients
    /// of their outputs.
    ///
    /// With [`Labels::Sampled`], the mean of a squared gradient over many windows is the diagonal F of the Fisher
    /// information: an error d in that output costs a KL divergence of about F d^2 / 2 (Martens, arXiv 1412.1193,
    /// sections 5 and 6).
    ///
    /// # Errors
    /// No tokens, a token or label outside the vocabulary, a number of labels that is not the number of tokens, more
    /// tokens than the context allows, or not enough memory; the probe has then received nothing.
    /// [`ModelError::NonFinite`] for logits that are not finite; the probe has then received inputs.
    pub fn backward(&self, tokens: &[u32], labels: Labels<'_>, probe: &mut dyn GradientProbe) -> Result<()> {
        let (frame, config) = (&self.frame, &self.frame.config);
        check_tokens(tokens, config.vocab_size, 0, self.max_context)?;
        labels.check(tokens.len(), config.vocab_size)?;
        frame.pool.install(|| {
            let watch = &mut Watch(Some(&mut *probe));
            let (kept, x) = self.kept_streams(tokens, watch)?;
            watch.show(std::slice::from_ref(frame.ends.projection()), &frame.normed(&x));
            let gradient = frame.stream_gradient(&x, &labels.rows(tokens.len()), probe)?;
            self.blocks_backward(tokens, &kept, gradient, probe);
            Ok(())
        })
    }

    fn sublayers(&self) -> impl DoubleEndedIterator<Item = &Sublayer> {
        self.blocks.iter().flat_map(|block| &block.sublayers)
    }

    /// Runs a window forward. Returns the residual streams before each sublayer, and that after the last block.
    fn kept_streams(&self, tokens: &[u32], watch: &mut Watch<'_>) -> Result<(Vec<f32>, Vec<f32>)> {
        let frame = &self.frame;
        let stream = tokens.len().saturating_mul(frame.config.hidden_size);
        let mut kept = room(stream.checked_mul(self.sublayers().count()), "residual streams of a window")?;
        let tables = frame.rope_tables(0, tokens.len(), tokens.len());
        let mut x = frame.embed(tokens);
        for sublayer in self.sublayers() {
            kept.extend_from_slice(&x);
            Pass::new(&mut x, Over::Windows(tokens.len()), &tables, frame.threads, watch).run(&sublayer.ops);
        }
        Ok((kept, x))
    }

    /// Takes the gradient of the residual stream after the last block back to the embedding. `kept` is the streams before each
    /// sublayer.
    fn blocks_backward(&self, tokens: &[u32], kept: &[f32], mut gradient: Vec<f32>, probe: &mut dyn GradientProbe) {
        let frame = &self.frame;
        let tables = frame.rope_tables(0, tokens.len(), tokens.len());
        let kept: Vec<_> = self.sublayers().zip(kept.chunks_exact(gradient.len())).collect();
        for (sublayer, x) in kept.into_iter().rev() {
            frame.sublayer_backward(sublayer, &tables, x, tokens.len(), &mut gradient, probe);
        }
        frame.embedding_backward(tokens, gradient, probe);
    }
}
