//! `/v1/embeddings`: vectors of texts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use impasto_model::{CausalLm, Hidden, Want};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::completions::{Prompt, prompts, tokenizer};
use super::error::{ApiError, ErrorBody};
use super::generation::{Timings, Usage};
use super::{App, body, plain};
use crate::engine::EngineError;
use crate::models::Loaded;
use crate::options::Pooling;
use crate::record::Record;

/// A request for vectors of texts.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    /// The model.
    pub model: Option<String>,
    /// The text, or its tokens; or several.
    pub input: Prompt,
    /// `float` (the default) or `base64`, of 32-bit floats with the low byte first.
    pub encoding_format: Option<EncodingFormat>,
    /// Shortens the vectors to so many elements, as models that were trained for it allow.
    pub dimensions: Option<usize>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// As numbers.
    #[default]
    Float,
    /// As bytes in base64.
    Base64,
}

/// Vectors of texts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Embeddings {
    /// Always `list`.
    pub object: &'static str,
    /// A vector for each text.
    pub data: Vec<Embedding>,
    /// The model that was asked for.
    pub model: String,
    /// Numbers of tokens.
    pub usage: Usage,
}

/// The vector of a text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Embedding {
    /// Always `embedding`.
    pub object: &'static str,
    /// The number of the text.
    pub index: usize,
    /// The vector, of length 1.
    pub embedding: Vector,
}

/// A vector.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// As numbers.
    Float(Vec<f32>),
    /// As bytes in base64.
    Base64(String),
}

/// Returns vectors of texts, from models that are made for it.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "text", request_body = EmbeddingRequest,
    responses((status = 200, body = Embeddings), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody))
)]
pub async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Embeddings>, ApiError> {
    let request: EmbeddingRequest = body::json(&app, &headers, body).await?;
    let model = app.catalog.get(request.model.as_deref()).await?;
    let pooling = app.options.pooling.ok_or_else(|| {
        let message =
            "this server gives no embeddings; for a model that was trained for them, start it with --embeddings";
        ApiError::new(StatusCode::BAD_REQUEST, "not_supported", message)
    })?;
    let prompts = prompts(tokenizer(&model)?, request.input).await?;
    let (vocab, context) = (model.model().network().vocab_size(), model.model().network().max_context());
    prompts.iter().try_for_each(|prompt| impasto_model::check_tokens(prompt, vocab, 0, context))?;
    let tokens = prompts.iter().map(Vec::len).sum();
    let usage = Usage { prompt_tokens: tokens, total_tokens: tokens, ..Usage::default() };
    record.begins(&model, tokens);
    let name = request.model.unwrap_or_else(|| model.id.clone());
    let deadline = Instant::now() + app.options.timeout.min(Duration::from_secs(1 << 30));
    let turn =
        tokio::time::timeout_at(deadline.into(), app.engine.turn()).await.map_err(|_| EngineError::Deadline)??;
    // Nobody holds the other end when the client has gone.
    let (wanted, gone) = tokio::sync::oneshot::channel::<()>();
    let catalog = app.catalog.clone();
    let data = plain::blocking(move || {
        let _turn = turn;
        let vector = |(index, prompt): (usize, &Vec<u32>)| {
            if wanted.is_closed() || deadline <= Instant::now() {
                return Err(EngineError::Deadline.into());
            }
            let hidden = catalog.with_room(|| outputs(&model, prompt, pooling))?;
            let vector = pooled(&hidden, pooling, request.dimensions)?;
            let embedding = match request.encoding_format.unwrap_or_default() {
                EncodingFormat::Float => Vector::Float(vector),
                EncodingFormat::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                    Vector::Base64(base64::encode(bytes))
                }
            };
            Ok(Embedding { object: "embedding", index, embedding })
        };
        prompts.iter().enumerate().map(vector).collect::<Result<Vec<_>, ApiError>>()
    })
    .await?;
    drop(gone);
    record.ends(&usage, &Timings::default());
    Ok(Json(Embeddings { object: "list", data, model: name, usage }))
}

/// Returns the outputs for the tokens of a text, or for the last one if that is enough.
fn outputs(model: &Loaded, tokens: &[u32], pooling: Pooling) -> impasto_model::Result<Hidden> {
    let network: &dyn CausalLm = model.model().network();
    let mut cache = network.new_cache(tokens.len())?;
    let want = if pooling == Pooling::Last { Want::LastOnly } else { Want::All };
    network.hidden(&mut cache, tokens, want)
}

/// Returns the vector of a text, of length 1.
fn pooled(hidden: &Hidden, pooling: Pooling, dimensions: Option<usize>) -> Result<Vec<f32>, ApiError> {
    let rows = match pooling {
        Pooling::Mean => 0..hidden.rows(),
        Pooling::Last | Pooling::First => 0..1,
    };
    let count = rows.len().max(1);
    let values = hidden.slice(rows)?;
    let width = values.len() / count;
    let mut sum = vec![0.0f64; width];
    for row in values.chunks_exact(width.max(1)) {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let length = dimensions.unwrap_or(width);
    if length == 0 || length > width {
        return Err(ApiError::invalid("dimensions", format!("dimensions = {length}: must be from 1 to {width}")));
    }
    sum.truncate(length);
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    Ok(sum.iter().map(|x| (x / norm) as f32).collect())
}
