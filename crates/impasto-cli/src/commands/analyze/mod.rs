//! `impasto analyze`.

mod page;
mod pictures;
mod scatter;
mod sensitivity;
mod text;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context;
use impasto::Checkpoint;
use impasto::analysis::{
    Analysis, AnalysisOptions, AnalysisProgress, TensorAnalysis, ToolAnalysis, ToolMeans, analyze,
};
use impasto_core::files::{self, AtomicFile};
use serde::Serialize;

use crate::args::{Analyze, AnalyzeTools, Args, EffortArg};
use crate::exit::{Code, UsageError};
use crate::model::memory_limit;
use crate::output::{print, print_json, shown};
use crate::progress::bar;

pub fn run(args: &Args, what: &Analyze) -> anyhow::Result<Code> {
    match what {
        Analyze::Tools(command) => tools(args, command),
        Analyze::Sensitivity(command) => sensitivity::run(args, command),
    }
}

fn tools(args: &Args, command: &AnalyzeTools) -> anyhow::Result<Code> {
    if command.tools == impasto::encode::Tools::NONE {
        return Err(UsageError("--tools none leaves nothing to analyse").into());
    }
    // Folders are made, and a destination that cannot be written is found, before the work.
    let files = [&command.report, &command.html].map(Option::as_deref);
    let prepared = files.map(|file| file.map(Destination::prepare).transpose());
    let [report, page] = prepared;
    let (report, page) = (report?, page?);
    let checkpoint = Checkpoint::open(&command.model)?;
    let options = AnalysisOptions {
        bits_per_weight: command.bpw,
        tools: command.tools,
        effort: command.effort.into(),
        tensors: command.tensor.clone(),
        weights: command.weights,
        threads: args.threads,
        memory_limit: Some(memory_limit(args)),
    };
    let progress = bar(args, 0);
    let watch = |step: AnalysisProgress| {
        match step {
            AnalysisProgress::Measuring(pass) => progress.set_message(format!("measuring rates, pass {pass}")),
            AnalysisProgress::Tensor(name, done, all) => {
                progress.set_message(format!("analysing {done}/{all} {}", shown(name)));
            }
        }
        ControlFlow::Continue(())
    };
    let analysis = analyze(&checkpoint, &options, &watch).with_context(|| command.model.display().to_string())?;
    progress.finish_and_clear();
    let result = Result { model: command.model.display().to_string(), command: command_line(command), analysis };
    if let Some(page) = page {
        page.write(page::html(&result).as_bytes())?;
    }
    deliver(args, &result, report, || text::tables(&result.analysis, command.all_tensors))
}

/// Writes a result to the report, if there is one, and prints it, as JSON or as tables.
fn deliver(
    args: &Args,
    result: &impl Serialize,
    report: Option<Destination>,
    tables: impl FnOnce() -> String,
) -> anyhow::Result<Code> {
    if let Some(report) = report {
        report.write(format!("{}\n", serde_json::to_string_pretty(result)?).as_bytes())?;
    }
    if args.json {
        print_json(&serde_json::to_value(result)?)?;
    } else {
        print(&tables())?;
    }
    Ok(Code::Success)
}

/// What is printed or written.
#[derive(Serialize)]
struct Result {
    /// The model, as the command line names it.
    model: String,
    /// A command line that gives the same result.
    command: String,
    #[serde(flatten)]
    analysis: Analysis,
}

/// Tools that are named next to a tensor, and what leaving one out must cost, in bits per weight.
const NAMED: usize = 3;
const LEAST: f64 = 0.01;

/// Returns the tools that it costs most to leave out of a tensor, the first one most.
fn named(tensor: &TensorAnalysis) -> impl Iterator<Item = &ToolAnalysis> {
    let mut tools: Vec<_> = tensor.tools.iter().filter(|tool| tool.left_out >= LEAST).collect();
    tools.sort_by(|a, b| b.left_out.total_cmp(&a.left_out));
    tools.into_iter().take(NAMED)
}

/// Returns the tensor on which leaving out the n-th tool costs most, and how much; `None` if that is next to nothing.
fn most<'a>(analysis: &'a Analysis, n: usize, tool: &ToolMeans) -> Option<(&'a str, f64)> {
    let on = analysis.tensors.get(tool.most_on)?;
    let cost = on.tools.get(n)?.left_out;
    (cost >= LEAST).then_some((&on.name, cost))
}

/// A file to be written. It gets its name once it is complete.
struct Destination<'a> {
    path: &'a Path,
    file: AtomicFile,
    _folders: files::MadeFolders,
}

impl<'a> Destination<'a> {
    fn prepare(path: &'a Path) -> anyhow::Result<Self> {
        let name = || path.display().to_string();
        let folders = files::prepare(path).with_context(name)?;
        Ok(Destination { path, file: AtomicFile::create(path).with_context(name)?, _folders: folders })
    }

    fn write(mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let name = || self.path.display().to_string();
        self.file.write_all(bytes).with_context(name)?;
        self.file.commit().with_context(name)
    }
}

/// Quotes a word of a command line, if it must be.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:+,=@%".contains(c);
    if text.chars().all(is_plain) && !text.is_empty() {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Returns the options that the result depends on, as a command line.
fn command_line(command: &AnalyzeTools) -> String {
    let mut line = format!("impasto analyze tools {}", quoted(&command.model.display().to_string()));
    line += &format!(" --bpw {} --weights {}", command.bpw, command.weights);
    if command.tools != impasto::encode::Tools::ALL {
        line += &format!(" --tools {}", command.tools);
    }
    line += match command.effort {
        EffortArg::Fast => " --effort fast",
        EffortArg::Normal => " --effort normal",
        EffortArg::Best => " --effort best",
    };
    command.tensor.iter().for_each(|name| line += &format!(" --tensor {}", quoted(name)));
    line
}
