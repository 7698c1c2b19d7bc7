//! `impasto bench run`: measures the speed of a model, in the manner of llama.cpp's llama-bench.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use impasto_model::Session;
use impasto_model::sampling::SamplingParams;
use impasto_model::speculation::{Speculated, Speculator};
use impasto_runtime::{LoadTimes, Model, Residence};
use serde::Serialize;

use crate::args::{Args, BenchRun, TableFormat};
use crate::exit::{Code, UsageError};
use crate::model::{load_drafting, load_over};
use crate::output::{bytes, print, print_json};
use crate::progress::bar;

/// The result of one test.
#[derive(Serialize)]
struct Row {
    model: String,
    residence: &'static str,
    threads: usize,
    /// The model whose weights it shares.
    over: Option<String>,
    /// Bytes of the weights in memory, without shared ones.
    weight_bytes: usize,
    /// Mean bits of a packed weight, and the number of outliers.
    packed_bits: Option<f64>,
    outliers: Option<usize>,
    /// Bytes of the keys and values at the end of the test.
    kv_bytes: usize,
    /// Number of prompt tokens, of generated tokens, and of tokens already in the context.
    prompt: usize,
    generated: usize,
    depth: usize,
    /// Mean and standard deviation of tokens per second.
    mean: f64,
    deviation: f64,
    /// Seconds of each run.
    seconds: Vec<f64>,
    /// Counts of the drafts of all runs, the share of guesses that were kept, and tokens per pass over a draft.
    speculation: Option<Speculated>,
    acceptance: Option<f64>,
    tokens_per_pass: Option<f64>,
    load: LoadTimes,
}

/// A test: `prompt` tokens together, or `generated` tokens one by one, after `depth` tokens.
#[derive(Clone, Copy)]
struct Test {
    prompt: usize,
    generated: usize,
    depth: usize,
}

pub fn run(args: &Args, command: &BenchRun) -> anyhow::Result<Code> {
    let one = |prompt, generated| command.depth.iter().map(move |&depth| Test { prompt, generated, depth });
    let prompts = command.prompt.iter().filter(|&&n| n > 0).flat_map(|&n| one(n, 0));
    let generations = command.generate.iter().filter(|&&n| n > 0).flat_map(|&n| one(0, n));
    let tests: Vec<Test> = prompts.chain(generations).collect();
    if tests.is_empty() {
        return Err(UsageError("there is nothing to measure: -p and -n are 0").into());
    }
    if args.json && command.output.is_some_and(|format| format != TableFormat::Json) {
        return Err(UsageError("--json conflicts with --output md and --output csv").into());
    }
    if !command.delta.is_empty() && command.models.len() > 1 {
        return Err(UsageError("--delta needs one model, that of which all are deltas").into());
    }
    let counts = if command.thread_counts.is_empty() { vec![args.threads] } else { command.thread_counts.clone() };
    let mut rows = Vec::new();
    for path in &command.models {
        for &threads in &counts {
            let mut options = command.running.options(args, Residence::Packed)?;
            options.threads = threads;
            let model = load_drafting(args, path, command.cut.cut().as_ref(), &options, &command.drafts)?;
            // Writing packed weights would take time from what is measured.
            model.runtime().into_iter().for_each(|runtime| runtime.wait_for_pack());
            // All are in memory before any is measured.
            let deltas = command.delta.iter().map(|delta| load_over(args, &model, path, delta));
            let deltas = deltas.collect::<anyhow::Result<Vec<Model>>>()?;
            let models = [(&model, path)].into_iter().chain(deltas.iter().zip(&command.delta));
            let progress = bar(args, ((1 + deltas.len()) * tests.len() * command.repeat as usize) as u64);
            for (model, measured) in models {
                let over = (measured != path).then(|| path.display().to_string());
                for &test in &tests {
                    progress.set_message(name(test));
                    let row = measure(model, measured, command, test, &mut || progress.inc(1))?;
                    rows.push(Row { over: over.clone(), ..row });
                }
            }
            progress.finish_and_clear();
        }
    }
    let default = if args.json { TableFormat::Json } else { TableFormat::Md };
    let format = command.output.unwrap_or(default);
    match format {
        TableFormat::Md => print(&markdown(&rows))?,
        TableFormat::Csv => print(&csv(&rows))?,
        TableFormat::Json => print_json(&serde_json::to_value(&rows)?)?,
    }
    Ok(Code::Success)
}

/// The name of a test, as in llama-bench.
fn name(test: Test) -> String {
    let what = if test.prompt > 0 { format!("pp{}", test.prompt) } else { format!("tg{}", test.generated) };
    if test.depth > 0 { format!("{what} @ d{}", test.depth) } else { what }
}

fn measure(model: &Model, path: &Path, command: &BenchRun, test: Test, done: &mut dyn FnMut()) -> anyhow::Result<Row> {
    let (network, repeat) = (model.network(), command.repeat);
    let count = test.prompt + test.generated;
    let tokens = match &command.text {
        Some(text) => tokens_of(model, text, test.depth + count)?,
        None => tokens(test.depth + count, network.vocab_size()),
    };
    let (before, measured) = tokens.split_at(test.depth);
    if test.generated > 0
        && let Some(speculator) = command.drafts.speculator(model, 0)?
    {
        return measure_drafts(model, path, command, test, &tokens[..test.depth.max(1)], speculator, done);
    }
    let mut cache = network.new_cache(tokens.len())?;
    let mut logits = Vec::new();
    if !before.is_empty() {
        network.next_logits(&mut cache, before, &mut logits)?;
    }
    let mut seconds = Vec::new();
    // The first run warms up the caches. Every run allocates key/value pages, as a new sequence does.
    for round in 0..=repeat {
        cache.truncate(test.depth);
        let begun = Instant::now();
        let pieces = if test.prompt > 0 { measured.chunks(count) } else { measured.chunks(1) };
        for piece in pieces {
            network.next_logits(&mut cache, piece, &mut logits)?;
        }
        if round > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
            done();
        }
    }
    Ok(row(model, path, test, seconds, cache.memory_bytes()))
}

/// Measures greedy generation with drafts after `context`.
fn measure_drafts(
    model: &Model,
    path: &Path,
    command: &BenchRun,
    test: Test,
    context: &[u32],
    mut speculator: Speculator<'static>,
    done: &mut dyn FnMut(),
) -> anyhow::Result<Row> {
    let network = model.network();
    let mut session = Session::with_capacity(network, SamplingParams::default(), context.len() + test.generated)?;
    session.extend(context)?;
    let mut seconds = Vec::new();
    // The first run warms up the caches, and finds out which drafts pay.
    for round in 0..=command.repeat {
        session.truncate(context.len());
        session.logits()?;
        let begun = Instant::now();
        let mut left = test.generated;
        while left > 0 {
            left -= speculator.step(&mut session, left)?.len();
        }
        if round > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
            done();
        } else {
            speculator.take_counts();
        }
    }
    let counts = speculator.counts();
    Ok(Row {
        speculation: Some(counts),
        acceptance: Some(counts.acceptance()),
        tokens_per_pass: Some(counts.tokens_per_pass()),
        ..row(model, path, test, seconds, session.cache().memory_bytes())
    })
}

/// Returns the row of a test whose runs took `seconds`.
fn row(model: &Model, path: &Path, test: Test, seconds: Vec<f64>, kv_bytes: usize) -> Row {
    let count = test.prompt + test.generated;
    let rates: Vec<f64> = seconds.iter().map(|s| count as f64 / s).collect();
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let square = |rate: &f64| (rate - mean) * (rate - mean);
    let deviation = (rates.iter().map(square).sum::<f64>() / (rates.len() - 1).max(1) as f64).sqrt();
    let packing = model.runtime().map(|runtime| runtime.packing()).filter(|packing| packing.weights > 0);
    Row {
        model: path.display().to_string(),
        over: None,
        residence: residence(model),
        threads: model.threads(),
        weight_bytes: model.memory_bytes(),
        packed_bits: packing.map(|packing| packing.mean_width()),
        outliers: packing.map(|packing| packing.outliers),
        kv_bytes,
        prompt: test.prompt,
        generated: test.generated,
        depth: test.depth,
        mean,
        deviation,
        seconds,
        speculation: None,
        acceptance: None,
        tokens_per_pass: None,
        load: model.load_times(),
    }
}

fn residence(model: &Model) -> &'static str {
    match model.residence() {
        Residence::Packed => "packed",
        Residence::Coded => "coded",
        Residence::Float => "float",
    }
}

/// Returns the first tokens of a text.
fn tokens_of(model: &Model, text: &Path, count: usize) -> anyhow::Result<Vec<u32>> {
    let name = || text.display().to_string();
    let tokens = model.tokenizer()?.encode(&std::fs::read_to_string(text).with_context(name)?, true)?;
    anyhow::ensure!(tokens.len() >= count, "{}: the text has {} tokens, not {count}", name(), tokens.len());
    Ok(tokens[..count].to_vec())
}

/// Returns arbitrary tokens, the same in each run.
fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize % vocabulary) as u32
    };
    (0..count).map(|_| next()).collect()
}

fn test(row: &Row) -> String {
    name(Test { prompt: row.prompt, generated: row.generated, depth: row.depth })
}

fn markdown(rows: &[Row]) -> String {
    let head = ["model", "residence", "weights", "kv", "threads", "test", "t/s", "load"].map(str::to_owned).to_vec();
    let line = |row: &Row| {
        let (weights, kv) = (bytes(row.weight_bytes as u64), bytes(row.kv_bytes as u64));
        let drafts = row.tokens_per_pass.map_or(String::new(), |tokens| format!(" ({tokens:.2} tokens per draft)"));
        let speed = format!("{:.2} ± {:.2}{drafts}", row.mean, row.deviation);
        let load = format!("{:.2} s", row.load.seconds);
        let model = match &row.over {
            Some(base) => format!("{} over {base}", row.model),
            None => row.model.clone(),
        };
        vec![model, row.residence.to_owned(), weights, kv, row.threads.to_string(), test(row), speed, load]
    };
    let cells = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let rule = "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |\n".to_owned();
    [cells(head), rule].into_iter().chain(rows.iter().map(|row| cells(line(row)))).collect()
}

fn csv(rows: &[Row]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let head =
        "model,residence,weight_bytes,kv_bytes,threads,test,tokens_per_second,deviation,load_seconds\n".to_owned();
    let line = |row: &Row| {
        let (model, test) = (quoted(&row.model), quoted(&test(row)));
        format!(
            "{model},{},{},{},{},{test},{:.4},{:.4},{:.4}\n",
            row.residence, row.weight_bytes, row.kv_bytes, row.threads, row.mean, row.deviation, row.load.seconds
        )
    };
    std::iter::once(head).chain(rows.iter().map(line)).collect()
}
