//! What a constraint may cost.

use std::collections::HashSet;
use std::thread;

use llguidance::api::ParserLimits;
use serde_json::{Map, Value};

use crate::{Result, TextError};

/// Longest constraint in bytes.
const MAX_BYTES: usize = 256 << 10;
/// Deepest nesting of brackets, in JSON and regular expressions.
const MAX_DEPTH: usize = 64;
/// Most patterns and formats of a schema that intersects schemas: the time of intersecting patterns doubles with each.
const MAX_PATTERNS: usize = 8;
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

/// Keywords whose schemas apply beside those of the object they are in.
const COMBINATORS: [&str; 3] = ["$ref", "anyOf", "oneOf"];
/// Keywords that an object with a combinator may have besides, to be intersected with it.
const BESIDE: [&str; 7] =
    ["pattern", "format", "properties", "patternProperties", "additionalProperties", "items", "prefixItems"];

/// What of a schema may make it expensive.
#[derive(Default)]
struct Costs<'a> {
    intersects: bool,
    patterns: HashSet<&'a str>,
}

impl<'a> Costs<'a> {
    fn add(&mut self, object: &'a Map<String, Value>) {
        let combinators = COMBINATORS.iter().filter(|key| object.contains_key(**key)).count();
        let is_beside = || BESIDE.iter().any(|key| object.contains_key(*key));
        self.intersects |= object.contains_key("allOf") || combinators > 1 || (combinators == 1 && is_beside());
        self.patterns.extend(["pattern", "format"].into_iter().filter_map(|key| object.get(key)?.as_str()));
        let names = object.get("patternProperties").and_then(Value::as_object);
        self.patterns.extend(names.into_iter().flat_map(Map::keys).map(String::as_str));
    }

    fn check(&self) -> Result<()> {
        match self.patterns.len() {
            n if self.intersects && n > MAX_PATTERNS => {
                let rule =
                    format!("{n} patterns and formats in a schema that intersects others, of at most {MAX_PATTERNS}");
                Err(TextError::grammar(&rule))
            }
            _ => Ok(()),
        }
    }
}

/// Checks the length, the nesting and the patterns of a JSON schema.
pub(super) fn check_schema(json: &Value) -> Result<()> {
    let mut level: Vec<&Value> = vec![json];
    let mut costs = Costs::default();
    for _ in 0..=MAX_DEPTH {
        level.iter().filter_map(|value| value.as_object()).for_each(|object| costs.add(object));
        let children = level.iter().flat_map(|value| {
            let (list, object) = (value.as_array(), value.as_object());
            list.into_iter().flatten().chain(object.into_iter().flat_map(|object| object.values()))
        });
        level = children.collect();
        if level.is_empty() {
            costs.check()?;
            return check_length(json.to_string().len());
        }
    }
    Err(too_deep())
}

/// Checks the length and the nesting of a regular expression.
pub(super) fn check_regex(text: &str) -> Result<()> {
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
