//! `impasto calibrate`.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use impasto::calibrate::{CalibrateOptions, Calibrating, Info, calibrate, calibrate_portion};
use impasto::encode::Portion;
use impasto::{Checkpoint, CheckpointWeights};
use impasto_core::files;
use impasto_text::Tokenizer;
use serde_json::{Value, json};

use crate::args::{Args, Calibrate};
use crate::exit::{Code, UsageError};
use crate::model::{explained, memory_limit, tokenizer};
use crate::output::{print, print_json};
use crate::progress::{Step, Watcher, bar};
use crate::stages::{self, Stages};

pub fn run(args: &Args, command: &Calibrate) -> anyhow::Result<Code> {
    if let Some(portion) = command.shard {
        return run_portion(args, command, portion);
    }
    let progress = bar(args, 0);
    let done = job(args, command, &progress)?;
    progress.finish_and_clear();
    match args.json {
        true => print_json(&done.to_json())?,
        false => print(&done.to_text())?,
    }
    Ok(Code::Success)
}

/// Calibrates on the windows of one portion.
fn run_portion(args: &Args, command: &Calibrate, portion: Portion) -> anyhow::Result<Code> {
    let begun = Instant::now();
    let _folders = files::prepare(&command.output).with_context(|| command.output.display().to_string())?;
    let (text, checkpoint, options) = open(args, command)?;
    let weights = CheckpointWeights::new(&checkpoint);
    let tokens = first_tokens(&tokenizer(&weights)?, &text, options.tokens)?;
    let progress = bar(args, 0);
    let mut watch = |step| {
        progress.set_message(format!("shard {portion}: {}", shown(step).message));
        ControlFlow::Continue(())
    };
    let (hash, to) = (blake3::hash(text.as_bytes()), (command.output.as_path(), portion));
    let done = calibrate_portion(&checkpoint, &weights, &tokens, &options, &hash, to, &mut watch);
    explained(done.map_err(Into::into), &command.model, &checkpoint)?;
    progress.finish_and_clear();
    let (file, seconds) = (command.output.display().to_string(), begun.elapsed().as_secs_f64());
    if args.json {
        print_json(&json!({ "file": file, "shard": portion.number(), "shards": portion.of(), "seconds": seconds }))?;
    } else {
        print(&format!("{file}: shard {portion} in {seconds:.1} s; impasto merge joins all shards\n"))?;
    }
    Ok(Code::Success)
}

/// Reads the text and opens the checkpoint.
fn open(args: &Args, command: &Calibrate) -> anyhow::Result<(String, Checkpoint, CalibrateOptions)> {
    let text = std::fs::read_to_string(&command.text).with_context(|| command.text.display().to_string())?;
    let checkpoint = Checkpoint::open(&command.model)?;
    let options = CalibrateOptions {
        tokens: command.tokens,
        gradient_tokens: command.gradient_tokens,
        window: command.ctx,
        ..calibrate_options(args)
    };
    Ok((text, checkpoint, options))
}

/// Why a shard is no job of a library.
const SHARDS_PRINT: &str = "--shard is for the command impasto, not for functions";

/// The result of a calibration.
pub struct Done {
    file: String,
    info: Info,
    stages: Vec<(&'static str, f64)>,
    seconds: f64,
}

/// Calibrates a model and writes its statistics.
pub fn job(args: &Args, command: &Calibrate, watcher: &dyn Watcher) -> anyhow::Result<Done> {
    let begun = Instant::now();
    let _folders = files::prepare(&command.output).with_context(|| command.output.display().to_string())?;
    if command.shard.is_some() {
        return Err(UsageError(SHARDS_PRINT).into());
    }
    let (text, checkpoint, options) = open(args, command)?;
    let weights = CheckpointWeights::new(&checkpoint);
    let stages = Stages::begin("opening");
    let info = calibrate_on(&checkpoint, &weights, &text, &options, &command.output, watcher, Some(&stages));
    let info = explained(info, &command.model, &checkpoint)?;
    let (file, seconds) = (command.output.display().to_string(), begun.elapsed().as_secs_f64());
    Ok(Done { file, info, stages: stages.end(), seconds })
}

impl Done {
    pub fn to_json(&self) -> Value {
        let Done { file, info, stages, seconds } = self;
        json!({
            "file": file, "model": info.model, "text": info.text, "window": info.window, "tokens": info.tokens,
            "gradient_tokens": info.gradient_tokens, "held_back_tokens": info.held_back_tokens,
            "linears": info.linears.len(), "groups": info.groups.len(), "seconds": seconds,
            "stages": stages::to_json(stages), "peak_memory": peak_memory(),
        })
    }

    fn to_text(&self) -> String {
        let Done { file, info, stages, seconds } = self;
        let (matrices, tokens, gradient_tokens) = (info.linears.len(), info.tokens, info.gradient_tokens);
        let stages = stages::to_text(stages);
        format!(
            "{file}: {matrices} matrices on {tokens} tokens, gradients on {gradient_tokens}, in {seconds:.1} s\n{stages}"
        )
    }
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
    watcher: &dyn Watcher,
    stages: Option<&Stages>,
) -> anyhow::Result<Info> {
    let tokens = first_tokens(&tokenizer(weights)?, text, options.tokens)?;
    let mut watch = |step| {
        let step = shown(step);
        stages.into_iter().for_each(|stages| stages.enter(step.stage));
        watcher.step(step)
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

fn shown(step: Calibrating) -> Step {
    let (stage, [done, of], message) = match step {
        Calibrating::Forward(block, blocks) => {
            ("forward", [block, blocks], format!("forward pass, block {} of {blocks}", block + 1))
        }
        Calibrating::OutputProjection => ("output projection", [0, 0], "output projection".to_owned()),
        Calibrating::Backward(block, blocks) => {
            ("backward", [block, blocks], format!("backward pass, block {} of {blocks}", block + 1))
        }
        Calibrating::Writing => ("writing", [0, 0], "writing".to_owned()),
    };
    Step::new(stage, [done, of], format!("calibrating: {message}"))
}

/// Peak memory of this process in bytes, including mapped files; `None` if the system does not report it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
