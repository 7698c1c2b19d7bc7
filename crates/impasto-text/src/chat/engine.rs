//! Parsing and rendering in this process.

use std::sync::Mutex;
use std::thread;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{json, python};
use crate::{Result, TextError};

/// Limit of template instructions per rendering: enough for thousands of messages in any known template, and a fraction
/// of a second. It also holds where the system cannot limit the time of a process.
const FUEL: u64 = 5_000_000;
/// Longest rendered conversation, in bytes.
pub(super) const MAX_OUTPUT: usize = 64 << 20;
/// Longest message of an error, in characters.
const MAX_MESSAGE: usize = 1000;
/// The stack for a template, in bytes: enough to parse all that the checks of the text let pass, and for the deepest macros.
pub(super) const STACK: usize = 16 << 20;

/// What is to be done with a template.
#[derive(Serialize, Deserialize)]
pub(super) struct Job {
    /// The text, rewritten.
    pub(super) template: String,
    /// The variables; without them, the template is only parsed.
    pub(super) variables: Option<Map<String, serde_json::Value>>,
    /// The time that `strftime_now` uses.
    pub(super) now: Option<SystemTime>,
}

impl Job {
    /// Renders the template, in a thread with a sufficient stack. The text is empty if it is only parsed.
    ///
    /// # Errors
    /// [`TextError::Chat`], [`TextError::ChatLimit`], and [`TextError::System`] if the thread cannot be started.
    pub(super) fn run(&self) -> Result<String> {
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("template".to_owned()).stack_size(STACK);
            let started =
                thread.spawn_scoped(scope, || self.run_here()).map_err(TextError::system("cannot start a thread"))?;
            // It panics, for example, for a capacity beyond the address space.
            started.join().unwrap_or_else(|_| Err(TextError::Chat("the template library panicked".to_owned())))
        })
    }

    fn run_here(&self) -> Result<String> {
        let mut env = environment(self.now)?;
        env.add_template("chat", &self.template).map_err(failed)?;
        let Some(variables) = &self.variables else { return Ok(String::new()) };
        let mut out = Bounded::default();
        let rendered = env.get_template("chat").and_then(|parsed| {
            parsed.render_captured_to(Value::from(Serde(variables)), &mut out)?;
            Ok(())
        });
        if out.is_full {
            return Err(TextError::ChatLimit(format!("it writes more than the limit of {MAX_OUTPUT} bytes")));
        }
        rendered.map_err(failed)?;
        String::from_utf8(out.bytes).map_err(chat_error)
    }
}

fn failed(error: minijinja::Error) -> TextError {
    match error.kind() {
        ErrorKind::OutOfFuel => TextError::ChatLimit(format!("it takes more than the limit of {FUEL} instructions")),
        _ => chat_error(error),
    }
}

fn environment<'a>(now: Option<SystemTime>) -> Result<Environment<'a>> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(chat_error)?);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    python::extend(&mut env);
    env.add_filter("tojson", json::to_json);
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    let now = Mutex::new(now);
    env.add_function("strftime_now", move |format: String| -> Result<String, minijinja::Error> {
        // All calls in one rendering use the same time.
        let mut now = now.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = *now.get_or_insert_with(SystemTime::now);
        strftime(now, &format).map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
    });
    Ok(env)
}

/// Joins the error and its causes on one line. A template that includes itself has the same cause many times, and one
/// that raises an exception chooses the message, so each cause is written once, and the length has a limit.
pub(super) fn chat_error(error: impl std::error::Error) -> TextError {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let text = e.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = e.source();
    }
    if let Some((end, _)) = line.char_indices().nth(MAX_MESSAGE) {
        line.truncate(end);
        line.push_str("...");
    }
    TextError::Chat(line.replace('\n', " "))
}

/// Formats `time` in UTC, with the directives of C and Python. An unknown directive is an error that names it.
pub(super) fn strftime(time: SystemTime, format: &str) -> Result<String, jiff::Error> {
    let time = jiff::Timestamp::try_from(time)?.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &time)
}

/// A writer that fails beyond [`MAX_OUTPUT`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > MAX_OUTPUT - self.bytes.len() {
            self.is_full = true;
            return Err(std::io::Error::other("the rendered conversation is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
