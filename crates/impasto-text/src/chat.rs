//! Chat templates: render messages to the text that a model was trained to continue.
//!
//! A template is Jinja as in transformers: blocks are trimmed; `raise_exception` and `strftime_now` are functions;
//! `tojson` has the keywords of `json.dumps` and does not escape HTML characters; Python's methods on strings, lists
//! and dictionaries work, and `%` after a string literal; loops support `break` and `continue`; `{% generation %}` tags
//! have no effect. The variables are `messages`, `add_generation_prompt`, the model's special tokens (`bos_token`,
//! `pad_token` and so on, if it has them), and `tools` and `documents`, which are none unless [`ChatOptions`] has them.
//!
//! A template is a stranger's code. With a [`TemplateWorker`], it is parsed and rendered in a process of its own with
//! limits of memory, stack and time, so it ends and does no harm, whatever it tries. Without one, it runs in this process:
//! the length of the text, of each tag and the nesting are limited, so parsing never overflows the stack, and the number of
//! instructions and the length of the result are, but a hostile template can still exhaust memory or the stack, which ends
//! the process, or run for minutes.

mod config;
mod engine;
mod json;
mod limits;
mod message;
mod percent;
mod python;
mod source;
mod worker;

use std::time::SystemTime;

use serde_json::Map;

use crate::{Result, TextError};
use config::TokenizerConfig;
use engine::{Job, chat_error};
pub use message::{FunctionCall, Message, ToolCall, ToolKind};
pub use worker::TemplateWorker;

/// The file with a model's special tokens and, in most models, its chat template.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The file with only a chat template. It takes precedence over [`TOKENIZER_CONFIG`].
pub const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Options for rendering a conversation.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Whether to end with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Descriptions of the functions that the model may call, as in the OpenAI API. If there are any, they are the template
    /// variable `tools`.
    pub tools: Vec<serde_json::Value>,
    /// Additional template variables, such as `enable_thinking`.
    pub variables: Map<String, serde_json::Value>,
    /// The time that `strftime_now` uses (in UTC); the current time if `None`.
    pub now: Option<SystemTime>,
}

/// A model's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// The rewritten text, which has passed the checks.
    template: String,
    special_tokens: Map<String, serde_json::Value>,
    worker: Option<TemplateWorker>,
}

impl ChatTemplate {
    /// Parses a template, in the worker if there is one. The special tokens are variables of it, such as `bos_token`.
    ///
    /// # Errors
    /// [`TextError::Chat`] if it does not parse, [`TextError::ChatLimit`] if it exceeds a limit, [`TextError::System`] if
    /// the system does not let it run.
    pub fn new(
        template: &str,
        special_tokens: Map<String, serde_json::Value>,
        worker: Option<&TemplateWorker>,
    ) -> Result<Self> {
        let this = Self { template: source::rewritten(template)?, special_tokens, worker: worker.cloned() };
        this.run(None, None)?;
        Ok(this)
    }

    /// Finds and parses a model's template: the file `chat_template.jinja`, or else `chat_template` in
    /// `tokenizer_config.json`, which is a single template, or a list with a template named `default`. The arguments
    /// are the bytes of the two files, and where to run the template.
    ///
    /// # Errors
    /// [`TextError::MissingAsset`] if there is no template; [`TextError::BadAsset`] if a file is invalid, or if there are
    /// several templates and none is the default; those of [`ChatTemplate::new`].
    pub fn from_assets(
        tokenizer_config: Option<&[u8]>,
        template_file: Option<&[u8]>,
        worker: Option<&TemplateWorker>,
    ) -> Result<Self> {
        let config = TokenizerConfig::parse(tokenizer_config)?;
        let file = template_file.map(std::str::from_utf8).transpose();
        let template = match file.map_err(|e| TextError::asset(TEMPLATE_FILE, e))? {
            Some(file) => Some(file),
            None => config.template()?,
        };
        let why = "the model has no chat template, so it takes only plain text";
        let template = template.ok_or(TextError::MissingAsset { name: TEMPLATE_FILE, why })?;
        Self::new(template, config.special_tokens()?, worker)
    }

    /// The model's end-of-sequence token, as text. In a conversation it ends a turn.
    pub fn eos_token(&self) -> Option<&str> {
        self.special_tokens.get("eos_token")?.as_str()
    }

    /// The text of the template, with its tags for training rewritten.
    pub fn text(&self) -> &str {
        &self.template
    }

    /// Renders the conversation. Tokenize the result without adding special tokens: the template contains them.
    ///
    /// # Errors
    /// [`TextError::Chat`] if the template raises an exception or fails, [`TextError::ChatLimit`] if it exceeds a limit,
    /// [`TextError::System`] if the system does not let it run.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let mut variables = self.special_tokens.clone();
        variables.extend(["tools", "documents"].map(|name| (name.into(), serde_json::Value::Null)));
        if !options.tools.is_empty() {
            variables.insert("tools".into(), options.tools.clone().into());
        }
        variables.extend(options.variables.clone());
        let messages: Vec<_> =
            messages.iter().map(Message::for_template).collect::<Result<_, _>>().map_err(chat_error)?;
        variables.insert("messages".into(), messages.into());
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        self.run(Some(variables), options.now)
    }

    fn run(&self, variables: Option<Map<String, serde_json::Value>>, now: Option<SystemTime>) -> Result<String> {
        let job = Job { template: self.template.clone(), variables, now };
        match &self.worker {
            Some(worker) => worker.run(&job),
            None => job.run(),
        }
    }
}

#[cfg(test)]
mod tests;
