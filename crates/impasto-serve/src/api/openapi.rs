//! `/openapi.json`: the interface, described for programs. It is made of the types that requests are read into.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Description;

use super::{chat, completions, embeddings, error, generation, logprobs, models, plain, request, tokens};

/// The description of the interface.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "impasto serve",
        description = "Models in .impasto files, with the interface of OpenAI.",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        models::list,
        models::one,
        chat::chat_completions,
        completions::completions,
        embeddings::embeddings,
        tokens::tokenize,
        tokens::detokenize,
        plain::health,
        plain::metrics,
        page
    ),
    components(schemas(
        chat::ChatChunk,
        error::ErrorBody,
        generation::Usage,
        generation::Timings,
        logprobs::ChatLogprobs,
        logprobs::CompletionLogprobs,
        request::Sampling
    ))
)]
struct Interface;

/// The interface.
#[utoipa::path(
    get, path = "/openapi.json", tag = "server",
    responses((status = 200, description = "This description.", content_type = "application/json"))
)]
pub async fn page() -> Json<Description> {
    Json(description())
}

/// Returns the description.
pub fn description() -> Description {
    Interface::openapi()
}
