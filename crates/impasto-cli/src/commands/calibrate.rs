//! `impasto calibrate`.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use impasto::calibrate::{CalibrateOptions, Calibrating, Info, calibrate, calibrate_portion};
use impasto::{Checkpoint, CheckpointWeights};
use impasto_core::files;
use impasto_text::Tokenizer;
use indicatif::ProgressBar;
use serde_json::json;

use crate::args::{Args, Calibrate};
use crate::exit::Code;
use crate::model::{explained, memory_limit, tokenizer};
use crate::output::{print, print_json};
use crate::progress::bar;
use crate::stages::{self, Stages};

pub fn run(args: &Args, command: &Calibrate) -> anyhow::Result<Code> {
    let begun = Instant::now();
    let _folders = files::prepare(&command.output).with_context(|| command.output.display().to_string())?;
    let text = std::fs::read_to_string(&command.text).with_context(|| command.text.display().to_string())?;
    let checkpoint = Checkpoint::open(&command.model)?;
    let weights = CheckpointWeights::new(&checkpoint);
    let options = CalibrateOptions {
        tokens: command.tokens,
        gradient_tokens: command.gradient_tokens,
        window: command.ctx,
        ..calibrate_options(args)
    };
    let progress = bar(args, 0);
    if let Some(portion) = command.shard {
        let tokens = first_tokens(&tokenizer(&weights)?, &text, options.tokens)?;
        let mut watch = |step| {
            progress.set_message(format!("shard {portion}: calibrating: {}", message(step)));
            ControlFlow::Continue(())
        };
        let (hash, to) = (blake3::hash(text.as_bytes()), (command.output.as_path(), portion));
        let done = calibrate_portion(&checkpoint, &weights, &tokens, &options, &hash, to, &mut watch);
        explained(done.map_err(Into::into), &command.model, &checkpoint)?;
        progress.finish_and_clear();
        let (file, seconds) = (command.output.display().to_string(), begun.elapsed().as_secs_f64());
        if args.json {
            print_json(
                &json!({ "file": file, "shard": portion.number(), "shards": portion.of(), "seconds": seconds }),
            )?;
        } else {
            print(&format!("{file}: shard {portion} in {seconds:.1} s; impasto merge joins all shards\n"))?;
        }
        return Ok(Code::Success);
    }
    let stages = Stages::begin("opening");
    let info = calibrate_on(&checkpoint, &weights, &text, &options, &command.output, &progress, Some(&stages));
    let info = explained(info, &command.model, &checkpoint)?;
    progress.finish_and_clear();
    let (file, seconds) = (command.output.display().to_string(), begun.elapsed().as_secs_f64());
    let matrices = info.linears.len();
    if args.json {
        print_json(&json!({
            "file": file, "model": info.model, "text": info.text, "window": info.window, "tokens": info.tokens,
            "gradient_tokens": info.gradient_tokens, "held_back_tokens": info.held_back_tokens,
            "linears": matrices, "groups": info.groups.len(), "seconds": seconds, "stages": stages::to_json(&stages.end()), "peak_memory": peak_memory(),
        }))?;
    } else {
        let (tokens, gradient_tokens) = (info.tokens, info.gradient_tokens);
        let gradients = format!("gradients on {gradient_tokens}");
        let stages = stages::to_text(&stages.end());
        print(&format!("{file}: {matrices} matrices on {tokens} tokens, {gradients}, in {seconds:.1} s\n{stages}"))?;
    }
    Ok(Code::Success)
}

/// The default calibration with the global options.
pub fn calibrate_options(args: &Args) -> CalibrateOptions {
    CalibrateOptions { threads: args.threads, memory_limit: Some(memory_limit(args)), ..CalibrateOptions::default() }
}

/// Calibrates a model on a text and writes the statistics to `output`. `stages` takes note of what that takes.
pub fn calibrate_on(
    checkpoint: &Checkpoint,
    weights: &CheckpointWeights,
    text: &str,
    options: &CalibrateOptions,
    output: &Path,
    progress: &ProgressBar,
    stages: Option<&Stages>,
) -> anyhow::Result<Info> {
    let tokens = first_tokens(&tokenizer(weights)?, text, options.tokens)?;
    let mut watch = |step| {
        stages.into_iter().for_each(|stages| stages.enter(stage(step)));
        progress.set_message(format!("calibrating: {}", message(step)));
        ControlFlow::Continue(())
    };
    let hash = blake3::hash(text.as_bytes());
    Ok(calibrate(checkpoint, weights, &tokens, options, &hash, output, &mut watch)?)
}

/// Returns the first tokens of a text, at most `count`. Tokenizes only about as much of the text as necessary.
pub fn first_tokens(tokenizer: &Tokenizer, text: &str, count: usize) -> anyhow::Result<Vec<u32>> {
    // Cutting the text may change the tokens just before the cut.
    const MARGIN: usize = 64;
    let mut wanted = count.saturating_mul(8).max(1 << 16);
    loop {
        let end = (0..=wanted.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        let mut tokens = tokenizer.encode(&text[..end], true)?;
        if end == text.len() || tokens.len() >= count.saturating_add(MARGIN) {
            tokens.truncate(count);
            return Ok(tokens);
        }
        wanted = wanted.saturating_mul(2);
    }
}

fn stage(step: Calibrating) -> &'static str {
    match step {
        Calibrating::Forward(..) => "forward",
        Calibrating::OutputProjection => "output projection",
        Calibrating::Backward(..) => "backward",
        Calibrating::Writing => "writing",
    }
}

fn message(step: Calibrating) -> String {
    match step {
        Calibrating::Forward(block, blocks) => format!("forward pass, block {} of {blocks}", block + 1),
        Calibrating::OutputProjection => "output projection".to_owned(),
        Calibrating::Backward(block, blocks) => format!("backward pass, block {} of {blocks}", block + 1),
        Calibrating::Writing => "writing".to_owned(),
    }
}

/// Peak memory of this process in bytes, including mapped files; `None` if the system does not report it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
