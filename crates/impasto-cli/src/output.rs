//! Results on stdout.

use std::io::{ErrorKind, Write};

use impasto_container::Summary;
use impasto_core::name::is_unsafe;

/// Writes text to stdout. Characters from names in files that must not reach a terminal are replaced.
pub fn print(text: &str) -> anyhow::Result<()> {
    let safe = text.replace(|c| is_unsafe(c) && !matches!(c, '\n' | '\t'), "\u{FFFD}");
    let mut out = std::io::stdout().lock();
    out.write_all(safe.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a JSON value and a line break to stdout.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut text = String::new();
    for c in format!("{value:#}\n").chars() {
        // Those that JSON does not escape are in strings, and have four digits.
        match is_unsafe(c) && c != '\n' {
            true => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => text.push(c),
        }
    }
    print(&text)
}

/// Whether the reader of stdout has closed it, which is not an error.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe))
}

/// Formats an error and its causes on one line. Causes that the message already contains are left out.
pub fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if !message.contains(&cause) {
            message = if message.is_empty() { cause } else { format!("{message}: {cause}") };
        }
    }
    message.replace(is_unsafe, " ")
}

/// Makes a name from a file safe to print on a terminal line.
pub fn shown(name: &str) -> String {
    name.replace(is_unsafe, "\u{FFFD}")
}

/// Returns a note if a file that was written expands to more than commands read without an option.
pub fn expansion_note(summary: &Summary) -> Option<String> {
    let expanded = summary.expansion.expanded;
    let is_within = summary.expansion.is_within();
    (!is_within).then(|| format!("the file expands to {}, so reading it needs --allow-expansion", bytes(expanded)))
}

/// Writes notes to stderr: information for the user that is not an error.
pub fn print_notes(notes: &[String]) {
    for note in notes {
        eprintln!("note: {}", shown(note));
    }
}

/// Formats a number of bytes, in powers of 1000.
pub fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} KB", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.2} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// Formats rows of text as columns: the first left-aligned, the others right-aligned.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, &width))| if c == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}
