//! Small answers, and what several others need.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::ApiError;
use crate::web;

/// Whether the server is well.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: &'static str,
    /// Texts that are being written.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// Says that the server is there. Needs no key.
#[utoipa::path(get, path = "/health", tag = "server", responses((status = 200, body = Health)))]
pub async fn health(State(app): State<Arc<App>>) -> Json<Health> {
    let running = app.engine.stats().running.load(std::sync::atomic::Ordering::Relaxed);
    Json(Health { status: "ok", running, waiting: app.engine.waiting() })
}

/// Metrics for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses((status = 200, description = "Metrics in the OpenMetrics format.", body = String))
)]
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.metrics.text(&app.engine, &app.catalog)).into_response()
}

/// The web page and its parts.
pub async fn page(uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let Some(page) = web::find(uri.path()) else { return Err(super::missing(uri).await) };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|etag| etag.to_str().ok());
    let is_known = known.is_some_and(|known| known.split(',').any(|etag| etag.trim() == page.etag()));
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => page.bytes.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    if let Ok(etag) = HeaderValue::from_str(&page.etag()) {
        headers.insert(header::ETAG, etag);
    }
    for &(name, value) in web::HEADERS {
        headers.insert(header::HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Does work that takes long on another thread.
///
/// # Errors
/// Those of the work; a panic in it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the request failed in an unexpected way; see the log");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
