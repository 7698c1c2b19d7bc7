//! Conversion between text and tokens: tokenizer, chat templates and stop strings. This crate does not depend on
//! networks.
//!
//! ```text
//! messages --ChatTemplate--> text --Tokenizer--> ids -> (a network) -> ids --TextStream--> text --StopMatcher--> text
//! ```
//!
//! All of this is read from assets of a model: `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.
//! They are untrusted input: an invalid asset is an error. A template can be run in a process with limits
//! ([`TemplateWorker`]).

pub mod chat;
mod error;
pub mod stop;
pub mod tokenizer;
pub mod tools;

pub use chat::{ChatOptions, ChatTemplate, FunctionCall, Message, TemplateWorker, ToolCall};
pub use error::{Result, TextError};
pub use stop::{StopMatcher, Stopped};
pub use tokenizer::{StreamDecoder, TextStream, Tokenizer};
pub use tools::{ToolEvent, ToolFormat, ToolParser};
