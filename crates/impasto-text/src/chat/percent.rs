//! The operator `%`, which formats if its left operand is a string. The parser has it only for numbers, so it is rewritten
//! to a filter that decides by the value.

use minijinja::formatting::{self, FormatStyle};
use minijinja::value::{Tuple, Value};
use minijinja::{Error, State, context};

use super::source::tokens;

/// The name of the filter.
pub(super) const PERCENT: &str = "percent";
/// Words that are operators or start a tag: an operand follows.
const KEYWORDS: [&str; 14] =
    ["and", "or", "not", "in", "is", "if", "elif", "else", "set", "do", "for", "with", "call", "filter"];

/// `left % right`. If `left` is a string, it is a format, and a tuple has one value for each of its fields.
pub(super) fn percent(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    let Some(format) = left.as_str() else {
        return state.env().compile_expression("left % right")?.eval(context! { left, right });
    };
    let values = right.downcast_object_ref::<Tuple>().map_or(std::slice::from_ref(right), |tuple| &tuple[..]);
    formatting::format(FormatStyle::Printf, format, values).map(Value::from)
}

/// Rewrites the operators `%` in the code of a tag: `a * b % c.d` becomes `(a * b )|percent( c.d)`.
pub(super) fn with_percent(code: &str) -> String {
    if !code.contains('%') {
        return code.to_owned();
    }
    let mut written = Written::default();
    let (mut level, mut outer) = (Level::default(), Vec::new());
    let mut rest = code;
    for token in tokens(code) {
        rest = &rest[token.len()..];
        if token.starts_with(char::is_whitespace) {
            written.push(token);
            continue;
        }
        level.end_before(token, &mut written);
        match token {
            "%" if level.complete => level.percent(&mut written),
            _ => {
                level.take(token, written.tokens.len());
                written.push(token);
            }
        }
        match token {
            "(" | "[" | "{" => {
                let inner = Level { start: written.tokens.len(), ..Level::default() };
                outer.push(std::mem::replace(&mut level, inner));
            }
            ")" | "]" | "}" => {
                if let Some(around) = outer.pop() {
                    level = Level { complete: true, ..around };
                }
            }
            _ => {}
        }
    }
    // What is left over starts with a string literal without an end, which the parser refuses.
    level.end(&mut written);
    outer.iter_mut().rev().for_each(|level| level.end(&mut written));
    written.text() + rest
}

/// The rewritten code.
#[derive(Default)]
struct Written<'a> {
    tokens: Vec<&'a str>,
    /// The tokens that brackets open before, in any order.
    opened: Vec<usize>,
}

impl<'a> Written<'a> {
    fn push(&mut self, token: &'a str) {
        self.tokens.push(token);
    }

    fn text(mut self) -> String {
        self.opened.sort_unstable();
        let mut opened = self.opened.into_iter().peekable();
        let mut text = String::new();
        for (place, token) in self.tokens.iter().enumerate() {
            while opened.next_if_eq(&place).is_some() {
                text.push('(');
            }
            text.push_str(token);
        }
        text
    }
}

/// What is known of the code since the innermost open bracket.
#[derive(Default)]
struct Level<'a> {
    /// The token where the factors start that the next `%` takes as its left operand.
    start: usize,
    /// Whether those factors are more than one value with its attributes, arguments and filters.
    compound: bool,
    /// Whether a value has ended, so that an operator may follow.
    complete: bool,
    /// Whether the right operand of a `%` is being read.
    in_operand: bool,
    last: &'a str,
}

impl<'a> Level<'a> {
    /// Ends the right operand of a `%` if this token is not part of it.
    fn end_before(&mut self, token: &str, written: &mut Written) {
        let goes_on = match token {
            ")" | "]" | "}" => false,
            "(" | "[" | "." | "|" | "is" | "**" => true,
            _ if is_string(token) && is_string(self.last) => true,
            _ => !self.complete,
        };
        if !goes_on {
            self.end(written);
        }
    }

    fn end(&mut self, written: &mut Written) {
        if std::mem::take(&mut self.in_operand) {
            written.push(")");
        }
    }

    /// Replaces a `%`.
    fn percent(&mut self, written: &mut Written) {
        if self.compound {
            written.opened.push(self.start);
            written.push(")");
        }
        written.push("|");
        written.push(PERCENT);
        written.push("(");
        *self = Level { start: self.start, in_operand: true, ..Level::default() };
    }

    /// Goes past a token, which becomes token number `place` of the rewritten code.
    fn take(&mut self, token: &'a str, place: usize) {
        let is_keyword = KEYWORDS.contains(&token);
        let is_value = is_string(token) || token.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        match token {
            "." | "|" => self.complete = false,
            "*" | "/" | "//" | "**" => {
                self.complete = false;
                self.compound |= !self.in_operand;
            }
            // A sign.
            "-" | "+" if !self.complete => self.compound |= !self.in_operand,
            "(" | "[" | "{" | ")" | "]" | "}" => {}
            "is" => self.complete = false,
            _ if is_keyword => self.restart(place + 1),
            _ if is_value && self.complete && !(is_string(token) && is_string(self.last)) => {
                self.restart(place);
                self.complete = true;
            }
            _ if is_value => self.complete = true,
            _ => self.restart(place + 1),
        }
        self.last = token;
    }

    /// Starts new factors.
    fn restart(&mut self, place: usize) {
        if !self.in_operand {
            (self.start, self.compound) = (place, false);
        }
        self.complete = false;
    }
}

fn is_string(token: &str) -> bool {
    token.starts_with(['\'', '"'])
}
