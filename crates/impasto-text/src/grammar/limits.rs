//! What a constraint may cost.

use std::thread;

use llguidance::api::ParserLimits;
use serde_json::Value;

use crate::{Result, TextError};

/// Longest constraint in bytes.
const MAX_BYTES: usize = 256 << 10;
/// Deepest nesting of brackets, in JSON, regular expressions and grammars.
const MAX_DEPTH: usize = 64;
/// The stack for compiling, in bytes: enough for the longest chain of references that fits in [`MAX_BYTES`].
const STACK: usize = 256 << 20;

/// The limits of llguidance: some tens of milliseconds and of megabytes for a constraint, some milliseconds for a mask.
pub(super) fn of_parser() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

pub(super) fn check_length(bytes: usize) -> Result<()> {
    if bytes > MAX_BYTES {
        return Err(TextError::grammar(&format!("{bytes} bytes, of at most {MAX_BYTES}")));
    }
    Ok(())
}

fn too_deep() -> TextError {
    TextError::grammar(&format!("nested more than {MAX_DEPTH} deep"))
}

/// Checks the length and the nesting of JSON.
pub(super) fn check_json(json: &Value) -> Result<()> {
    let mut level: Vec<&Value> = vec![json];
    for _ in 0..=MAX_DEPTH {
        let children = level.iter().flat_map(|value| {
            let (list, object) = (value.as_array(), value.as_object());
            list.into_iter().flatten().chain(object.into_iter().flat_map(|object| object.values()))
        });
        level = children.collect();
        if level.is_empty() {
            return check_length(json.to_string().len());
        }
    }
    Err(too_deep())
}

/// Checks the length and the nesting of a regular expression or a grammar.
pub(super) fn check_text(text: &str) -> Result<()> {
    if text.trim().is_empty() {
        return Err(TextError::grammar("it is empty"));
    }
    let mut depth = 0usize;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
    }
    check_length(text.len())
}

/// Runs `call` in a thread with a large stack.
///
/// # Errors
/// [`TextError::System`] if the thread cannot be started.
pub(super) fn with_stack<T: Send>(call: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK);
        let started = builder.spawn_scoped(scope, call).map_err(TextError::system("cannot start a thread"))?;
        started.join().map_err(|_| TextError::grammar("the grammar library panicked"))
    })
}
