//! What an answer must match: `response_format`, and `tool_choice` if a function must be called.

use impasto_text::grammar::{Constraint as Grammar, Matcher};
use serde_json::Value;

use super::chat::{ChatRequest, ResponseFormat, ToolChoice, ToolMode};
use super::error::ApiError;
use super::prompt::Prompted;
use crate::engine::Constraint;
use crate::models::Loaded;

/// Returns what each of `n` answers must match; none if nothing.
///
/// # Errors
/// If a schema or an expression is invalid, or too complex.
pub fn of(
    model: &Loaded,
    request: &ChatRequest,
    prompted: &Prompted,
    n: usize,
) -> Result<Vec<Box<dyn Constraint>>, ApiError> {
    let calls = calls(request, prompted);
    let format = format(request.response_format.as_ref());
    let grammar = match (calls, format) {
        (None, None) => return Ok(vec![]),
        (Some(_), Some(_)) => {
            let message = "response_format: the answer cannot be a call of a function, too (tool_choice)";
            return Err(ApiError::invalid("response_format", message));
        }
        (Some(grammar), None) | (None, Some(grammar)) => grammar,
    };
    let grammars = model.grammars().map_err(|reason| ApiError::invalid("response_format", reason))?;
    let matcher = || Ok(Box::new(Matching(grammars.compile(&grammar)?)) as Box<dyn Constraint>);
    (0..n).map(|_| matcher()).collect()
}

/// The grammar of calls, if there must be one.
fn calls(request: &ChatRequest, prompted: &Prompted) -> Option<Grammar> {
    let format = prompted.format?;
    let parallel = request.parallel_tool_calls != Some(false);
    match request.tool_choice.as_ref()? {
        ToolChoice::Mode(ToolMode::Required) => {
            Some(Grammar::ToolCalls { format, tools: prompted.tools.clone(), parallel })
        }
        ToolChoice::Mode(ToolMode::Auto | ToolMode::None) => None,
        ToolChoice::Function { function } => {
            let is_it = |tool: &&Value| tool["function"]["name"] == function.name.as_str();
            let tools = prompted.tools.iter().filter(is_it).cloned().collect();
            Some(Grammar::ToolCalls { format, tools, parallel: false })
        }
    }
}

/// The grammar of a format, if it is one.
fn format(format: Option<&ResponseFormat>) -> Option<Grammar> {
    match format? {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject => Some(Grammar::JsonObject),
        ResponseFormat::JsonSchema { json_schema } => Some(Grammar::JsonSchema(json_schema.schema.clone())),
        ResponseFormat::Regex { pattern } => Some(Grammar::Regex(pattern.clone())),
    }
}

/// A grammar that a text follows.
struct Matching(Matcher);

impl Constraint for Matching {
    fn mask(&mut self) -> Result<&[u32], String> {
        self.0.mask().map_err(|error| error.to_string())
    }

    fn commit(&mut self, token: u32) -> Result<(), String> {
        self.0.commit(token).map_err(|error| error.to_string())
    }

    fn is_complete(&self) -> bool {
        self.0.must_stop()
    }
}
