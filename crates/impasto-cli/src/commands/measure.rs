//! `impasto encode --measure`: the KL divergence of each layer of a file from the original.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Context;
use impasto::{Cut, record_klds};
use impasto_container::Summary;
use impasto_eval::{EvalOptions, EvalText, Progress, Score, kld};

use super::encode::cancelled;
use crate::args::Args;
use crate::model::{load_float, open, open_coded};
use crate::progress::{Step, Watcher};

/// Number of windows that are scored, and the length of each in tokens.
const WINDOWS: usize = 8;
const WINDOW: usize = 512;

/// Measures the KL divergence of each layer of `output` from `model`, on `text` or the end of the built-in one, and
/// records it in the file. Returns the summary of the changed file, and the divergences.
pub fn measure(
    args: &Args,
    model: &Path,
    output: &Path,
    text: Option<&Path>,
    watcher: &dyn Watcher,
) -> anyhow::Result<(Summary, Vec<f32>)> {
    let text = match text {
        Some(path) => Cow::Owned(std::fs::read_to_string(path).with_context(|| path.display().to_string())?),
        None => Cow::Borrowed(last_quarter(impasto::calibrate::TEXT)),
    };
    let original = load_float(args, model, None)?;
    let text = EvalText::new(original.tokenizer()?, &text).context("the text for --measure")?;
    let layers = open_coded(args, output)?.layers().len();
    let mut klds = Vec::with_capacity(layers);
    for layer in 1..=layers {
        let cut = Cut::Layer(layer);
        let file = open(args, output, Some(&cut))?;
        if file.tensor_names().all(|name| file.is_exact(name)) {
            klds.push(0.0);
            continue;
        }
        let coded = load_float(args, output, Some(&cut))?;
        let window = WINDOW.min(original.network().max_context()).min(coded.network().max_context());
        let options = EvalOptions { ctx: window, score: Score::All, windows: Some(WINDOWS), threads: args.threads };
        let step = |done, of| {
            Step::new("measuring layers", [done, of], format!("measuring layer {layer}, window {done}/{of}"))
        };
        // A measurement cannot be cancelled between its windows; the next layer is not begun.
        let mut answer = watcher.step(step(0, WINDOWS));
        cancelled(answer)?;
        let mut on_progress = |p: Progress| {
            if answer.is_continue() {
                answer = watcher.step(step(p.done, p.windows));
            }
        };
        let result = kld(original.network(), coded.network(), &text, &options, &mut on_progress);
        klds.push(result.context("the text for --measure")?.mean.value as f32);
        cancelled(answer)?;
    }
    let summary = record_klds(&open_coded(args, output)?, &klds, output)?;
    Ok((summary, klds))
}

/// All but the [`last_quarter`].
pub fn all_but_last_quarter(text: &str) -> &str {
    &text[..text.len() - last_quarter(text).len()]
}

/// The last quarter of the built-in text; calibration and recovery use the beginning.
pub fn last_quarter(text: &str) -> &str {
    let from = (text.len() / 4 * 3..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    &text[from..]
}
