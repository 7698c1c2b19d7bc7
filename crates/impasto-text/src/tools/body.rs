//! The text of calls after their marker, read one character at a time.

use serde_json::Value;

use super::json::JsonBody;
use super::xml::XmlBody;
use crate::FunctionCall;

/// Longest name of a function with what may follow it before its arguments, in bytes.
pub(super) const MAX_NAME: usize = 256;

/// What a character does to a call that is being read.
pub(super) enum Step {
    /// The call goes on.
    More,
    /// The character ends it.
    Done(Vec<FunctionCall>),
    /// It is no call.
    Not,
}

/// A call that is being read.
pub(super) enum Body {
    /// An object with a name and arguments.
    Json(JsonBody),
    /// A list of such objects, or a name and then the arguments.
    Mistral(Mistral),
    /// A function and its parameters in tags.
    Xml(XmlBody),
}

impl Body {
    pub(super) fn push(&mut self, c: char, tools: &[Value]) -> Step {
        match self {
            Self::Json(body) => body.push(c),
            Self::Mistral(body) => body.push(c),
            Self::Xml(body) => body.push(c, tools),
        }
    }
}

/// The text after `[TOOL_CALLS]`.
#[derive(Default)]
pub(super) struct Mistral {
    /// What comes before the arguments.
    head: String,
    json: Option<JsonBody>,
}

impl Mistral {
    fn push(&mut self, c: char) -> Step {
        if let Some(json) = &mut self.json {
            return json.push(c);
        }
        match c {
            _ if self.head.is_empty() && c.is_whitespace() => Step::More,
            '[' if self.head.is_empty() => self.begin(JsonBody::list(), c),
            '{' => match name(&self.head) {
                Some(name) => self.begin(JsonBody::arguments(name), c),
                None => Step::Not,
            },
            _ if c.is_whitespace() || self.head.len() >= MAX_NAME => Step::Not,
            _ => {
                self.head.push(c);
                Step::More
            }
        }
    }

    fn begin(&mut self, json: JsonBody, c: char) -> Step {
        self.json.insert(json).push(c)
    }
}

/// The name in `name`, `name[ARGS]` or `name[CALL_ID]id[ARGS]`.
fn name(head: &str) -> Option<String> {
    let head = head.strip_suffix("[ARGS]").unwrap_or(head);
    let name = head.split_once("[CALL_ID]").map_or(head, |(name, _)| name);
    (!name.is_empty() && !name.contains(['[', ']', '<', '>', '"'])).then(|| name.to_owned())
}
