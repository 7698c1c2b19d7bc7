//! `impasto encode --kld`: measures a network with coded weights against the original.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Context;
use impasto::encode::Judged;
use impasto_eval::{EvalOptions, EvalText, Score, kld};
use impasto_model::{Failure, WeightSource};
use impasto_runtime::{Model, Residence, RunOptions};

use super::measure::last_quarter;
use crate::args::Args;
use crate::model::load_float;
use crate::running::Running;

/// Length of a window in tokens, and how many tokens are scored by default.
const WINDOW: usize = 512;
pub const TOKENS: usize = 4096;

/// The text that a divergence is measured on.
#[derive(Clone, Copy)]
pub struct HeldBack<'a> {
    /// The end of the built-in text, if it is none.
    pub text: Option<&'a Path>,
    /// Most tokens.
    pub tokens: usize,
}

/// The original network, and the text that it is compared on.
pub struct Original {
    model: Model,
    text: EvalText,
    options: EvalOptions,
    running: RunOptions,
}

impl Original {
    /// Loads the network of a checkpoint.
    pub fn load(args: &Args, model: &Path, held_back: HeldBack) -> anyhow::Result<Original> {
        let name = || held_back.text.map_or("the built-in text".to_owned(), |path| path.display().to_string());
        let text = match held_back.text {
            Some(path) => Cow::Owned(std::fs::read_to_string(path).with_context(name)?),
            None => Cow::Borrowed(last_quarter(impasto::calibrate::TEXT)),
        };
        let model = load_float(args, model, None).context("--kld measures the network")?;
        let text = EvalText::new(model.tokenizer()?, &text).with_context(name)?;
        let ctx = WINDOW.min(model.network().max_context()).min(held_back.tokens.max(2));
        let windows = Some((held_back.tokens / ctx).max(1));
        let options = EvalOptions { ctx, score: Score::All, windows, threads: args.threads };
        Ok(Original { model, text, options, running: Running::default().options(args, Residence::Float)? })
    }

    /// Measures the network with other weights.
    pub fn judge(&self, weights: &dyn WeightSource) -> Result<Judged, Failure> {
        let coded = Model::load(weights, &self.running)?;
        let found = kld(self.model.network(), coded.network(), &self.text, &self.options, &mut |_| {})?;
        Ok(Judged { kld: found.mean.value, error: found.mean.error, tokens: found.model.tokens })
    }
}
