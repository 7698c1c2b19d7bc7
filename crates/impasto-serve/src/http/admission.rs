//! Who may use the server: keys, names of the host, origins of pages.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use blake3::Hash;

use crate::api::{ApiError, App, Client};
use crate::record::Record;

/// What may be had without a key: nothing about models.
const OPEN: [&str; 3] = ["/health", "/", "/favicon.ico"];
const OPEN_FOLDER: &str = "/web/";

/// Rules for requests.
pub struct Admission {
    /// Hashes of the keys: comparing these takes the same time for all keys.
    keys: Vec<Hash>,
    origins: Vec<String>,
    hosts: Vec<String>,
}

impl Admission {
    /// Takes the rules of some options.
    pub fn new(keys: &[String], origins: &[String], hosts: &[String]) -> Admission {
        let keys = keys.iter().map(|key| blake3::hash(key.as_bytes())).collect();
        let lower =
            |names: &[String]| names.iter().map(|name| name.trim_end_matches('/').to_ascii_lowercase()).collect();
        Admission {
            keys,
            origins: lower(origins),
            hosts: lower(hosts).iter().map(|host| without_port(host).to_owned()).collect(),
        }
    }

    /// Checks the name that the server is addressed by. A page of a stranger can give a name of its own to the address of this
    /// server (DNS rebinding), and is then of the same origin; but the name stays in the request.
    fn check_host(&self, headers: &HeaderMap, host: Option<&str>) -> Result<(), ApiError> {
        let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(host).unwrap_or_default();
        let name = without_port(named).to_ascii_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let is_number = bare.parse::<IpAddr>().is_ok();
        let is_local = name == "localhost" || name.ends_with(".localhost");
        if is_number || is_local || self.hosts.iter().any(|host| host == "*" || *host == name) {
            return Ok(());
        }
        let message = format!("the server is not addressed as {named:?}; allow it with --allow-host");
        Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message))
    }

    /// Returns the origin of the page that sends a request, if it may do so: `None` for programs and pages of this server.
    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
        let Some(value) = headers.get(header::ORIGIN) else { return Ok(None) };
        let origin = value.to_str().unwrap_or_default().to_ascii_lowercase();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let is_same = origin.split_once("://").is_some_and(|(_, name)| name.eq_ignore_ascii_case(host));
        if is_same {
            return Ok(None);
        }
        if self.origins.iter().any(|allowed| allowed == "*" || *allowed == origin) {
            return Ok(Some(value.clone()));
        }
        let message = format!("pages of {origin} may not use this server; allow it with --allow-origin");
        Err(ApiError::new(StatusCode::FORBIDDEN, "wrong_origin", message))
    }

    /// Returns whose request it is.
    fn check_key(&self, headers: &HeaderMap, path: &str, peer: IpAddr) -> Result<Client, ApiError> {
        let of = |hash: Hash| u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default());
        if self.keys.is_empty() || OPEN.contains(&path) || path.starts_with(OPEN_FOLDER) {
            return Ok(Client(of(blake3::hash(peer.to_string().as_bytes()))));
        }
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = value.and_then(|value| value.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
        let hash = blake3::hash(given.unwrap_or_default().as_bytes());
        // All are compared, so that the time does not tell which one is nearly right.
        let is_known = self.keys.iter().fold(false, |known, key| known | (*key == hash));
        if is_known && given.is_some() {
            return Ok(Client(of(hash)));
        }
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "a valid API key is needed"))
    }
}

/// The name of a host without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Admits a request, or refuses it, and keeps its record.
pub async fn admit(
    State((app, admission)): State<(Arc<App>, Arc<Admission>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<SocketAddr>().map_or(IpAddr::from([0, 0, 0, 0]), SocketAddr::ip);
    let path = request.uri().path().to_owned();
    let record = Record::new(app.metrics.clone(), id(), request.method().to_string(), route(&path), peer.to_string());
    let record = Arc::new(record);
    let (mut origin, headers) = (None, request.headers());
    let refused = admission
        .check_host(headers, request.uri().host())
        .and_then(|()| admission.check_origin(headers))
        .and_then(|of_page| {
            origin = of_page;
            if request.method() == Method::OPTIONS && origin.is_some() {
                return Ok(None);
            }
            admission.check_key(headers, &path, peer).map(Some)
        });
    let mut response = match refused {
        Err(error) => error.into_response(),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Ok(Some(client)) => {
            request.extensions_mut().insert(record.clone());
            request.extensions_mut().insert(client);
            next.run(request).await
        }
    };
    if let Some(origin) = origin {
        allow(response.headers_mut(), origin);
    }
    record.answers(response.status());
    if let Some(error) = response.extensions().get::<ApiError>() {
        record.fails(error);
    }
    let id = HeaderValue::from(record.id());
    response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    // No answer is a script or a page but those that say so.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Tells a browser that a page may read the answer.
fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    let text = HeaderValue::from_static;
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, text("origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, text("GET, POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, text("authorization, *"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, text("retry-after, x-request-id"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, text("600"));
}

/// Returns a new number of a request.
fn id() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// The route of a path, for metrics: there must be few of them.
fn route(path: &str) -> String {
    const ROUTES: [&str; 10] = [
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/health",
        "/metrics",
        "/openapi.json",
        "/",
    ];
    match path {
        _ if ROUTES.contains(&path) => path.to_owned(),
        _ if path.starts_with("/v1/models/") => "/v1/models/{model}".to_owned(),
        _ if path.starts_with(OPEN_FOLDER) => "/web/{file}".to_owned(),
        _ => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn names_of_strangers_are_refused() {
        let admission = Admission::new(&[], &[], &["Models.example".into()]);
        for host in
            ["localhost", "localhost:8080", "127.0.0.1:80", "[::1]:8080", "[::1]", "models.example:443", "10.1.2.3"]
        {
            assert!(admission.check_host(&headers(&[("host", host)]), None).is_ok(), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "models.example.evil:1"]
        {
            assert!(admission.check_host(&headers(&[("host", host)]), None).is_err(), "{host}");
        }
    }

    #[test]
    fn pages_of_strangers_are_refused() {
        let admission = Admission::new(&[], &["https://app.example".into()], &[]);
        let check = |origin, host| admission.check_origin(&headers(&[("origin", origin), ("host", host)]));
        assert_eq!(check("http://localhost:8080", "localhost:8080").unwrap(), None);
        assert!(check("https://app.example", "localhost").unwrap().is_some());
        for origin in ["https://evil.example", "null", "http://localhost:81", "https://app.example.evil"] {
            assert!(check(origin, "localhost:8080").is_err(), "{origin}");
        }
        assert_eq!(admission.check_origin(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn only_keys_that_are_known_open() {
        let admission = Admission::new(&["secret".into(), "other".into()], &[], &[]);
        let peer = IpAddr::from([127, 0, 0, 1]);
        let check = |value, path| admission.check_key(&headers(&[("authorization", value)]), path, peer);
        let [a, b] = ["Bearer secret", "bearer other"].map(|value| check(value, "/v1/models").unwrap().0);
        assert_ne!(a, b);
        for value in ["Bearer secre", "Bearer", "Basic secret", "secret", "Bearer ", ""] {
            assert!(check(value, "/v1/models").is_err(), "{value}");
            assert!(check(value, "/metrics").is_err(), "{value}");
            assert!(check(value, "/health").is_ok() && check(value, "/web/app.js").is_ok(), "{value}");
        }
        let open = Admission::new(&[], &[], &[]);
        assert!(open.check_key(&HeaderMap::new(), "/v1/models", peer).is_ok());
    }
}
