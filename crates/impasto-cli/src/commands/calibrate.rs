//! `impasto calibrate`.

use std::time::Instant;

use anyhow::Context;
use impasto::{Checkpoint, CheckpointWeights, calibrate};
use impasto_model::{Model, RunOptions};
use serde_json::json;

use crate::args::{Args, Calibrate};
use crate::exit::Code;
use crate::model::memory_limit;
use crate::output::{print, print_json};
use crate::progress::bar;

pub fn run(args: &Args, command: &Calibrate) -> anyhow::Result<Code> {
    let begun = Instant::now();
    let text = std::fs::read_to_string(&command.text).with_context(|| command.text.display().to_string())?;
    let checkpoint = Checkpoint::open(&command.model)?;
    let options = RunOptions { threads: args.threads, memory_limit: Some(memory_limit(args)), ..RunOptions::default() };
    let model = Model::load(&CheckpointWeights::new(&checkpoint), &options);
    let model = model.with_context(|| command.model.display().to_string())?;
    let mut tokens = model.tokenizer()?.encode(&text, true)?;
    tokens.truncate(command.tokens);
    let progress = bar(args, 0);
    let mut watch = |done: usize, all: usize| progress.set_message(format!("window {} of {all}", done + 1));
    let hash = blake3::hash(text.as_bytes());
    let info = calibrate(&checkpoint, model.network(), &tokens, command.ctx, &hash, &command.output, &mut watch)?;
    progress.finish_and_clear();
    let (file, seconds) = (command.output.display().to_string(), begun.elapsed().as_secs_f64());
    if args.json {
        print_json(&json!({
            "file": file, "model": info.model, "text": info.text, "tokens": info.tokens,
            "linears": info.linears.len(), "seconds": seconds,
        }))?;
    } else {
        let (layers, tokens) = (info.linears.len(), info.tokens);
        print(&format!("{file}: {layers} matrices on {tokens} tokens in {seconds:.1} s\n"))?;
    }
    Ok(Code::Success)
}
