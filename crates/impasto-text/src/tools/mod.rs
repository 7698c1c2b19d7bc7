//! Calls of functions in a model's text: how models write them, and how they are read while the text arrives.
//!
//! ```text
//! template --ToolFormat::of--> format      text --ToolParser--> text, reasoning, calls
//! ```

mod body;
mod format;
mod json;
mod parser;
mod plain;
mod xml;

pub use format::{ToolFormat, has_reasoning};
pub use parser::{ToolEvent, ToolParser};
pub use plain::{generic_prompt, without_tools};
