//! The backward pass: gradients of the loss by activations, weights held constant.
//!
//! A window runs forward once, and the residual stream before each half of a block is kept: 2 x blocks x tokens x hidden
//! size values, all that is kept. Backwards, each half computes again what its gradient needs, which is neither its last
//! product nor the attention itself unless a norm stands behind them. A function `f_backward` takes the gradient of
//! what `f` returns, and gives that of what it takes.

mod attention;
mod elementwise;
mod halves;
mod head;

use super::Decoder;
use super::attention::attention;
use super::elementwise::rms_norm;
use super::projection::Watch;
use crate::network::check_tokens;
use crate::{GradientProbe, ModelError, Result};
use elementwise::rms_norm_backward;

/// The next token of every position of a window, as the loss has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels<'a> {
    /// One for each token.
    Given(&'a [u32]),
    /// Drawn from the model's own distribution at each position, the same draws for the same seed. Mean squares of the
    /// gradients are then the diagonal of the Fisher information, which labels of a text do not give (Kunstner et al.,
    /// arXiv 1905.12558).
    Sampled {
        /// Seed; take another for every window.
        seed: u64,
    },
}

impl Labels<'_> {
    fn check(&self, tokens: usize, vocab: usize) -> Result<()> {
        let Self::Given(labels) = self else { return Ok(()) };
        if labels.len() != tokens {
            let value = format!("{} for {tokens} tokens", labels.len());
            return Err(ModelError::BadOption { name: "labels", value, rule: "one for each token" });
        }
        match labels.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
            Some((position, &id)) => Err(ModelError::TokenId { id, position, vocab }),
            None => Ok(()),
        }
    }
}

/// Room for `count` values, or the error that there is none.
fn room(count: Option<usize>) -> Result<Vec<f32>> {
    let bytes = count.map_or(u64::MAX, |count| (count as u64).saturating_mul(size_of::<f32>() as u64));
    let refused = ModelError::Memory { what: "residual streams of a window", bytes };
    let Some(count) = count else { return Err(refused) };
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| refused)?;
    Ok(values)
}

impl Decoder {
    /// Runs the window `tokens` from an empty context, forwards and backwards, for the loss
    /// sum over positions t of -ln p(label t | tokens 0..=t), in nats. `probe` sees the inputs of the linear layers and the
    /// gradients by their outputs.
    ///
    /// With labels [`Labels::Sampled`], the mean of a squared gradient over many windows is the diagonal F of the Fisher
    /// information: an error d in that output costs a KL divergence of about F d^2 / 2 (Martens, arXiv 1412.1193,
    /// sections 5 and 6).
    ///
    /// # Errors
    /// No tokens, a token or a label outside the vocabulary, not one label for each token, more tokens than the context
    /// takes, memory refused: the probe has then seen nothing. [`ModelError::NonFinite`] for logits that are not finite:
    /// it has then seen inputs.
    pub fn backward(&self, tokens: &[u32], labels: Labels<'_>, probe: &mut dyn GradientProbe) -> Result<()> {
        check_tokens(tokens, self.config.vocab_size, 0, self.max_context)?;
        labels.check(tokens.len(), self.config.vocab_size)?;
        let stream = tokens.len().saturating_mul(self.config.hidden_size);
        let mut kept = room(stream.checked_mul(2 * self.blocks.len()))?;
        let eps = self.config.rms_norm_eps;
        self.pool.install(|| {
            let tables = self.rope_tables(0, tokens.len(), tokens.len());
            let watch = &mut Watch(Some(&mut *probe));
            let mut x = self.embed(tokens);
            for index in 0..self.blocks.len() {
                let step = self.step(index, &tables);
                kept.extend_from_slice(&x);
                let [mut q, mut k, v] = step.project(&x, watch);
                step.place(&mut q, &mut k);
                step.close(&mut x, &attention(&q, &k, &v, 0, &step.attention), watch);
                kept.extend_from_slice(&x);
                step.mlp(&mut x, watch);
            }
            let normed = rms_norm(&x, &self.norm, eps);
            watch.show(std::slice::from_ref(self.head()), &normed);

            let gradient = self.head_backward(&normed, labels, probe)?;
            let mut gradient = rms_norm_backward(&x, &self.norm, eps, &gradient);
            for (index, block) in kept.chunks_exact(2 * stream).enumerate().rev() {
                let step = self.step(index, &tables);
                let (before_attention, before_mlp) = block.split_at(stream);
                step.mlp_backward(before_mlp, &mut gradient, probe);
                step.attention_backward(before_attention, &mut gradient, probe);
            }
            if let Some(scale) = self.config.embedding_scale() {
                gradient.iter_mut().for_each(|g| *g *= scale);
            }
            probe.embedding_gradient(tokens, &gradient, self.config.hidden_size);
            Ok(())
        })
    }
}
