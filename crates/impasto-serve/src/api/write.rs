//! Answers, whole or in pieces.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;
use super::error::ApiError;
use super::generation::Generation;
use super::sse::{self, Events, Gone};
use crate::record::Record;

/// Writes what is generated in the form of an endpoint.
pub(super) trait Write: Send + Sync + 'static {
    /// The body of a whole answer.
    type Whole: Serialize;

    /// Returns the whole answer.
    ///
    /// # Errors
    /// Why the request failed.
    fn whole(&self, generation: Generation) -> impl Future<Output = Result<Self::Whole, ApiError>> + Send;

    /// Sends the answer in pieces, at the end with the numbers of tokens if `usage`.
    ///
    /// # Errors
    /// Why it ends early.
    fn stream(
        &self,
        generation: Generation,
        usage: bool,
        events: &Events,
    ) -> impl Future<Output = Result<(), Ended>> + Send;
}

/// Why a stream ends early.
pub(super) enum Ended {
    /// The client has gone.
    Gone,
    /// The request has failed.
    Failed(ApiError),
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Ended {
        Ended::Failed(error)
    }
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Ended {
        Ended::Gone
    }
}

/// Answers a request. `streamed` says whether in pieces, and if so, whether the numbers of tokens come at the end.
///
/// # Errors
/// Why it failed, if it is not answered in pieces: then an event says that.
pub(super) async fn answer<W: Write>(
    app: &App,
    record: Arc<Record>,
    generation: Generation,
    writer: W,
    streamed: Option<bool>,
) -> Result<Response, ApiError> {
    let Some(usage) = streamed else {
        let whole = writer.whole(generation).await.inspect_err(|error| record.fails(error))?;
        return Ok(Json(whole).into_response());
    };
    Ok(sse::respond(app.options.write_timeout, move |events| async move {
        if let Err(Ended::Failed(error)) = writer.stream(generation, usage, &events).await {
            record.fails(&error);
            events.fail(&error).await;
        }
    }))
}
