//! `impasto truncate`.

use impasto::truncate;
use impasto_container::Summary;
use serde_json::{Value, json};

use crate::args::{Args, Truncate};
use crate::exit::{Code, UsageError};
use crate::model::open;
use crate::output::{bytes, expansion_note, print, print_json, print_notes};
use crate::progress::bar;

pub fn run(args: &Args, command: &Truncate) -> anyhow::Result<Code> {
    let spinner = bar(args, 0);
    spinner.set_message(format!("copying {}", command.file.display()));
    let done = job(args, command)?;
    spinner.finish_and_clear();
    print_notes(&expansion_note(&done.summary).into_iter().collect::<Vec<_>>());
    match args.json {
        true => print_json(&done.to_json())?,
        false => print(&done.to_text())?,
    }
    Ok(Code::Success)
}

/// A file that was truncated.
pub struct Done {
    file: String,
    summary: Summary,
    /// Units of the file that it was made from.
    units_before: usize,
    weights: u64,
}

/// Writes the smaller file.
pub fn job(args: &Args, command: &Truncate) -> anyhow::Result<Done> {
    let cut = command.cut.cut().ok_or(UsageError("one of --budget, --layer and --bpw is required"))?;
    let file = open(args, &command.file, None)?;
    let summary = truncate(&file, &cut, &command.output)?;
    let (units_before, weights) = (file.reader().units().len(), file.weights());
    Ok(Done { file: command.output.display().to_string(), summary, units_before, weights })
}

impl Done {
    fn bits(&self) -> f64 {
        self.summary.file_length as f64 * 8.0 / self.weights.max(1) as f64
    }

    pub fn to_json(&self) -> Value {
        json!({
            "file": self.file, "root": impasto::hex(&self.summary.root), "bytes": self.summary.file_length,
            "bits_per_weight": self.bits(), "units": self.summary.units, "units_before": self.units_before,
        })
    }

    fn to_text(&self) -> String {
        let (size, bits) = (bytes(self.summary.file_length), self.bits());
        format!(
            "{}: {size}, {bits:.3} bits per weight, {} of {} units\n",
            self.file, self.summary.units, self.units_before
        )
    }
}
