//! Bodies of requests.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::App;
use super::error::ApiError;

/// Reads a body of JSON.
///
/// # Errors
/// A body that is too large, too slow, not of the type `application/json`, or not what is expected. (Pages of other origins can
/// send bodies of other types without being asked whether they may.)
pub async fn json<T: DeserializeOwned>(app: &App, headers: &HeaderMap, body: Body) -> Result<T, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "the content type must be application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let limit = app.options.max_body;
    let too_large = || {
        let message = format!("the request has more than {limit} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let patience = app.options.body_timeout;
    let bytes = match tokio::time::timeout(patience, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "broken_body",
                format!("the request broke off: {error}"),
            ));
        }
        Err(_) => {
            let message = format!("the request did not arrive within {} s", patience.as_secs());
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message));
        }
    };
    serde_json::from_slice(&bytes).map_err(ApiError::invalid_json)
}
