//! `impasto truncate`.

use impasto::truncate;
use serde_json::json;

use crate::args::{Args, Truncate};
use crate::exit::{Code, UsageError};
use crate::model::open;
use crate::output::{bytes, expansion_note, print, print_json, print_notes};
use crate::progress::bar;

pub fn run(args: &Args, command: &Truncate) -> anyhow::Result<Code> {
    let cut = command.cut.cut().ok_or(UsageError("one of --budget, --layer and --bpw is required"))?;
    let file = open(args, &command.file, None)?;
    let spinner = bar(args, 0);
    spinner.set_message(format!("copying {}", command.file.display()));
    let summary = truncate(&file, &cut, &command.output)?;
    spinner.finish_and_clear();
    print_notes(&expansion_note(&summary).into_iter().collect::<Vec<_>>());
    let (units, of) = (summary.units, file.reader().units().len());
    let bits = summary.file_length as f64 * 8.0 / file.weights().max(1) as f64;
    if args.json {
        let root = impasto::hex(&summary.root);
        return print_json(&json!({
            "file": command.output.display().to_string(), "root": root, "bytes": summary.file_length,
            "bits_per_weight": bits, "units": units, "units_before": of,
        }))
        .map(|()| Code::Success);
    }
    let size = bytes(summary.file_length);
    print(&format!("{}: {size}, {bits:.3} bits per weight, {units} of {of} units\n", command.output.display()))?;
    Ok(Code::Success)
}
