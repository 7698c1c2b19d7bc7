//! Errors as OpenAI's clients expect them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use impasto_model::ModelError;
use impasto_text::TextError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::EngineError;
use crate::models::CatalogError;

/// Seconds after which a request that was refused may be tried again.
const RETRY_AFTER: u32 = 2;

/// The most characters of a message, which may quote the request.
const LONGEST: usize = 1000;
/// Fields of requests that messages quote.
const QUOTED: [&str; 8] =
    ["messages", "prompt", "input", "stop", "tools", "tool_choice", "response_format", "logit_bias"];

/// An error of a request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The status of the answer.
    pub status: StatusCode,
    /// What clients tell kinds of errors by.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The field of the request that is.
    pub param: Option<String>,
}

/// The body of an answer that is an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// An error, for programs and for people.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What is wrong, in a sentence.
    pub message: String,
    /// The kind: `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    pub r#type: &'static str,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// The kind in more detail.
    pub code: &'static str,
}

impl ApiError {
    /// A request that cannot be answered as it is.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// A body that is not what is expected.
    pub fn invalid_json(error: serde_json::Error) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", error.to_string())
    }

    /// An error with a status of its own.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(LONGEST) {
            message.replace_range(end.., "...");
        }
        ApiError { status, code, message, param: None }
    }

    /// What is logged of it. Messages about the text of a request may quote it, and are not.
    pub fn logged(&self) -> String {
        let param = self.param.as_deref().unwrap_or_default();
        let is_quoting = self.code == "invalid_json" || QUOTED.contains(&param);
        match (is_quoting, param) {
            (false, _) => self.message.clone(),
            (true, "") => self.code.to_owned(),
            (true, param) => format!("{}: {param}", self.code),
        }
    }

    /// The body.
    pub fn body(&self) -> ErrorBody {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let (message, param, code) = (self.message.clone(), self.param.clone(), self.code);
        ErrorBody { error: ErrorDetail { message, r#type: kind, param, code } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let is_later = matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if is_later {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> ApiError {
        let (status, code) = match &error {
            CatalogError::Unknown { .. } | CatalogError::NoLayer { .. } | CatalogError::NoBits { .. } => {
                (StatusCode::NOT_FOUND, "model_not_found")
            }
            CatalogError::NotThere { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_not_ready"),
            CatalogError::NoMemory { .. } => (StatusCode::SERVICE_UNAVAILABLE, "out_of_memory"),
            CatalogError::Load { .. } | CatalogError::Twice(_) => (StatusCode::INTERNAL_SERVER_ERROR, "model_failed"),
        };
        ApiError { param: Some("model".into()), ..ApiError::new(status, code, error.to_string()) }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let message = error.to_string();
        match error {
            EngineError::QueueFull(_) => ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message),
            EngineError::TooMany(_) => ApiError::invalid("prompt", message),
            EngineError::Ending => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message),
            EngineError::Deadline => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message),
            EngineError::Memory(_) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "out_of_memory", message),
            EngineError::Model(error) => error.into(),
            EngineError::Constraint(_) => ApiError {
                param: Some("response_format".into()),
                ..ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "constraint_failed", message)
            },
            EngineError::Panicked | EngineError::Pass(_) => {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "model_failed", message)
            }
        }
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> ApiError {
        let message = error.to_string();
        match error {
            ModelError::BadOption { name, .. } => ApiError::invalid(name.replace('-', "_"), message),
            ModelError::TokenId { .. } | ModelError::EmptyPrompt => ApiError::invalid("prompt", message),
            ModelError::ContextOverflow { .. } => {
                ApiError::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
            }
            ModelError::Cache(_) | ModelError::Memory { .. } => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "out_of_memory", message)
            }
            ModelError::NoneAllowed => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "constraint_failed", message),
            _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "model_failed", message),
        }
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> ApiError {
        let message = error.to_string();
        match error {
            TextError::BadOption { name, .. } => ApiError::invalid(name, message),
            TextError::Chat(_) | TextError::ChatLimit(_) => ApiError::invalid("messages", message),
            TextError::Grammar(_) => ApiError::invalid("response_format", message),
            TextError::MissingAsset { .. } => ApiError::new(StatusCode::BAD_REQUEST, "not_supported", message),
            _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "model_failed", message),
        }
    }
}
