//! Perplexity.

use impasto_model::{CausalLm, Want};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::logsoftmax::{log_sum_exp, nll};
use super::{Estimate, EvalOptions, EvalText, OnProgress, Progress, Result, chunk, pool, scored, shared_context};

/// Perplexity of a model on a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood of a token.
    pub perplexity: Estimate,
    /// Mean negative log-likelihood of a token, in nats.
    pub nll: Estimate,
    /// Number of tokens scored.
    pub tokens: usize,
    /// Number of windows scored.
    pub windows: usize,
    /// Number of tokens in a window.
    pub ctx: usize,
}

impl Perplexity {
    pub(super) fn of(nlls: &[f64], windows: usize, ctx: usize) -> Self {
        let nll = Estimate::mean(nlls);
        Self { perplexity: nll.exp(), nll, tokens: nlls.len(), windows, ctx }
    }
}

/// Measures the perplexity of `model` on `text`.
///
/// # Errors
/// A text shorter than a window, a window longer than the model's context, options out of range, tokens outside the
/// vocabulary, or logits that are not finite.
pub fn perplexity(
    model: &dyn CausalLm,
    text: &EvalText,
    options: &EvalOptions,
    on_progress: OnProgress<'_>,
) -> Result<Perplexity> {
    let windows = text.windows(options, shared_context(&[model]))?;
    let positions = scored(options, text.prefix.len());
    let pool = pool(options)?;
    let mut cache = model.new_cache(options.ctx)?;
    let mut nlls: Vec<f64> = Vec::with_capacity(windows.len() * positions.len());
    for (index, window) in windows.iter().enumerate() {
        cache.clear();
        // The last token is only a target.
        let (inputs, targets) = (&window[..window.len() - 1], &window[1..]);
        let want = Want::From(positions.start);
        model.for_each_logits_chunk(&mut cache, inputs, want, chunk(model.vocab_size()), &mut |first, logits| {
            let rows = logits.par_chunks_exact(model.vocab_size()).zip(&targets[first..]);
            let score = |(row, &target): (&[f32], &u32)| nll(row, target, log_sum_exp(row)?);
            let scores: impasto_model::Result<Vec<f64>> = pool.install(|| rows.map(score).collect());
            nlls.extend(scores?);
            Ok(())
        })?;
        on_progress(Progress {
            done: index + 1,
            windows: windows.len(),
            perplexity: Estimate::mean(&nlls).exp().value,
            kld: None,
        });
    }
    Ok(Perplexity::of(&nlls, windows.len(), options.ctx))
}
