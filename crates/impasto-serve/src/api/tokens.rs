//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::completions::tokenizer;
use super::error::{ApiError, ErrorBody};
use super::{App, body, plain};

/// A text to tokenize.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// The model.
    pub model: Option<String>,
    /// The text.
    #[serde(alias = "content")]
    pub prompt: String,
    /// Whether the tokens that begin a text are added.
    #[schema(default = true)]
    pub add_special_tokens: Option<bool>,
}

/// The tokens of a text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Tokens {
    /// The ids.
    pub tokens: Vec<u32>,
    /// Their number.
    pub count: usize,
    /// The most tokens of a text.
    pub max_model_len: usize,
}

/// Tokens to make text of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The model.
    pub model: Option<String>,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Detokenized {
    /// The text.
    pub prompt: String,
}

/// Returns the tokens of a text.
#[utoipa::path(
    post, path = "/tokenize", tag = "tokens", request_body = TokenizeRequest,
    responses((status = 200, body = Tokens), (status = "4XX", body = ErrorBody))
)]
pub async fn tokenize(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Json<Tokens>, ApiError> {
    let request: TokenizeRequest = body::json(&app, &headers, body).await?;
    let model = app.catalog.get(request.model.as_deref()).await?;
    let tokenizer = tokenizer(&model)?;
    let encode = move || Ok(tokenizer.encode(&request.prompt, request.add_special_tokens.unwrap_or(true))?);
    let tokens = plain::blocking(encode).await?;
    Ok(Json(Tokens { count: tokens.len(), tokens, max_model_len: model.model().network().max_context() }))
}

/// Returns the text of tokens.
#[utoipa::path(
    post, path = "/detokenize", tag = "tokens", request_body = DetokenizeRequest,
    responses((status = 200, body = Detokenized), (status = "4XX", body = ErrorBody))
)]
pub async fn detokenize(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Detokenized>, ApiError> {
    let request: DetokenizeRequest = body::json(&app, &headers, body).await?;
    let model = app.catalog.get(request.model.as_deref()).await?;
    let tokenizer = tokenizer(&model)?;
    let vocab = model.model().network().vocab_size();
    if let Some(id) = request.tokens.iter().find(|&&id| id as usize >= vocab) {
        return Err(ApiError::invalid("tokens", format!("tokens: {id} is outside the vocabulary of {vocab}")));
    }
    let prompt = plain::blocking(move || Ok(tokenizer.decode(&request.tokens, false)?)).await?;
    Ok(Json(Detokenized { prompt }))
}
