//! KL divergence of a model from a reference, token by token.

use impasto_model::sampling::argmax;
use impasto_model::{CausalLm, Want};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::logsoftmax::{divergence, log_sum_exp, nll};
use super::ppl::Perplexity;
use super::stats::quantile;
use super::{
    Estimate, EvalError, EvalOptions, EvalText, OnProgress, Progress, Result, chunk, pool, scored, shared_context,
};

/// The difference between a model and a reference on a text. Divergences are KL(reference || model) of the next-token
/// distributions, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kld {
    /// Mean divergence per token.
    pub mean: Estimate,
    /// Median divergence.
    pub median: f64,
    /// 90th percentile of the divergence.
    pub q90: f64,
    /// 99th percentile of the divergence.
    pub q99: f64,
    /// 99.9th percentile of the divergence.
    pub q999: f64,
    /// Largest divergence.
    pub max: f64,
    /// Share of positions where both models have the same most likely token, from 0 to 1, with its binomial error.
    pub same_top: Estimate,
    /// Mean of ln p(reference) - ln p(model) of the true token: the difference of the log perplexities. The error is
    /// that of the paired difference, which is far smaller than that of either perplexity.
    pub delta_ln_ppl: Estimate,
    /// Perplexity of the reference.
    pub reference: Perplexity,
    /// Perplexity of the model.
    pub model: Perplexity,
}

/// The scores of one position.
struct Scores {
    kld: f64,
    same_top: bool,
    reference_nll: f64,
    model_nll: f64,
}

fn score(reference: &[f32], model: &[f32], target: u32) -> impasto_model::Result<Scores> {
    let (r, m) = (log_sum_exp(reference)?, log_sum_exp(model)?);
    Ok(Scores {
        kld: divergence(reference, r, model, m),
        same_top: argmax(reference) == argmax(model),
        reference_nll: nll(reference, target, r)?,
        model_nll: nll(model, target, m)?,
    })
}

/// Returns KL(reference || model) in nats for each row of logits, rows x `vocab` each.
///
/// # Errors
/// If logits are not finite.
pub fn row_divergences(reference: &[f32], model: &[f32], vocab: usize) -> Result<Vec<f64>> {
    let rows = reference.chunks_exact(vocab.max(1)).zip(model.chunks_exact(vocab.max(1)));
    rows.map(|(r, m)| Ok(divergence(r, log_sum_exp(r)?, m, log_sum_exp(m)?))).collect()
}

/// What [`klds`] finds for one of several models.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The difference from the reference.
    pub kld: Kld,
    /// Mean of the divergence of a token minus that of the first model at the same token, in nats. The error is that of
    /// the paired difference, which is far smaller than that of either mean. 0 for the first model.
    pub minus_first: Estimate,
}

/// Measures the KL divergence of `model` from `reference` on `text`. Both models run on one window at a time.
///
/// # Errors
/// Those of [`super::perplexity`], and [`EvalError::Vocabularies`] if the vocabularies differ in size.
pub fn kld(
    reference: &dyn CausalLm,
    model: &dyn CausalLm,
    text: &EvalText,
    options: &EvalOptions,
    on_progress: OnProgress<'_>,
) -> Result<Kld> {
    let scores = scores(reference, &[model], text, options, on_progress)?;
    Ok(report(&scores.of[0], scores.windows, options.ctx))
}

/// Measures the KL divergence of each model from `reference` on `text`, at the same tokens. The reference runs once. The
/// result has the order of `models`; progress shows the first.
///
/// # Errors
/// Those of [`kld()`]. No model is an empty result, and nothing runs.
pub fn klds(
    reference: &dyn CausalLm,
    models: &[&dyn CausalLm],
    text: &EvalText,
    options: &EvalOptions,
    on_progress: OnProgress<'_>,
) -> Result<Vec<Compared>> {
    if models.is_empty() {
        return Ok(Vec::new());
    }
    let scores = scores(reference, models, text, options, on_progress)?;
    let first = &scores.of[0];
    let compared = scores.of.iter().map(|all| {
        let differences: Vec<f64> = all.iter().zip(first).map(|(ours, first)| ours.kld - first.kld).collect();
        Compared { kld: report(all, scores.windows, options.ctx), minus_first: Estimate::mean(&differences) }
    });
    Ok(compared.collect())
}

/// The scores of all positions.
struct AllScores {
    /// For each model, those of its positions.
    of: Vec<Vec<Scores>>,
    windows: usize,
}

/// `models` is not empty.
fn scores(
    reference: &dyn CausalLm,
    models: &[&dyn CausalLm],
    text: &EvalText,
    options: &EvalOptions,
    on_progress: OnProgress<'_>,
) -> Result<AllScores> {
    let vocab = reference.vocab_size();
    if let Some(other) = models.iter().find(|model| model.vocab_size() != vocab) {
        return Err(EvalError::Vocabularies { reference: vocab, ours: other.vocab_size() });
    }
    let everyone: Vec<&dyn CausalLm> = [&[reference], models].concat();
    let windows = text.windows(options, shared_context(&everyone))?;
    let positions = scored(options, text.prefix.len());
    let pool = pool(options)?;
    let mut reference_cache = reference.new_cache(options.ctx)?;
    let mut caches =
        models.iter().map(|model| model.new_cache(options.ctx)).collect::<impasto_model::Result<Vec<_>>>()?;
    let mut of: Vec<Vec<Scores>> = models.iter().map(|_| Vec::with_capacity(windows.len() * positions.len())).collect();
    let (mut kld_sum, mut nll_sum) = (0.0, 0.0);
    for (index, window) in windows.iter().enumerate() {
        let (inputs, targets) = (&window[..window.len() - 1], &window[positions.start + 1..]);
        let want = Want::From(positions.start);
        reference_cache.clear();
        let reference_hidden = reference.hidden(&mut reference_cache, inputs, want)?;
        let mut hidden = Vec::with_capacity(models.len());
        for (model, cache) in models.iter().zip(&mut caches) {
            cache.clear();
            hidden.push(model.hidden(cache, inputs, want)?);
        }
        let begun = of[0].len();
        let mut row = 0;
        for targets in targets.chunks(chunk(vocab)) {
            let rows = row..row + targets.len();
            row = rows.end;
            let r = reference.logits(&reference_hidden, rows.clone())?;
            for ((model, hidden), all) in models.iter().zip(&hidden).zip(&mut of) {
                let m = model.logits(hidden, rows.clone())?;
                let rows = r.par_chunks_exact(vocab).zip(m.par_chunks_exact(vocab)).zip(targets);
                let scores: impasto_model::Result<Vec<Scores>> =
                    pool.install(|| rows.map(|((r, m), &t)| score(r, m, t)).collect());
                all.extend(scores?);
            }
        }
        kld_sum += of[0][begun..].iter().map(|s| s.kld).sum::<f64>();
        nll_sum += of[0][begun..].iter().map(|s| s.model_nll).sum::<f64>();
        let n = of[0].len() as f64;
        on_progress(Progress {
            done: index + 1,
            windows: windows.len(),
            perplexity: (nll_sum / n).exp(),
            kld: Some(kld_sum / n),
        });
    }
    Ok(AllScores { of, windows: windows.len() })
}

fn report(all: &[Scores], windows: usize, ctx: usize) -> Kld {
    let column = |value: fn(&Scores) -> f64| -> Vec<f64> { all.iter().map(value).collect() };
    let mut sorted = column(|s| s.kld);
    let mean = Estimate::mean(&sorted);
    sorted.sort_unstable_by(f64::total_cmp);
    Kld {
        mean,
        median: quantile(&sorted, 0.5),
        q90: quantile(&sorted, 0.9),
        q99: quantile(&sorted, 0.99),
        q999: quantile(&sorted, 0.999),
        max: quantile(&sorted, 1.0),
        same_top: Estimate::mean(&column(|s| f64::from(u8::from(s.same_top)))),
        delta_ln_ppl: Estimate::mean(&column(|s| s.model_nll - s.reference_nll)),
        reference: Perplexity::of(&column(|s| s.reference_nll), windows, ctx),
        model: Perplexity::of(&column(|s| s.model_nll), windows, ctx),
    }
}
