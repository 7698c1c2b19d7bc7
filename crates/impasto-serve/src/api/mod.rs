//! The interface: that of OpenAI, and what it lacks.

mod answer;
mod body;
mod chat;
mod completions;
mod constraint;
mod embeddings;
mod error;
mod fuzz;
mod generation;
mod logprobs;
mod models;
mod openapi;
mod plain;
mod prompt;
mod request;
mod sse;
mod text;
mod tokens;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};

pub use error::ApiError;
#[doc(hidden)]
pub use fuzz::fuzz_request;
pub use generation::{Timings, Usage};

use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::models::Catalog;
use crate::options::ServeOptions;

/// What all requests share.
pub struct App {
    /// The models.
    pub catalog: Arc<Catalog>,
    /// What runs them.
    pub engine: Engine,
    /// Limits.
    pub options: ServeOptions,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Whose request it is: requests of the same client wait for each other rather than for those of others.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub u64);

/// Returns the routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::one))
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(plain::health))
        .route("/metrics", get(plain::metrics))
        .route("/openapi.json", get(openapi::page))
        .route("/", get(plain::page))
        .route("/favicon.ico", get(plain::page))
        .route("/web/{file}", get(plain::page))
        .fallback(missing)
        .method_not_allowed_fallback(other_method)
        .with_state(app)
}

async fn missing(uri: axum::http::Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
}

async fn other_method(method: Method, uri: axum::http::Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
