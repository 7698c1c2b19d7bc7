//! Tools for models whose template does not take them.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{Message, ToolFormat};

/// Returns a section of the system message that describes functions, as in the OpenAI API, and asks to call them in the form
/// of [`ToolFormat::Hermes`].
pub fn generic_prompt(tools: &[Value]) -> String {
    let tools: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "# Tools\n\nYou may call functions to help with the user's request. These are the functions, each as a JSON object:\n\
         <tools>\n{}\n</tools>\n\nTo call a function, write its name and arguments as a JSON object in tool_call tags:\n\
         <tool_call>\n{{\"name\": <name>, \"arguments\": <object>}}\n</tool_call>",
        tools.join("\n")
    )
}

/// Rewrites a conversation for a template that takes neither tools nor calls: the functions are described in the system
/// message, calls become text in the form of [`ToolFormat::Hermes`], and results become messages of the user, one for
/// successive results.
pub fn without_tools(messages: &[Message], tools: &[Value]) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::new();
    if !tools.is_empty() {
        out.push(Message::new("system", generic_prompt(tools)));
    }
    let mut after_result = false;
    for message in messages {
        let is_result = message.role == "tool";
        match out.last_mut() {
            Some(first) if message.role == "system" && first.role == "system" && !message.content.is_empty() => {
                first.content = format!("{}\n\n{}", message.content, first.content);
            }
            Some(last) if is_result && after_result => {
                last.content.push('\n');
                last.content.push_str(&result(message));
            }
            _ if is_result => out.push(Message::new("user", result(message))),
            _ => out.push(Message::new(&message.role, with_calls(message))),
        }
        after_result = is_result;
    }
    out
}

fn result(message: &Message) -> String {
    format!("<tool_response>\n{}\n</tool_response>", message.content)
}

fn with_calls(message: &Message) -> String {
    let mut text = message.content.clone();
    for call in &message.tool_calls {
        let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap_or_default();
        let call = json!({"name": call.function.name, "arguments": arguments});
        let gap = if text.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{gap}<tool_call>\n{call}\n</tool_call>");
    }
    text
}

impl ToolFormat {
    /// The form in which a model is asked to write calls that has no form of its own.
    pub const GENERIC: Self = Self::Hermes;
}
