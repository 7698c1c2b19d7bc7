//! What is checked and rewritten in the text of a template before it is parsed.

use super::percent::with_percent;
use crate::{Result, TextError};

/// Longest template, in bytes. Known templates have a few tens of kilobytes.
pub(super) const MAX_SOURCE: usize = 1 << 20;
/// The largest number of tokens in one tag. The parser recurses along some chains of operators.
pub(super) const MAX_TOKENS: usize = 2000;
/// The largest number of blocks within each other, where `elif` is a block in its `if`.
pub(super) const MAX_BLOCKS: usize = 200;

/// Rewrites the tags of a template: those named `generation` and `endgeneration`, with which transformers marks the
/// assistant's tokens for training, become tags without effect; `format % value` becomes `format|percent(value)`.
///
/// # Errors
/// [`TextError::ChatLimit`] if the template exceeds a limit. Within them, parsing needs a bounded stack.
pub(super) fn rewritten(template: &str) -> Result<String> {
    if template.len() > MAX_SOURCE {
        let limit = format!("the template has {} bytes, and the limit is {MAX_SOURCE}", template.len());
        return Err(TextError::ChatLimit(limit));
    }
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut blocks = Blocks::default();
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'%') if basic_tag(tag, "raw").is_some() => raw_end(tag),
            Some(b'%') => end(tag, "%}"),
            Some(b'{') => end(tag, "}}"),
            Some(b'#') => tag[2..].find("#}").map(|at| at + 4),
            _ => Some(1),
        };
        // Without an end, the parser says what is wrong.
        let Some(end) = end else {
            check_tokens(tag)?;
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end);
        let is_code = (tag.starts_with("{%") || tag.starts_with("{{")) && raw_end(tag).is_none();
        match inside(tag).filter(|_| is_code) {
            Some((left, inner, right)) => {
                check_tokens(inner)?;
                if tag.starts_with("{%") {
                    blocks.tag(inner)?;
                }
                out.push_str(left);
                match inner.trim() {
                    "generation" | "endgeneration" => out.push_str(" set _ = 0 "),
                    _ => out.push_str(&with_percent(inner)),
                }
                out.push_str(right);
            }
            None => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Splits a tag into its start with whitespace control, its code, and its end with whitespace control.
fn inside(tag: &str) -> Option<(&str, &str, &str)> {
    let code = tag.get(2..tag.len().checked_sub(2)?)?;
    let left = usize::from(code.starts_with(['-', '+']));
    let right = usize::from(code.len() > left && code.ends_with(['-', '+']));
    Some((&tag[..2 + left], &code[left..code.len() - right], &tag[tag.len() - 2 - right..]))
}

/// The end of a `raw` block, if one starts at the start of `text`.
fn raw_end(text: &str) -> Option<usize> {
    let mut at = basic_tag(text, "raw")?;
    loop {
        at += text[at..].find("{%")?;
        match basic_tag(&text[at..], "endraw") {
            Some(length) => return Some(at + length),
            None => at += 2,
        }
    }
}

/// The length of the tag with only this word, if one starts at the start of `text`.
fn basic_tag(text: &str, word: &str) -> Option<usize> {
    let signs = |text: &'_ str| usize::from(text.starts_with(['-', '+']));
    let rest = text.strip_prefix("{%")?;
    let rest = rest[signs(rest)..].trim_ascii_start().strip_prefix(word)?.trim_ascii_start();
    let rest = rest[signs(rest)..].strip_prefix("%}")?;
    Some(text.len() - rest.len())
}

/// The end of the tag at the start of `text`: after the first `mark` that is not in brackets or a string.
fn end(text: &str, mark: &str) -> Option<usize> {
    let (mut at, mut depth) = (2, 0i64);
    loop {
        let next = text.get(at..)?;
        if depth == 0 && next.starts_with(mark) {
            return Some(at + mark.len());
        }
        let token = token(next)?;
        depth += match token {
            "(" | "[" | "{" => 1,
            ")" | "]" | "}" => -1,
            _ => 0,
        };
        at += token.len();
    }
}

/// The string literal, word, operator or character at the start of `text`.
pub(super) fn token(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let length = match first {
        '\'' | '"' => {
            let mut escaped = false;
            let closes = |(_, c): &(usize, char)| {
                let closes = *c == first && !escaped;
                escaped = *c == '\\' && !escaped;
                closes
            };
            1 + text[1..].char_indices().find(closes)?.0 + 1
        }
        c if is_word(c) => text.find(|c| !is_word(c)).unwrap_or(text.len()),
        '*' | '/' if text[1..].starts_with(first) => 2,
        c => c.len_utf8(),
    };
    Some(&text[..length])
}

/// The tokens at the start of `text`, up to a string literal without an end.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let token = token(rest)?;
        rest = &rest[token.len()..];
        Some(token)
    })
}

fn check_tokens(code: &str) -> Result<()> {
    let is_token = |token: &&str| !token.starts_with(char::is_whitespace);
    if tokens(code).filter(is_token).nth(MAX_TOKENS).is_some() {
        let start: String = code.trim_start().chars().take(20).collect();
        let limit = format!("the tag that starts with {start:?} is longer than the limit of {MAX_TOKENS} tokens");
        return Err(TextError::ChatLimit(limit));
    }
    Ok(())
}

/// The open blocks at a place in a template.
#[derive(Default)]
struct Blocks {
    /// For each open block, the number of its branches.
    branches: Vec<usize>,
    depth: usize,
}

impl Blocks {
    /// Goes past a tag with this code.
    fn tag(&mut self, code: &str) -> Result<()> {
        let word = tokens(code.trim_start()).next().unwrap_or_default();
        if word.starts_with("end") {
            self.depth -= self.branches.pop().unwrap_or(0);
        } else if word == "elif" {
            if let Some(branches) = self.branches.last_mut() {
                *branches += 1;
                self.depth += 1;
            }
        } else if opens(word, code) {
            self.branches.push(1);
            self.depth += 1;
        }
        if self.depth > MAX_BLOCKS {
            let limit = format!("the template has more than {MAX_BLOCKS} blocks within each other, the limit");
            return Err(TextError::ChatLimit(limit));
        }
        Ok(())
    }
}

/// Whether a tag has an end tag. A `set` with a value has none; taking one that is hard to tell as open only counts more.
fn opens(word: &str, code: &str) -> bool {
    match word {
        "if" | "for" | "macro" | "call" | "filter" | "block" | "with" | "autoescape" => true,
        "set" => !code.contains('='),
        _ => false,
    }
}
