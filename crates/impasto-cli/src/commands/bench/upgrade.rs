//! `impasto bench upgrade`: what becomes of keys and values when weights are exchanged.

use std::time::Instant;

use anyhow::Context;
use impasto::Cut;
use impasto_eval::{Estimate, EvalError, row_divergences};
use impasto_model::{CausalLm, KvCache, Want};
use impasto_runtime::{KvUpgrade, Residence, Runtime};
use serde::Serialize;

use crate::args::{Args, BenchUpgrade};
use crate::exit::{Code, UsageError};
use crate::model::load;
use crate::output::{bytes, print, print_json, table};
use crate::progress::bar;

/// The result of one way.
#[derive(Serialize)]
struct Row {
    kv_upgrade: String,
    /// Mean KL divergence of the next tokens, in nats per token, and its standard error.
    kld: Estimate,
    /// Seconds of an upgrade, on average.
    seconds: f64,
    /// Bytes of keys and values, and of what else is kept for the upgrade.
    kv_bytes: usize,
}

pub fn run(args: &Args, command: &BenchUpgrade) -> anyhow::Result<Code> {
    let options = command.running.options(args, Residence::Packed)?;
    let name = || command.model.display().to_string();
    let coarse = load(args, &command.model, Some(&Cut::Layer(command.from)), &options)?;
    let fine = load(args, &command.model, None, &options)?;
    let (Some(before), Some(after)) = (coarse.runtime(), fine.runtime()) else {
        return Err(UsageError("weights are exchanged in the residences packed and coded only").into());
    };
    let text = std::fs::read_to_string(&command.text).with_context(|| command.text.display().to_string())?;
    let tokens = fine.tokenizer().with_context(name)?.encode(&text, false)?;
    let (past, next) = (command.past as usize, command.next as usize);
    let windows: Vec<&[u32]> = tokens.chunks_exact(past + next).take(command.windows as usize).collect();
    if windows.is_empty() {
        let short = EvalError::TextTooShort { tokens: tokens.len(), window: past + next };
        return Err(short).with_context(|| command.text.display().to_string());
    }
    let progress = bar(args, (windows.len() * command.kv_upgrade.len()) as u64);
    let mut found: Vec<(Vec<f64>, f64, usize)> = vec![Default::default(); command.kv_upgrade.len()];
    for window in &windows {
        let (past, next) = window.split_at(past);
        let expected = continued(after, evaluated(after, past, false)?, next)?;
        for (&how, (divergences, seconds, kv_bytes)) in command.kv_upgrade.iter().zip(&mut found) {
            progress.set_message(how.to_string());
            let old = evaluated(before, past, how == KvUpgrade::Residual)?;
            let begun = Instant::now();
            let new = after.upgrade(&old, how)?;
            *seconds += begun.elapsed().as_secs_f64();
            *kv_bytes = new.memory_bytes();
            divergences.extend(row_divergences(&expected, &continued(after, new, next)?, after.vocab_size())?);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let rows: Vec<Row> = (command.kv_upgrade.iter().zip(found))
        .map(|(how, (divergences, seconds, kv_bytes))| Row {
            kv_upgrade: how.to_string(),
            kld: Estimate::mean(&divergences),
            seconds: seconds / windows.len() as f64,
            kv_bytes,
        })
        .collect();
    if args.json {
        print_json(&serde_json::to_value(&rows)?)?;
        return Ok(Code::Success);
    }
    let head = ["keys and values", "KL divergence", "seconds", "memory"].map(str::to_owned).to_vec();
    let line = |row: &Row| {
        let kld = format!("{:.5} ± {:.5}", row.kld.value, row.kld.error);
        vec![row.kv_upgrade.clone(), kld, format!("{:.3}", row.seconds), bytes(row.kv_bytes as u64)]
    };
    print(&table(&[vec![head], rows.iter().map(line).collect()].concat()))?;
    Ok(Code::Success)
}

/// Returns the cache of some tokens.
fn evaluated(runtime: &Runtime, tokens: &[u32], keep_inputs: bool) -> anyhow::Result<KvCache> {
    let mut cache = runtime.new_cache(tokens.len())?;
    if keep_inputs {
        runtime.keep_inputs(&mut cache)?;
    }
    runtime.hidden(&mut cache, tokens, Want::LastOnly)?;
    Ok(cache)
}

/// Returns the logits after each of the next tokens.
fn continued(runtime: &Runtime, mut cache: KvCache, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
    Ok(runtime.forward(&mut cache, tokens, Want::All)?)
}
