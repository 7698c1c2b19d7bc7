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
/// Steps of a search that goes back, at one place of a text. Patterns of real tokenizers take a few.
const MAX_STEPS: usize = 20_000;

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
    /// Whether `regex` matches only where a search begins. A pattern with look-around or references back is tried at each
    /// place in turn, so that the time between two of them can be checked.
    tries_places: bool,
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
        let is_linear = regex_syntax::parse(&text).is_ok();
        let anchored = (!is_linear).then(|| compile(&format!(r"\G(?:{text})")).ok()).flatten();
        let tries_places = anchored.is_some();
        let regex = anchored.map_or_else(|| compile(&text), Ok).map_err(|error| format!("pattern: {error}"))?;
        Ok(Self { regex, tries_places, replacement })
    }

    /// Finds the first match at or after a place.
    fn find(&self, text: &str, from: usize) -> Result<Option<(usize, usize)>> {
        let mut at = from;
        loop {
            limits::check_time()?;
            let found = self.regex.find_from_pos(text, at);
            let found = found.map_err(|_| limits::fail("a pattern takes too many steps on a text"))?;
            match found {
                Some(found) => return Ok(Some((found.start(), found.end()))),
                None if self.tries_places && at < text.len() => at = next(text, at),
                None => return Ok(None),
            }
        }
    }
}

fn compile(pattern: &str) -> fancy_regex::Result<Regex> {
    let mut builder = RegexBuilder::new(pattern);
    builder.backtrack_limit(MAX_STEPS).delegate_size_limit(MAX_PROGRAM).delegate_dfa_size_limit(MAX_PROGRAM);
    builder.build()
}

/// The place after the character at `at`, or after the end.
fn next(text: &str, at: usize) -> usize {
    at + text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
}

impl Splits for &Pattern {
    /// Finds all matches; an empty one right after another match does not count, as in the library.
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut pieces, mut covered) = (Vec::new(), 0);
        let (mut from, mut last) = (0, None);
        while from <= text.len() {
            let Some((start, end)) = self.find(text, from)? else { break };
            from = if start == end { next(text, end) } else { end };
            if start == end && last == Some(end) {
                continue;
            }
            last = Some(end);
            limits::grow(self.replacement)?;
            if covered != start {
                pieces.push(((covered, start), false));
            }
            pieces.push(((start, end), true));
            covered = end;
        }
        if covered != text.len() {
            pieces.push(((covered, text.len()), false));
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::utils::SysRegex;

    const PATTERNS: [&str; 12] = [
        "",
        "a*",
        "a*|b",
        r"\s+(?!\S)|\s+",
        r"(?!b)|a",
        r"(?<=a)b|(?<!a)c",
        r"\b(?=a)",
        r"(a|b)\1",
        r"^a|b$",
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        r"(?x) a (?=b) # a comment",
    ];

    proptest! {
        #[test]
        fn the_matches_are_those_of_the_library(text in "([ab]|[a-c \n]|\\PC){0,12}") {
            thread_local!(static BOTH: Vec<(Pattern, SysRegex)> = PATTERNS.iter().map(|pattern| {
                (Pattern::new(&json!({ "Regex": pattern }), 0).unwrap(), SysRegex::new(pattern).unwrap())
            }).collect());
            BOTH.with(|both| for (i, (pattern, library)) in both.iter().enumerate() {
                assert_eq!(pattern.find_matches(&text).unwrap(), library.find_matches(&text).unwrap(), "{}", PATTERNS[i]);
            });
        }
    }
}
