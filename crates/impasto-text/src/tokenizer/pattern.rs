//! Patterns of steps, with bounds on their size, their memory and their time.

use fancy_regex::{Regex, RegexBuilder};
use serde::Deserialize;
use tokenizers::pattern::Pattern as Splits;
use tokenizers::{Offsets, Result};

use super::limits;

/// Longest pattern in bytes.
const MAX_PATTERN: usize = 1 << 12;
/// Largest program of a pattern in bytes.
const MAX_PROGRAM: usize = 4 << 20;
/// Matches between two looks at the clock. A match takes a million steps at most, which the library `fancy_regex` counts.
const MATCHES: usize = 16;

/// A pattern as `tokenizer.json` has it.
#[derive(Deserialize)]
enum Source {
    String(String),
    Regex(String),
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    regex: Regex,
    /// Bytes that take the place of each match; they count as growth.
    replacement: usize,
}

impl Pattern {
    /// Compiles a pattern, each match of which will be replaced by `replacement` bytes.
    ///
    /// # Errors
    /// If it is too long, or not a regular expression.
    pub fn new(json: &serde_json::Value, replacement: usize) -> Result<Self> {
        let text = match Source::deserialize(json).map_err(|error| format!("pattern: {error}"))? {
            Source::String(text) => fancy_regex::escape(&text).into_owned(),
            Source::Regex(text) => text,
        };
        if text.len() > MAX_PATTERN {
            return Err(format!("a pattern of {} bytes, of at most {MAX_PATTERN}", text.len()).into());
        }
        let mut builder = RegexBuilder::new(&text);
        builder.delegate_size_limit(MAX_PROGRAM).delegate_dfa_size_limit(MAX_PROGRAM);
        let regex = builder.build().map_err(|error| format!("pattern {text:?}: {error}"))?;
        Ok(Self { regex, replacement })
    }
}

impl Splits for &Pattern {
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        limits::check_time()?;
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut pieces, mut end) = (Vec::new(), 0);
        for (n, found) in self.regex.find_iter(text).enumerate() {
            let found = found.map_err(|_| limits::fail("a pattern takes too many steps on a text"))?;
            limits::grow(self.replacement)?;
            if n % MATCHES == 0 {
                limits::check_time()?;
            }
            if end != found.start() {
                pieces.push(((end, found.start()), false));
            }
            pieces.push(((found.start(), found.end()), true));
            end = found.end();
        }
        if end != text.len() {
            pieces.push(((end, text.len()), false));
        }
        Ok(pieces)
    }
}
