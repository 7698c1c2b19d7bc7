//! `impasto analyze sensitivity`.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context;
use impasto::calibrate::{CalibrateOptions, Statistics, TEXT};
use impasto::sensitivity::{
    Estimator, Sensitivities, SensitivityOptions, SensitivityProgress, SensitivityRun, TensorSensitivity, sensitivity,
};
use impasto::{Checkpoint, CheckpointWeights};
use impasto_core::files::TemporaryFolder;
use indicatif::ProgressBar;
use serde::Serialize;

use super::{Destination, deliver, quoted, scatter};
use crate::args::{AnalyzeSensitivity, Args, CALIBRATION_TOKENS};
use crate::commands::calibrate::{calibrate_on, calibrate_options, first_tokens};
use crate::commands::encode::runs;
use crate::commands::measure::{all_but_last_quarter, last_quarter};
use crate::exit::Code;
use crate::model::{explained, memory_limit, tokenizer};
use crate::output::{print_notes, shown, table};
use crate::progress::bar;

pub fn run(args: &Args, command: &AnalyzeSensitivity) -> anyhow::Result<Code> {
    // A destination that cannot be written is found before the work.
    let [report, plot] = [&command.report, &command.plot].map(|file| file.as_deref().map(Destination::prepare));
    let (report, plot) = (report.transpose()?, plot.transpose()?);
    let checkpoint = Checkpoint::open(&command.model)?;
    let progress = bar(args, 0);
    let found = explained(analysis(args, command, &checkpoint, &progress), &command.model, &checkpoint)?;
    progress.finish_and_clear();
    let result = Result { model: command.model.display().to_string(), command: command_line(command), found };
    if let Some(plot) = plot {
        plot.write(scatter::svg(&result.found, &result.model).as_bytes())?;
    }
    deliver(args, &result, report, || tables(&result.found))
}

/// What is printed or written.
#[derive(Serialize)]
struct Result {
    /// The model, as the command line names it.
    model: String,
    /// A command line that gives the same result.
    command: String,
    #[serde(flatten)]
    found: Sensitivities,
}

fn analysis(
    args: &Args,
    command: &AnalyzeSensitivity,
    checkpoint: &Checkpoint,
    progress: &ProgressBar,
) -> anyhow::Result<Sensitivities> {
    let weights = CheckpointWeights::new(checkpoint);
    let options = SensitivityOptions {
        bits_per_weight: command.bpw,
        window: command.ctx,
        shards: command.shards,
        windows: command.windows,
        held_back: command.held_back,
        tensors: command.tensor.clone(),
        threads: args.threads,
        memory_limit: Some(memory_limit(args)),
    };
    let watch = |step: SensitivityProgress| {
        progress.set_message(match step {
            SensitivityProgress::Coding(name, done, all) => format!("coding {done}/{all} {}", shown(name)),
            SensitivityProgress::Estimating(done, all) => format!("estimating, window {} of {all}", done + 1),
            SensitivityProgress::Measuring(name, done, all) => format!("measuring {done}/{all} {}", shown(name)),
        });
        ControlFlow::Continue(())
    };
    let mut statistics = command.statistics.as_deref().map(Statistics::open).transpose()?;
    if command.no_run {
        return Ok(sensitivity(checkpoint, statistics.as_ref(), None, &options, &watch)?);
    }
    let mut notes = Vec::new();
    let context = runs(&weights, &mut notes).context(
        "the model is run to measure; with --no-run, what needs no run is found: magnitude and structure, and with --statistics covariance",
    )?;
    print_notes(&notes);
    let text = read(command.calibration.as_deref(), all_but_last_quarter)?;
    let tokenizer = tokenizer(&weights)?;
    let count = |windows: usize| windows.saturating_mul(command.ctx);
    let calibration = first_tokens(&tokenizer, &text, count(command.shards.saturating_mul(command.windows)))?;
    let held_back = read(command.text.as_deref(), last_quarter)?;
    let held_back = first_tokens(&tokenizer, &held_back, command.skip.saturating_add(count(command.held_back)))?;
    let held_back = held_back.get(command.skip..).unwrap_or_default();
    let run = SensitivityRun { weights: &weights, calibration: &calibration, held_back };
    run.check(&options)?;
    let mut folder = None;
    if statistics.is_none() {
        let made = TemporaryFolder::beside(&std::env::temp_dir().join("statistics"));
        let path = folder.insert(made.context("a temporary folder")?).path().join("statistics.safetensors");
        let usual = calibrate_options(args);
        let tokens = command.calibration_tokens.unwrap_or(CALIBRATION_TOKENS);
        let options = CalibrateOptions { tokens, window: usual.window.min(context), ..usual };
        calibrate_on(checkpoint, &weights, &text, &options, &path, progress, None)?;
        statistics = Some(Statistics::open(&path)?);
    }
    Ok(sensitivity(checkpoint, statistics.as_ref(), Some(run), &options, &watch)?)
}

/// Reads a text, or returns a part of the built-in one.
fn read(path: Option<&Path>, part: fn(&str) -> &str) -> anyhow::Result<Cow<'static, str>> {
    match path {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string()).map(Cow::Owned),
        None => Ok(Cow::Borrowed(part(TEXT))),
    }
}

/// Returns tables of tensors, the most sensitive first, and of correlations.
fn tables(found: &Sensitivities) -> String {
    let known: Vec<Estimator> = Estimator::ALL
        .into_iter()
        .filter(|estimator| found.tensors.iter().any(|tensor| tensor.estimates.contains_key(estimator)))
        .collect();
    let mut text = format!("Each tensor coded alone at {} bits per weight.\n", found.bits_per_weight);
    let ran = found.tensors.iter().any(|tensor| tensor.measured.is_some());
    if ran {
        text += &format!(
            "KL divergence on {} held-back tokens; estimates from {} shards of {} tokens. Per million weights.\n",
            found.held_back * found.window,
            found.shards,
            found.windows * found.window,
        );
    }
    let head = ["tensor", "kind", "bits", "measured"].into_iter().map(String::from);
    let mut rows = vec![head.chain(known.iter().map(|estimator| estimator.name().to_owned())).collect::<Vec<_>>()];
    let mut sorted: Vec<&TensorSensitivity> = found.tensors.iter().collect();
    let key = |tensor: &TensorSensitivity| {
        let prior = tensor.estimates.get(&Estimator::Structure).map(|estimate| estimate.value);
        tensor.per_million(tensor.measured.or(prior).unwrap_or(0.0))
    };
    sorted.sort_by(|a, b| key(b).total_cmp(&key(a)));
    let none = || "-".to_owned();
    rows.extend(sorted.into_iter().map(|tensor| {
        let number = |value: f64| format!("{:.3e}", tensor.per_million(value));
        let estimate = |estimator: &Estimator| {
            let Some(found) = tensor.estimates.get(estimator) else { return none() };
            let spread = found.spread.map(|spread| format!(" ±{:.0}%", 100.0 * spread));
            number(found.value) + &spread.unwrap_or_default()
        };
        let first = [shown(&tensor.name), tensor.kind.to_owned(), format!("{:.2}", tensor.bits)];
        let measured = tensor.measured.map_or_else(none, number);
        first.into_iter().chain([measured]).chain(known.iter().map(estimate)).collect()
    }));
    text += &format!("\n{}", table(&rows));
    if !found.left_out.is_empty() {
        let names: Vec<String> = found.left_out.iter().map(|name| shown(name)).collect();
        text += &format!("\nNo step gives this rate: {}\n", names.join(", "));
    }
    if ran {
        text += "\nRank correlation with the measured divergence, per weight, overall and by kind; and by how much the divergence of a \
                 file whose bits follow an estimator exceeds that of one whose bits follow the measured divergence, by forecast:\n\n";
        text += &correlations(found);
        if let Some(repeated) = found.repeatability {
            text +=
                &format!("\nOf the measured divergence on the two halves of the held-back windows: {repeated:.3}\n");
        }
    }
    text
}

fn correlations(found: &Sensitivities) -> String {
    let kinds = found.kinds();
    let head = ["estimator", "excess", "overall"].into_iter().chain(kinds.iter().copied());
    let mut rows = vec![head.map(String::from).collect::<Vec<_>>()];
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{:+.1}%", 100.0 * value));
    rows.extend(found.correlations.iter().map(|of| {
        let kinds = kinds.iter().map(|kind| number(of.kinds.get(kind).copied()));
        [of.estimator.name().to_owned(), percent(of.excess), number(of.overall)].into_iter().chain(kinds).collect()
    }));
    table(&rows)
}

/// Returns the options that the result depends on, as a command line.
fn command_line(command: &AnalyzeSensitivity) -> String {
    let path = |path: &Path| quoted(&path.display().to_string());
    let mut line = format!("impasto analyze sensitivity {} --bpw {}", path(&command.model), command.bpw);
    let files = [("statistics", &command.statistics), ("calibration", &command.calibration), ("text", &command.text)];
    for (option, file) in files {
        file.iter().for_each(|file| line += &format!(" --{option} {}", path(file)));
    }
    if command.no_run {
        line += " --no-run";
    } else {
        command.calibration_tokens.iter().for_each(|n| line += &format!(" --calibration-tokens {n}"));
        let AnalyzeSensitivity { skip, ctx, shards, windows, held_back, .. } = command;
        line += &format!(" --ctx {ctx} --shards {shards} --windows {windows} --held-back {held_back} --skip {skip}");
    }
    command.tensor.iter().for_each(|name| line += &format!(" --tensor {}", quoted(name)));
    line
}
