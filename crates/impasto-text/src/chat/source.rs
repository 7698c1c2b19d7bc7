//! What is rewritten in the text of a template, because minijinja's syntax or operators do not have it.

/// The filter that carries out the operator `%` of strings.
pub(super) const PERCENT: &str = "percent";

/// Rewrites the tags of a template: those named `generation` and `endgeneration`, with which transformers marks the
/// assistant's tokens for training, become tags without effect; `'format' % value` becomes `'format'|percent(value)`.
pub(super) fn rewritten(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = match tag.as_bytes().get(1) {
            Some(b'%') => end(tag, "%}"),
            Some(b'{') => end(tag, "}}"),
            Some(b'#') => tag.find("#}").map(|at| at + 2),
            _ => Some(1),
        };
        let Some(end) = end else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end);
        out.push_str(&without_mark(tag).unwrap_or_else(|| match tag.starts_with("{#") {
            true => tag.to_owned(),
            false => with_percent(tag),
        }));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The end of the tag at the start of `text`: after the first `mark` that is not in a string.
fn end(text: &str, mark: &str) -> Option<usize> {
    let mut at = 2;
    loop {
        let next = text.get(at..)?;
        if next.starts_with(mark) {
            return Some(at + mark.len());
        }
        at += token(next)?.len();
    }
}

/// The string literal, word or character at the start of `text`.
fn token(text: &str) -> Option<&str> {
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
        c => c.len_utf8(),
    };
    Some(&text[..length])
}

/// A tag without effect in place of a `generation` or `endgeneration` tag, with its whitespace control.
fn without_mark(tag: &str) -> Option<String> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let word = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
    let sign = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
    let (left, right) = (sign(inner.chars().next()), sign(inner.chars().next_back()));
    matches!(word, "generation" | "endgeneration").then(|| format!("{{%{left} set _ = 0 {right}%}}"))
}

/// The right operand of an operator `%` that is being read: a value with its attributes, arguments and filters.
struct Operand {
    /// Number of brackets around it.
    depth: usize,
    /// Whether it may end here: not before its value, nor after the `.` or `|` of an attribute or filter.
    complete: bool,
}

impl Operand {
    /// Whether the operand ends before a token that starts with `c`.
    fn ends_before(&self, c: char) -> bool {
        match c {
            ')' | ']' | '}' => true,
            '(' | '[' | '.' | '|' => false,
            c => self.complete && !c.is_whitespace(),
        }
    }

    /// Adds a token that starts with `c`.
    fn take(&mut self, c: char) {
        match c {
            '.' | '|' => self.complete = false,
            '-' => {}
            c if c.is_whitespace() => {}
            _ => self.complete = true,
        }
    }
}

/// Replaces the operator `%` after string literals. (After other values it is the remainder of a division.)
fn with_percent(tag: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(tag.len()), tag);
    let (mut operands, mut depth, mut after_literal) = (Vec::<Operand>::new(), 0usize, false);
    while let Some(word) = token(rest) {
        rest = &rest[word.len()..];
        let c = word.chars().next().unwrap_or_default();
        while operands.pop_if(|operand| operand.depth == depth && operand.ends_before(c)).is_some() {
            out.push(')');
        }
        if c == '%' && after_literal && !rest.starts_with('}') {
            out.push_str(&format!("|{PERCENT}("));
            operands.push(Operand { depth, complete: false });
        } else {
            out.push_str(word);
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if let Some(operand) = operands.last_mut().filter(|operand| operand.depth == depth) {
                operand.take(c);
            }
        }
        after_literal = matches!(c, '\'' | '"') || after_literal && c.is_whitespace();
    }
    out + rest
}
