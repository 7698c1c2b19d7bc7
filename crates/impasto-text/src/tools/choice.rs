//! Which functions a model may or must call.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::{Result, TextError};

/// Longest name of a function, in bytes, as in the OpenAI API.
const MAX_NAME: usize = 64;

/// Whether a model calls functions: the `tool_choice` of the OpenAI API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It calls none.
    None,
    /// It decides itself.
    #[default]
    Auto,
    /// It calls at least one.
    Required,
    /// It calls this one.
    Function(String),
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value.as_str() {
            Some("none") => return Ok(Self::None),
            Some("auto") => return Ok(Self::Auto),
            Some("required") => return Ok(Self::Required),
            _ => {}
        }
        match value["function"]["name"].as_str() {
            Some(name) if value["type"] == "function" => Ok(Self::Function(name.to_owned())),
            _ => Err(D::Error::custom("tool_choice: not \"none\", \"auto\", \"required\" or a function with its name")),
        }
    }
}

/// Returns the name of a function and the schema of its parameters, given its description as in the OpenAI API.
///
/// # Errors
/// [`TextError::BadOption`] if it is not a function, or has no valid name.
pub fn function(tool: &Value) -> Result<(&str, Value)> {
    let bad = |value: &Value, rule| TextError::BadOption { name: "tools", value: value.to_string(), rule };
    let function = &tool["function"];
    if tool["type"] != "function" || !function.is_object() {
        return Err(bad(tool, "must be functions"));
    }
    let name = function["name"].as_str().unwrap_or_default();
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_good) {
        let rule = "the name of a function must be 1 to 64 letters, digits, underscores, dots or dashes";
        return Err(bad(&function["name"], rule));
    }
    let parameters = match &function["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Value::Object(map) if map.is_empty() => json!({"type": "object"}),
        object @ Value::Object(_) => object.clone(),
        other => return Err(bad(other, "the parameters of a function must be a JSON schema")),
    };
    Ok((name, parameters))
}

#[cfg(feature = "grammar")]
impl super::ToolFormat {
    /// Returns the constraint for a `tool_choice` among descriptions of functions; `None` if the model may also write text.
    ///
    /// # Errors
    /// [`TextError::BadOption`] if there is no such function, or a description is invalid.
    pub fn grammar(
        self,
        tools: &[Value],
        choice: &ToolChoice,
        parallel: bool,
    ) -> Result<Option<crate::grammar::Constraint>> {
        let mut chosen = Vec::new();
        for tool in tools {
            let (name, _) = function(tool)?;
            let is_chosen = match choice {
                ToolChoice::None | ToolChoice::Auto => return Ok(None),
                ToolChoice::Required => true,
                ToolChoice::Function(wanted) => wanted == name,
            };
            if is_chosen {
                chosen.push(tool.clone());
            }
        }
        if chosen.is_empty() && !matches!(choice, ToolChoice::None | ToolChoice::Auto) {
            let value = if let ToolChoice::Function(name) = choice { name.clone() } else { "required".to_owned() };
            return Err(TextError::BadOption { name: "tool_choice", value, rule: "must be one of the tools" });
        }
        Ok((!chosen.is_empty()).then_some(crate::grammar::Constraint::ToolCalls {
            format: self,
            tools: chosen,
            parallel,
        }))
    }
}
