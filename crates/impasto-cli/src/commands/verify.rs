//! `impasto verify`.

use impasto::{File, verify::verify};
use serde_json::json;

use super::with_threads;
use crate::args::{Args, Verify};
use crate::exit::Code;
use crate::output::{print, print_json};

pub fn run(args: &Args, command: &Verify) -> anyhow::Result<Code> {
    let file = File::open(&command.file)?;
    let verdict = with_threads(args, || verify(&file))??;
    let root: String = file.reader().root().iter().map(|b| format!("{b:02x}")).collect();
    if args.json {
        print_json(&json!({
            "file": command.file.display().to_string(), "root": root, "good": verdict.is_good(), "units": verdict.units,
            "absent": verdict.absent, "damaged": verdict.damaged, "broken": verdict.broken,
        }))?;
    } else {
        let mut text = String::new();
        for (what, names) in [("absent", &verdict.absent), ("damaged", &verdict.damaged), ("broken", &verdict.broken)] {
            names.iter().for_each(|name| text.push_str(&format!("{what}: {name}\n")));
        }
        let bad = (verdict.absent.len(), verdict.damaged.len(), verdict.broken.len());
        let result = match bad {
            (0, 0, 0) => "all good".to_owned(),
            (absent, damaged, broken) => format!("{absent} absent, {damaged} damaged, {broken} broken"),
        };
        print(&format!("{text}{}: {} units, {result}\nroot {root}\n", command.file.display(), verdict.units))?;
    }
    Ok(match verdict {
        v if !v.damaged.is_empty() => Code::Damaged,
        v if !v.broken.is_empty() => Code::Invalid,
        v if !v.absent.is_empty() => Code::Absent,
        _ => Code::Success,
    })
}
