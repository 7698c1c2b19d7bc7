//! Chat templates: render messages to the text that a model was trained to continue.
//!
//! A template is Jinja as in transformers: blocks are trimmed; `raise_exception` and `strftime_now` are functions;
//! `tojson` does not escape non-ASCII text or HTML characters; Python's methods on strings, lists and dictionaries
//! work; loops support `break` and `continue`; `{% generation %}` tags have no effect. The number of instructions is
//! limited, so a hostile template cannot run forever.

use std::sync::Mutex;
use std::time::SystemTime;

use impasto_core::json::finite;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::{Result, TextError};

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
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// The time that `strftime_now` uses (in UTC); the current time if `None`.
    pub now: Option<SystemTime>,
}

/// A model's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    template: String,
    bos_token: String,
    eos_token: String,
}

/// A token in `tokenizer_config.json`: its text, or an object with its text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        match token {
            Token::Text(text) | Token::Object { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    chat_template: Option<Templates>,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TextError::Chat`] if it does not parse.
    pub fn new(template: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        let this = Self {
            template: without_generation_marks(template),
            bos_token: bos_token.into(),
            eos_token: eos_token.into(),
        };
        this.environment(None)?;
        Ok(this)
    }

    /// Finds and parses a model's template: the file `chat_template.jinja`, or else `chat_template` in
    /// `tokenizer_config.json`, which is a single template, or a list with a template named `default`. The arguments
    /// are the bytes of the two files.
    ///
    /// # Errors
    /// [`TextError::MissingAsset`] if there is no template; [`TextError::BadAsset`] or [`TextError::Chat`] if it does
    /// not parse.
    pub fn from_assets(tokenizer_config: Option<&[u8]>, template_file: Option<&[u8]>) -> Result<Self> {
        let config: TokenizerConfig = match tokenizer_config {
            Some(json) => serde_json::from_slice(&finite(json)).map_err(|e| TextError::asset(TOKENIZER_CONFIG, e))?,
            None => TokenizerConfig::default(),
        };
        let file = template_file.map(std::str::from_utf8).transpose();
        let file = file.map_err(|e| TextError::asset(TEMPLATE_FILE, e))?.map(str::to_owned);
        let template = file.or_else(|| match config.chat_template? {
            Templates::One(text) => Some(text),
            Templates::Named(list) => list.into_iter().find(|t| t.name == "default").map(|t| t.template),
        });
        let why = "the model has no chat template, so it takes only plain text";
        let template = template.ok_or(TextError::MissingAsset { name: TEMPLATE_FILE, why })?;
        let text = |token: Option<Token>| token.map(String::from).unwrap_or_default();
        Self::new(&template, &text(config.bos_token), &text(config.eos_token))
    }

    /// Renders the conversation. Tokenize the result without adding special tokens: the template contains them.
    ///
    /// # Errors
    /// [`TextError::Chat`] if the template raises an exception, fails or exceeds a limit.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let env = self.environment(options.now)?;
        let mut context = options.variables.clone();
        let messages = serde_json::to_value(messages).map_err(chat_error)?;
        context.insert("messages".into(), messages);
        context.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        context.insert("bos_token".into(), self.bos_token.clone().into());
        context.insert("eos_token".into(), self.eos_token.clone().into());
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
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", to_json);
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

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, minijinja::Error> {
    let failed = |e: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = kwargs.get("indent")?;
    kwargs.assert_all_used()?;
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).map_err(failed)?,
    }
    String::from_utf8(out).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// JSON on one line with spaces after commas and colons, as in Python.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, w: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

/// Replaces the tags `generation` and `endgeneration`, with which transformers marks the assistant's tokens for
/// training, by a tag without effect that keeps their whitespace control.
fn without_generation_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[2..end];
        let word = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        if matches!(word, "generation" | "endgeneration") {
            let sign = |c: Option<char>| c.filter(|c| matches!(c, '-' | '+')).map(String::from).unwrap_or_default();
            let (left, right) = (sign(inner.chars().next()), sign(inner.chars().next_back()));
            out.push_str(&format!("{{%{left} set _ = 0 {right}%}}"));
        } else {
            out.push_str(&tag[..end + 2]);
        }
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
