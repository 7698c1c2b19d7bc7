//! `impasto verify`.

use impasto::verify::{Verdict, verify};
use serde_json::{Value, json};

use super::with_threads;
use crate::args::{Args, Verify};
use crate::exit::Code;
use crate::model::open;
use crate::output::{print, print_json};
use crate::progress::bar;

pub fn run(args: &Args, command: &Verify) -> anyhow::Result<Code> {
    let spinner = bar(args, 0);
    spinner.set_message(format!("verifying {}", command.file.display()));
    let (root, verdict) = job(args, command)?;
    spinner.finish_and_clear();
    if args.json {
        print_json(&to_json(command, &root, &verdict))?;
    } else {
        let mut text = String::new();
        let lists = [
            ("absent", &verdict.absent),
            ("damaged", &verdict.damaged),
            ("broken", &verdict.broken),
            ("unreadable", &verdict.unreadable),
        ];
        for (what, names) in lists {
            names.iter().for_each(|name| text.push_str(&format!("{what}: {name}\n")));
        }
        let result = if verdict.is_good() {
            "all good".to_owned()
        } else {
            lists.map(|(what, names)| format!("{} {what}", names.len())).join(", ")
        };
        print(&format!("{text}{}: {} units, {result}\nroot {root}\n", command.file.display(), verdict.units))?;
    }
    Ok(match verdict {
        v if !v.damaged.is_empty() => Code::Damaged,
        v if !v.broken.is_empty() => Code::Invalid,
        v if !v.absent.is_empty() => Code::Absent,
        v if !v.unreadable.is_empty() => Code::Invalid,
        _ => Code::Success,
    })
}

/// Verifies a file. Returns its root and the result.
pub fn job(args: &Args, command: &Verify) -> anyhow::Result<(String, Verdict)> {
    let file = open(args, &command.file, None)?;
    let verdict = with_threads(args, || verify(&file))??;
    Ok((impasto::hex(file.reader().root()), verdict))
}

/// The result for programs.
pub fn to_json(command: &Verify, root: &str, verdict: &Verdict) -> Value {
    json!({
        "file": command.file.display().to_string(), "root": root, "good": verdict.is_good(), "units": verdict.units,
        "absent": verdict.absent, "damaged": verdict.damaged, "broken": verdict.broken, "unreadable": verdict.unreadable,
    })
}
