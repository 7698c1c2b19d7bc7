//! `impasto encode`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use impasto::{Checkpoint, Options, Progress, Report, Statistics, Target, encode_calibrated};
use serde_json::json;

use crate::args::{Args, Encode};
use crate::exit::{Code, UsageError};
use crate::output::{bytes, print, print_json, print_notes, table};
use crate::progress::bar;

pub fn run(args: &Args, command: &Encode) -> anyhow::Result<Code> {
    let target = match (command.bpw, command.size) {
        (Some(bits), _) => Target::BitsPerWeight(bits),
        (_, Some(bytes)) => Target::Size(bytes),
        _ => Target::Lossless,
    };
    let options = Options { target, threads: args.threads, segments: command.segments.into() };
    if target == Target::Lossless && command.statistics.is_some() {
        return Err(UsageError("--statistics is for lossy files: give --bpw or --size").into());
    }
    let statistics = command.statistics.as_deref().map(Statistics::open).transpose()?;
    let report = encode_to(args, &command.model, &command.output, &options, statistics.as_ref())?;
    for name in &report.non_finite {
        eprintln!("warning: tensor {name:?} holds NaN or infinity: kept exactly, not coded with loss");
    }
    Ok(Code::Success)
}

/// Encodes, shows the progress and prints the result.
pub fn encode_to(
    args: &Args,
    model: &Path,
    output: &Path,
    options: &Options,
    statistics: Option<&Statistics>,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let checkpoint = Checkpoint::open(model)?;
    let progress = bar(args, 0);
    let watch = |step: Progress| match step {
        Progress::Measuring(pass) => progress.set_message(format!("measuring rates, pass {pass}")),
        Progress::Coding(name, done, all) => progress.set_message(format!("coding {done}/{all} {name}")),
    };
    let report = encode_calibrated(&checkpoint, output, options, statistics, &watch);
    let report = report.with_context(|| model.display().to_string())?;
    progress.finish_and_clear();
    let notes = notes(&checkpoint, options.target == Target::Lossless);
    print_notes(&notes);
    if args.json {
        print_json(&to_json(&report, &notes, output))?;
    } else {
        print(&to_text(&report, output, begun.elapsed().as_secs_f64()))?;
    }
    Ok(report)
}

fn root(report: &Report) -> String {
    report.summary.root.iter().map(|b| format!("{b:02x}")).collect()
}

fn bits_per_weight(report: &Report) -> f64 {
    report.summary.file_length as f64 * 8.0 / report.weights.max(1) as f64
}

/// What the checkpoint does not have, and what of it an exact file does not give back.
fn notes(checkpoint: &Checkpoint, exact: bool) -> Vec<String> {
    let odd = checkpoint.shards().iter().filter(|shard| exact && !shard.is_canonical());
    let padding = odd.map(|shard| {
        let name = shard.name();
        format!(
            "{name}: its padding is not as usual: header and tensors come back byte for byte, but the padding as zeros"
        )
    });
    checkpoint.notes().iter().cloned().chain(padding).collect()
}

fn to_json(report: &Report, notes: &[String], output: &Path) -> serde_json::Value {
    let tensors = report
        .tensors
        .iter()
        .map(|t| json!({ "name": t.name, "dtype": t.dtype, "shape": t.shape, "mode": t.mode, "bytes": t.bytes }));
    json!({
        "file": output.display().to_string(),
        "root": root(report),
        "bytes": report.summary.file_length,
        "manifest_bytes": report.summary.manifest_length,
        "asset_bytes": report.asset_bytes,
        "raw_bytes": report.raw_bytes,
        "weights": report.weights,
        "bits_per_weight": bits_per_weight(report),
        "relative_step": report.relative_step,
        "non_finite": report.non_finite,
        "notes": notes,
        "tensors": tensors.collect::<Vec<_>>(),
    })
}

fn to_text(report: &Report, output: &Path, seconds: f64) -> String {
    // By mode: tensors, weights, bytes.
    let mut modes: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for tensor in &report.tensors {
        let row = modes.entry(tensor.mode).or_default();
        row.0 += 1;
        row.1 += tensor.shape.iter().product::<u64>();
        row.2 += tensor.bytes;
    }
    let mut rows = vec![["coded as", "tensors", "weights", "bytes", "bits/weight"].map(String::from).to_vec()];
    for (mode, (tensors, weights, size)) in modes {
        let bits = if weights > 0 { size as f64 * 8.0 / weights as f64 } else { 0.0 };
        rows.push(vec![mode.into(), tensors.to_string(), weights.to_string(), bytes(size), format!("{bits:.3}")]);
    }
    let other = |name: &str, size: u64| vec![name.into(), String::new(), String::new(), bytes(size), String::new()];
    rows.push(other("assets", report.asset_bytes));
    let inside = report.asset_bytes + report.tensors.iter().map(|t| t.bytes).sum::<u64>();
    rows.push(other("container", report.summary.file_length - inside));
    let length = report.summary.file_length;
    format!(
        "{}{}: {} ({:.2}% of {} of tensors, {:.3} bits per weight) in {seconds:.1} s\nroot {}\n",
        table(&rows),
        output.display(),
        bytes(length),
        100.0 * length as f64 / report.raw_bytes.max(1) as f64,
        bytes(report.raw_bytes),
        bits_per_weight(report),
        root(report),
    )
}
