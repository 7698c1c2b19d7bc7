//! What an answer must match: `response_format`, and `tool_choice` if a function must be called.

use super::chat::{ChatRequest, ResponseFormat};
use super::error::ApiError;
use super::prompt::Prompted;
use crate::engine::Constraint;
use crate::models::Loaded;

/// Returns what each of `n` answers must match; none if nothing.
///
/// # Errors
/// If a schema or an expression is invalid, or too complex.
pub fn of(
    _model: &Loaded,
    request: &ChatRequest,
    _prompted: &Prompted,
    _n: usize,
) -> Result<Vec<Box<dyn Constraint>>, ApiError> {
    match request.response_format {
        None | Some(ResponseFormat::Text) => Ok(vec![]),
        Some(_) => Err(ApiError::invalid("response_format", "response_format: not supported yet")),
    }
}
