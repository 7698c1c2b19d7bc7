//! Messages, as clients of the OpenAI API send them and as templates expect them.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation. As JSON, it is a message of the OpenAI API: `content` may also be null (from the
/// assistant) or a list of text parts, which are joined by line ends; the role `developer` becomes `system`; unknown keys
/// are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Message {
    /// The speaker: `system`, `user`, `assistant`, `tool` or another role that the template supports.
    pub role: String,
    /// The text of the message; empty for null.
    pub content: String,
    /// What the assistant thought before the text, if the template separates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions that the assistant called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// In the result of a call: the id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Name of the speaker or, in the result of a call, of the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A call of a function by the assistant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Identifies the call in the message with its result. Templates of Mistral want nine letters or digits.
    #[serde(default)]
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type", default)]
    pub kind: ToolKind,
    /// The function and its arguments.
    pub function: FunctionCall,
}

/// The kind of a tool. There is only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolKind {
    /// A function.
    #[default]
    Function,
}

/// A function and the arguments of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Name of the function.
    pub name: String,
    /// The arguments as the text of a JSON object, or what a model wrote in its place.
    #[serde(default, deserialize_with = "json_text")]
    pub arguments: String,
}

impl Message {
    /// Creates a message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// The message as templates expect it: as in transformers and vLLM, the arguments of calls are objects, where they are
    /// valid, and keys without a value are absent.
    pub(super) fn for_template(&self) -> serde_json::Result<Value> {
        let mut message = serde_json::to_value(self)?;
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            let arguments = &mut call["function"]["arguments"];
            let text = arguments.as_str().map(str::trim).unwrap_or_default();
            let parsed = if text.is_empty() { Some(Map::new()) } else { serde_json::from_str(text).ok() };
            if let Some(object) = parsed {
                *arguments = Value::Object(object);
            }
        }
        Ok(message)
    }
}

/// A message as it is sent.
#[derive(Deserialize)]
struct Raw {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default, alias = "reasoning")]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall>>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    function_call: Option<serde::de::IgnoredAny>,
}

impl TryFrom<Raw> for Message {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Self, String> {
        let Raw { role, content, reasoning_content, tool_calls, tool_call_id, name, function_call } = raw;
        if role.is_empty() {
            return Err("role: must not be empty".to_owned());
        }
        if function_call.is_some() {
            return Err("function_call: not supported; use tool_calls".to_owned());
        }
        if content.is_none() && role != "assistant" {
            return Err(format!("content: required in a message of role {role:?}"));
        }
        let role = if role == "developer" { "system".to_owned() } else { role };
        let content = content.map_or_else(String::new, |content| content.0);
        let tool_calls = tool_calls.unwrap_or_default();
        Ok(Self { role, content, reasoning_content, tool_calls, tool_call_id, name })
    }
}

/// Text, or a list of text parts.
struct Content(String);

/// One part of a content.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("content as a text or a list of parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut whole: Option<String> = None;
                while let Some(Part { kind, text }) = list.next_element()? {
                    if kind != "text" {
                        let refused = format!("content: a part of type {kind:?}, but this model takes text only");
                        return Err(A::Error::custom(refused));
                    }
                    let text = text.ok_or_else(|| A::Error::custom("content: a part of type \"text\" without text"))?;
                    match &mut whole {
                        None => whole = Some(text),
                        Some(whole) => {
                            whole.push('\n');
                            whole.push_str(&text);
                        }
                    }
                }
                Ok(Content(whole.unwrap_or_default()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Reads arguments: a text, or, as some clients send them, an object.
fn json_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Null => String::new(),
        object @ Value::Object(_) => object.to_string(),
        _ => return Err(D::Error::custom("arguments: not a text with a JSON object")),
    })
}
