//! Chat templates: render messages to the text that a model was trained to continue.
//!
//! A template is Jinja as in transformers: blocks are trimmed; `raise_exception` and `strftime_now` are functions;
//! `tojson` has the keywords of `json.dumps` and does not escape HTML characters; Python's methods on strings, lists
//! and dictionaries work, and `%` after a string literal; loops support `break` and `continue`; `{% generation %}` tags
//! have no effect. The variables are `messages`, `add_generation_prompt`, the model's special tokens (`bos_token`,
//! `pad_token` and so on, if it has them), and `tools` and `documents`, which are none unless
//! [`ChatOptions::variables`] has them. The number of instructions is limited, so a hostile template cannot run forever.

mod config;
mod json;
mod python;
mod source;

use std::sync::Mutex;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::{Result, TextError};
use config::TokenizerConfig;

/// The file with a model's special tokens and, in most models, its chat template.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The file with only a chat template. It takes precedence over [`TOKENIZER_CONFIG`].
pub const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Limit of template instructions per rendering: enough for thousands of messages in any known template, and a fraction
/// of a second.
const FUEL: u64 = 5_000_000;
/// Longest rendered conversation, in bytes.
const MAX_OUTPUT: usize = 64 << 20;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The speaker: `system`, `user`, `assistant` or another role that the template supports.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

impl Message {
    /// Creates a message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Options for rendering a conversation.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Whether to end with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Additional template variables, such as `enable_thinking`.
    pub variables: Map<String, serde_json::Value>,
    /// The time that `strftime_now` uses (in UTC); the current time if `None`.
    pub now: Option<SystemTime>,
}

/// A model's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    template: String,
    special_tokens: Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Parses a template. The special tokens are variables of it, such as `bos_token`.
    ///
    /// # Errors
    /// [`TextError::Chat`] if it does not parse.
    pub fn new(template: &str, special_tokens: Map<String, serde_json::Value>) -> Result<Self> {
        let this = Self { template: source::rewritten(template), special_tokens };
        this.environment(None)?;
        Ok(this)
    }

    /// Finds and parses a model's template: the file `chat_template.jinja`, or else `chat_template` in
    /// `tokenizer_config.json`, which is a single template, or a list with a template named `default`. The arguments
    /// are the bytes of the two files.
    ///
    /// # Errors
    /// [`TextError::MissingAsset`] if there is no template; [`TextError::BadAsset`] or [`TextError::Chat`] if it does
    /// not parse, or if there are several and none is the default.
    pub fn from_assets(tokenizer_config: Option<&[u8]>, template_file: Option<&[u8]>) -> Result<Self> {
        let config = TokenizerConfig::parse(tokenizer_config)?;
        let file = template_file.map(std::str::from_utf8).transpose();
        let template = match file.map_err(|e| TextError::asset(TEMPLATE_FILE, e))? {
            Some(file) => Some(file),
            None => config.template()?,
        };
        let why = "the model has no chat template, so it takes only plain text";
        let template = template.ok_or(TextError::MissingAsset { name: TEMPLATE_FILE, why })?;
        Self::new(template, config.special_tokens()?)
    }

    /// The model's end-of-sequence token, as text. In a conversation it ends a turn.
    pub fn eos_token(&self) -> Option<&str> {
        self.special_tokens.get("eos_token")?.as_str()
    }

    /// Renders the conversation. Tokenize the result without adding special tokens: the template contains them.
    ///
    /// # Errors
    /// [`TextError::Chat`] if the template raises an exception, fails or exceeds a limit.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let env = self.environment(options.now)?;
        let mut context = self.special_tokens.clone();
        context.extend(["tools", "documents"].map(|name| (name.into(), serde_json::Value::Null)));
        context.extend(options.variables.clone());
        let messages = serde_json::to_value(messages).map_err(chat_error)?;
        context.insert("messages".into(), messages);
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        let mut out = Bounded(Vec::new());
        let template = env.get_template("chat").map_err(chat_error)?;
        template.render_captured_to(Value::from(Serde(context)), &mut out).map_err(chat_error)?;
        String::from_utf8(out.0).map_err(chat_error)
    }

    fn environment(&self, now: Option<SystemTime>) -> Result<Environment<'_>> {
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
        env.add_template("chat", &self.template).map_err(chat_error)?;
        Ok(env)
    }
}

/// Formats the error and its causes on one line.
fn chat_error(error: impl std::error::Error) -> TextError {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        line = format!("{line}: {e}");
        cause = e.source();
    }
    TextError::Chat(line.replace('\n', " "))
}

/// Formats `time` in UTC, with the directives of C and Python. An unknown directive is an error that names it.
fn strftime(time: SystemTime, format: &str) -> Result<String, jiff::Error> {
    let time = jiff::Timestamp::try_from(time)?.to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &time)
}

/// A writer that fails beyond [`MAX_OUTPUT`].
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > MAX_OUTPUT - self.0.len() {
            return Err(std::io::Error::other("the rendered conversation is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
