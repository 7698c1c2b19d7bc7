//! Text to tokens and back, and what stands around it: chat templates and stop strings. Nothing here knows a network.
//!
//! ```text
//! messages --ChatTemplate--> text --Tokenizer--> ids -> (a network) -> ids --TextStream--> text --StopMatcher--> text
//! ```
//!
//! All of it comes from assets that ride along with a model: `tokenizer.json`, `tokenizer_config.json`,
//! `chat_template.jinja`. They are input like any other: what does not parse is an error, and a template that does not
//! end is stopped.

pub mod chat;
mod error;
pub mod stop;
pub mod tokenizer;

pub use chat::{ChatOptions, ChatTemplate, Message};
pub use error::{Result, TextError};
pub use stop::{StopMatcher, Stopped};
pub use tokenizer::{TextStream, Tokenizer};
