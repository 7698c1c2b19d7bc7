//! `impasto quantize`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use impasto::encode::{EncodeError, Progress, is_input};
use impasto::export::{Form, export};
use impasto::quantize::{QuantizeOptions, QuantizeReport, quantize};
use impasto::{Checkpoint, CheckpointWeights, is_impasto};
use impasto_core::files::{self, TemporaryFolder};
use serde_json::json;

use super::encode::{Guidance, Guide, Source, calibration_text};
use super::with_threads;
use crate::args::{Args, CALIBRATION_TOKENS, GuideArgs, Quantize};
use crate::exit::{Code, UsageError};
use crate::model::{explained, memory_limit, open};
use crate::output::{bytes, print, print_json, print_notes, shown, table};
use crate::progress::bar;
use crate::stages::{self, Stages};

pub fn run(args: &Args, command: &Quantize) -> anyhow::Result<Code> {
    let begun = Instant::now();
    let Quantize { model, output, mix, guide } = command;
    let guide = guidance(guide)?;
    let _folders = files::prepare(output).with_context(|| output.display().to_string())?;
    let stages = Stages::begin("opening");
    let (_restored, path) = restored(args, model, output)?;
    let checkpoint = Checkpoint::open(&path)?;
    if is_input(&checkpoint, output) {
        return Err(EncodeError::OverInput(output.display().to_string()).into());
    }
    let weights = CheckpointWeights::new(&checkpoint);
    let progress = bar(args, 0);
    let mut notes = checkpoint.notes().to_vec();
    stages.enter("calibration");
    let source = Source { args, checkpoint: &checkpoint, weights: &weights, output, watcher: &progress };
    let Guidance { statistics, .. } = &explained(source.guidance(&guide, &mut notes), model, &checkpoint)?;
    stages.enter("rounding");
    let watch = |step: Progress| {
        if let Progress::Coding(name, done, all) = step {
            progress.set_message(format!("rounding {done}/{all} {}", shown(name)));
        }
        ControlFlow::Continue(())
    };
    let options = QuantizeOptions { mix: *mix, threads: args.threads, memory_limit: Some(memory_limit(args)) };
    let report = quantize(&checkpoint, output, &options, statistics.as_ref(), &watch);
    let report = report.with_context(|| model.display().to_string())?;
    progress.finish_and_clear();
    notes.extend(report.notes.iter().cloned());
    print_notes(&notes);
    let (stages, seconds) = (stages.end(), begun.elapsed().as_secs_f64());
    if args.json {
        let tensors = report.tensors.iter().map(|tensor| {
            json!({
                "name": tensor.name, "shape": tensor.shape, "type": tensor.dtype.name(), "bytes": tensor.bytes,
                "error": tensor.error, "calibrated": tensor.is_calibrated,
            })
        });
        print_json(&json!({
            "file": output.display().to_string(), "type": mix.name(), "bytes": report.bytes, "weights": report.weights,
            "bits_per_weight": bits(report.bytes, report.weights), "notes": notes,
            "tensors": tensors.collect::<Vec<_>>(), "seconds": seconds, "stages": stages::to_json(&stages),
        }))?;
    } else {
        print(&(to_text(&report, output, seconds) + &stages::to_text(&stages)))?;
    }
    Ok(Code::Success)
}

/// Returns what the command line requests. Options that would be ignored are errors.
fn guidance(guide: &GuideArgs) -> anyhow::Result<Guide> {
    let given = guide.calibration.is_some();
    match &guide.statistics {
        _ if guide.uncalibrated => Ok(Guide::None),
        Some(_) if given => Err(UsageError("--calibration has no effect with --statistics").into()),
        Some(file) => Ok(Guide::Statistics { file: file.clone(), sequential: None }),
        None => {
            let tokens = guide.calibration_tokens.unwrap_or(CALIBRATION_TOKENS);
            Ok(Guide::Text { text: calibration_text(guide)?, tokens, sequential: false, given })
        }
    }
}

/// Returns the path of a checkpoint: of the model itself or, for an .impasto file, of what it decodes to, in a temporary folder next to
/// the output.
fn restored(args: &Args, model: &Path, output: &Path) -> anyhow::Result<(Option<TemporaryFolder>, PathBuf)> {
    if !is_impasto(model).with_context(|| model.display().to_string())? {
        return Ok((None, model.to_owned()));
    }
    let file = open(args, model, None)?;
    let folder = TemporaryFolder::beside(output)
        .with_context(|| format!("{}: a temporary folder next to it", output.display()))?;
    let exported = with_threads(args, || export(&file, folder.path(), None, Form::Original, false, &|_| ()))??;
    let path = match &exported.files[..] {
        [only] => only.clone(),
        _ => folder.path().to_owned(),
    };
    Ok((Some(folder), path))
}

fn bits(bytes: u64, weights: u64) -> f64 {
    bytes as f64 * 8.0 / weights.max(1) as f64
}

fn to_text(report: &QuantizeReport, output: &Path, seconds: f64) -> String {
    // For each type: tensors, those of them with a covariance, weights, bytes.
    let mut types: BTreeMap<&str, (u64, u64, u64, u64)> = BTreeMap::new();
    for tensor in &report.tensors {
        let row = types.entry(tensor.dtype.name()).or_default();
        row.0 += 1;
        row.1 += u64::from(tensor.is_calibrated);
        row.2 += tensor.shape.iter().product::<u64>();
        row.3 += tensor.bytes;
    }
    let mut rows =
        vec![["type", "tensors", "calibrated", "weights", "bytes", "bits/weight"].map(String::from).to_vec()];
    for (name, (tensors, calibrated, weights, size)) in types {
        let bits = format!("{:.3}", bits(size, weights));
        rows.push(vec![
            name.into(),
            tensors.to_string(),
            calibrated.to_string(),
            weights.to_string(),
            bytes(size),
            bits,
        ]);
    }
    let (size, bits) = (bytes(report.bytes), bits(report.bytes, report.weights));
    format!("{}{}: {size}, {bits:.3} bits per weight, in {seconds:.1} s\n", table(&rows), output.display())
}
