//! From a conversation to the tokens that a model continues.

use axum::http::StatusCode;
use impasto_text::tools::{has_reasoning, without_tools};
use impasto_text::{ChatOptions, ToolFormat};
use serde_json::Value;

use super::chat::{ChatRequest, ToolChoice, ToolMode};
use super::error::ApiError;
use crate::models::Loaded;

/// The most functions of a request.
const MOST_TOOLS: usize = 128;

/// A prompt, and how the answer is to be read.
#[derive(Clone, Debug)]
pub struct Prompted {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// The form in which the model calls functions, if it may.
    pub format: Option<ToolFormat>,
    /// The functions.
    pub tools: Vec<Value>,
    /// Whether the model writes what it thinks, and if so, whether the prompt ends within that.
    pub reasoning: Option<bool>,
    /// Whether special tokens are part of the text.
    pub with_special: bool,
    /// Whether only one function may be called.
    pub is_single: bool,
}

/// Returns the prompt of a conversation.
///
/// # Errors
/// If the model has no chat template, the template refuses the conversation, or functions are described wrongly.
pub fn of(model: &Loaded, request: &ChatRequest) -> Result<Prompted, ApiError> {
    let not_supported = |reason: &str| ApiError::new(StatusCode::BAD_REQUEST, "not_supported", reason);
    let template = model.template().map_err(not_supported)?;
    let tokenizer = model.tokenizer().map_err(not_supported)?;
    let is_off = request.tool_choice == Some(ToolChoice::Mode(ToolMode::None));
    let tools = if is_off { vec![] } else { tools(request)? };
    let known = ToolFormat::of(template);
    let (messages, of_template) = match known {
        Some(_) => (request.messages.clone(), tools.clone()),
        None => (without_tools(&request.messages, &tools), vec![]),
    };
    let options = ChatOptions {
        add_generation_prompt: true,
        tools: of_template,
        variables: request.chat_template_kwargs.clone().unwrap_or_default(),
        ..ChatOptions::default()
    };
    let text = template.render(&messages, &options)?;
    let format = (!tools.is_empty()).then(|| known.unwrap_or(ToolFormat::Hermes));
    Ok(Prompted {
        tokens: tokenizer.encode(&text, false)?,
        format,
        tools,
        reasoning: has_reasoning(template).then(|| text.trim_end().ends_with("<think>")),
        // What begins a call is a special token there.
        with_special: matches!(format, Some(ToolFormat::Mistral | ToolFormat::Llama)),
        is_single: request.parallel_tool_calls == Some(false),
    })
}

/// Returns the functions of a request.
pub(super) fn tools(request: &ChatRequest) -> Result<Vec<Value>, ApiError> {
    let tools = request.tools.clone().unwrap_or_default();
    if tools.len() > MOST_TOOLS {
        return Err(ApiError::invalid("tools", format!("tools: at most {MOST_TOOLS}")));
    }
    let name = |tool: &Value| tool["function"]["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    for (index, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" || name(tool).is_none() {
            let message =
                format!("tools[{index}]: must be {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}");
            return Err(ApiError::invalid("tools", message));
        }
    }
    match &request.tool_choice {
        Some(ToolChoice::Function { function })
            if !tools.iter().any(|tool| name(tool).as_ref() == Some(&function.name)) =>
        {
            Err(ApiError::invalid(
                "tool_choice",
                format!("tool_choice: there is no function {:?} in tools", function.name),
            ))
        }
        Some(ToolChoice::Mode(ToolMode::Required)) if tools.is_empty() => {
            Err(ApiError::invalid("tool_choice", "tool_choice: required, but there are no tools"))
        }
        _ => Ok(tools),
    }
}
