//! `impasto encode --shard` and `impasto merge`.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Context;
use impasto::calibrate::{Statistics, is_calibration, merge_statistics};
use impasto::encode::{Merged, Options, Portion, Progress, Target, encode_portion};
use impasto::{Checkpoint, CheckpointWeights};
use impasto_core::files;
use serde_json::json;

use super::encode::{Guide, compiled_tokenizer, notes, warn_of_non_finite};
use crate::args::{Args, Encode, Merge};
use crate::exit::{Code, UsageError};
use crate::model::memory_limit;
use crate::output::{bytes, expansion_note, print, print_json, print_notes, shown};
use crate::progress::bar;

/// Codes one portion of a file.
pub fn encode(
    args: &Args,
    command: &Encode,
    portion: Portion,
    options: &Options,
    guide: &Guide,
) -> anyhow::Result<Code> {
    let begun = Instant::now();
    let statistics = match guide {
        Guide::None => None,
        Guide::Statistics { file, sequential: None } => Some(Statistics::open(file)?),
        Guide::Text { .. } | Guide::Statistics { .. } => {
            let rule = "--shard needs statistics that are the same for all shards: use --statistics (from impasto calibrate), or \
                        --uncalibrated";
            return Err(UsageError(rule).into());
        }
    };
    if command.reorder.by().is_some() {
        return Err(UsageError("--shard is not for --reorder").into());
    }
    let _folders = files::prepare(&command.output).with_context(|| command.output.display().to_string())?;
    let checkpoint = Checkpoint::open(&command.model)?;
    let mut notes = notes(&checkpoint, options.target == Target::Lossless);
    let compiled_tokenizer = compiled_tokenizer(&CheckpointWeights::new(&checkpoint), guide, &mut notes);
    let options = Options { compiled_tokenizer, memory_limit: Some(memory_limit(args)), ..options.clone() };
    let progress = bar(args, 0);
    let watch = |step: Progress| {
        match step {
            Progress::Measuring(pass) => progress.set_message(format!("shard {portion}: measuring rates, pass {pass}")),
            Progress::Coding(name, ..) => progress.set_message(format!("shard {portion}: coding {}", shown(name))),
            Progress::Judging(_) | Progress::Drift(..) => {}
        }
        ControlFlow::Continue(())
    };
    let patience = Duration::from_secs(command.wait.unwrap_or(0));
    let coded =
        encode_portion(&checkpoint, &command.output, &options, statistics.as_ref(), (portion, patience), &watch);
    let report = coded.with_context(|| command.model.display().to_string())?;
    progress.finish_and_clear();
    print_notes(&notes);
    warn_of_non_finite(&report.non_finite);
    let (file, seconds) = (command.output.display().to_string(), begun.elapsed().as_secs_f64());
    if args.json {
        let (number, of, tensors, found) = (portion.number(), portion.of(), report.tensors, report.found);
        print_json(&json!({
            "file": file, "shard": number, "shards": of, "tensors": tensors, "found": found, "non_finite": report.non_finite, "seconds": seconds,
        }))?;
    } else {
        let tensors = report.tensors;
        print(&format!(
            "{file}: shard {portion}: {tensors} tensors in {seconds:.1} s; impasto merge joins all shards\n"
        ))?;
    }
    Ok(Code::Success)
}

/// `impasto merge`.
pub fn merge(args: &Args, command: &Merge) -> anyhow::Result<Code> {
    let _folders = files::prepare(&command.output).with_context(|| command.output.display().to_string())?;
    let progress = bar(args, 0);
    progress.set_message(format!("joining {}", command.output.display()));
    if is_calibration(&command.output) {
        let info = merge_statistics(&command.output, args.threads, Some(memory_limit(args)))?;
        progress.finish_and_clear();
        let (file, matrices, tokens) = (command.output.display().to_string(), info.linears.len(), info.tokens);
        if args.json {
            print_json(&json!({ "file": file, "linears": matrices, "groups": info.groups.len(), "tokens": tokens }))?;
        } else {
            print(&format!("{file}: {matrices} matrices on {tokens} tokens\n"))?;
        }
        return Ok(Code::Success);
    }
    let Merged { summary, portions, tensors } = impasto::encode::merge(&command.output)?;
    progress.finish_and_clear();
    print_notes(&expansion_note(&summary).into_iter().collect::<Vec<_>>());
    let (file, root) = (command.output.display().to_string(), impasto::hex(&summary.root));
    if args.json {
        let length = summary.file_length;
        print_json(&json!({ "file": file, "root": root, "bytes": length, "shards": portions, "tensors": tensors }))?;
    } else {
        let size = bytes(summary.file_length);
        print(&format!("{file}: {size}, {tensors} tensors from {portions} shards\nroot {root}\n"))?;
    }
    Ok(Code::Success)
}
