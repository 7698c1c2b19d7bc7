//! Files on HTTP servers: one request, its redirects, and what its answer must be.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use ureq::http::{HeaderMap, Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, BodyReader, Timeout};

use crate::answer::{ContentRange, Version, content_range, retry_after};
use crate::error::FetchError;
use crate::options::{Header, Options, Secret};
use crate::remote::{Answer, Body, Remote, Wanted};
use crate::url::{Url, shown};

/// Most redirects that are followed.
const MOST_REDIRECTS: usize = 10;
/// What programs call themselves.
const AGENT: &str = concat!("impasto/", env!("CARGO_PKG_VERSION"));

/// Makes the URL of a request; one that is signed is made anew each time.
type MakeUrl = Box<dyn Fn() -> Result<Url, FetchError> + Send + Sync>;

/// A file on an HTTP server.
pub struct Http {
    agent: Agent,
    shown: String,
    url: MakeUrl,
    /// Sent to the host of the address only.
    headers: Vec<Header>,
    /// Where the last redirect led to, so that not every request is redirected.
    resolved: Mutex<Option<Url>>,
    requests: AtomicU64,
}

impl Http {
    /// Prepares requests for a file that `shown` names in messages.
    ///
    /// # Errors
    /// If the certificates cannot be read, or a token would be sent over http to another machine.
    pub fn new(shown: String, url: MakeUrl, options: &Options, token: Option<Secret>) -> Result<Http, FetchError> {
        let mut headers = options.headers.clone();
        if let Some(token) = token {
            headers.extend(token.bearer());
        }
        let first = url()?;
        let is_open = headers.iter().any(Header::is_secret) && !first.is_https();
        if is_open && !first.is_loopback() {
            return Err(FetchError::Plain { url: shown });
        }
        let mut tls = TlsConfig::builder();
        if let Some(path) = &options.ca_file {
            tls = tls.root_certs(certificates(path)?);
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .user_agent(AGENT)
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections_per_host(options.connections)
            .timeout_resolve(Some(options.connect))
            .timeout_connect(Some(options.connect))
            .timeout_send_request(Some(options.answer))
            .timeout_recv_response(Some(options.answer))
            .timeout_per_read(Some(options.stall));
        // A token for this machine must not pass a proxy on another one.
        let config = if is_open { config.proxy(None) } else { config }.build();
        let (resolved, requests) = (Mutex::new(None), AtomicU64::new(0));
        Ok(Http { agent: config.new_agent(), shown, url, headers, resolved, requests })
    }

    /// Sends one request. Headers that may be secrets go to the host of the address only.
    fn send(&self, url: &Url, origin: &Url, wanted: &Wanted<'_>) -> Result<Response<ureq::Body>, FetchError> {
        // A coding would make ranges meaningless; proxies must not apply one either.
        let mut request = self.agent.get(url.as_str()).header(header::CACHE_CONTROL, "no-transform");
        if let Some(range) = &wanted.range {
            request = request.header(header::RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
            if let Some(condition) = wanted.version.and_then(Version::condition) {
                request = request.header(header::IF_RANGE, condition);
            }
        }
        if url.has_origin_of(origin) {
            for Header { name, value } in &self.headers {
                request = request.header(name, value);
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        request.call().map_err(|error| failure(shown(url.as_str()), &error))
    }

    /// Sends a request and follows redirects. Returns the last answer.
    fn follow(&self, wanted: &Wanted<'_>) -> Result<Response<ureq::Body>, FetchError> {
        let origin = (self.url)()?;
        let known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut is_fresh = known.is_none();
        let mut url = known.unwrap_or_else(|| origin.clone());
        let mut seen: Vec<Url> = Vec::new();
        loop {
            let response = self.send(&url, &origin, wanted)?;
            let status = response.status().as_u16();
            if matches!(status, 301 | 302 | 303 | 307 | 308) {
                let to = self.redirect(&url, &response)?;
                seen.push(url);
                if seen.contains(&to) {
                    return Err(FetchError::RedirectLoop { url: self.shown.clone(), to: shown(to.as_str()) });
                }
                if seen.len() > MOST_REDIRECTS {
                    return Err(FetchError::Redirects { url: self.shown.clone(), most: MOST_REDIRECTS });
                }
                url = to;
            } else if !is_fresh && matches!(status, 401 | 403 | 404 | 410) {
                // Where a redirect leads to may be signed for some time only.
                (url, is_fresh) = (origin.clone(), true);
            } else {
                if url != origin && response.status().is_success() {
                    self.resolve_to(Some(url));
                }
                return Ok(response);
            }
        }
    }

    /// Returns where an answer redirects to.
    fn redirect(&self, url: &Url, response: &Response<ureq::Body>) -> Result<Url, FetchError> {
        let to = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let refused = |rule| FetchError::Redirect { url: self.shown.clone(), to: shown(to.unwrap_or("nowhere")), rule };
        let next = url.join(to.ok_or_else(|| refused("there is no Location"))?);
        let next = next.map_err(|_| refused("it is not an http or https URL"))?;
        if url.is_https() && !next.is_https() {
            return Err(refused("from https to http"));
        }
        Ok(next)
    }

    /// Remembers where a redirect led to, or forgets it.
    fn resolve_to(&self, url: Option<Url>) {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    /// Checks a part of a file (206).
    fn part(&self, wanted: &Range<u64>, headers: &HeaderMap) -> Result<Option<u64>, FetchError> {
        let text = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let wrong = |answer: String| {
            let (url, start, end) = (self.shown.clone(), wanted.start, wanted.end);
            FetchError::Range { url, start, end, answer: impasto_core::name::shown(&answer).to_string() }
        };
        match text.map(|text| (text, content_range(text))) {
            Some((_, Some(ContentRange::Part { start, end, total }))) if start == wanted.start && end <= wanted.end => {
                Ok(total)
            }
            Some((text, _)) => Err(wrong(format!("Content-Range: {text}"))),
            None => Err(wrong("a part of the file that does not say which".to_owned())),
        }
    }
}

impl Remote for Http {
    fn shown(&self) -> String {
        self.shown.clone()
    }

    fn open(&self, wanted: &Wanted<'_>) -> Result<Answer, FetchError> {
        let response = self.follow(wanted).inspect_err(|_| self.resolve_to(None))?;
        let (parts, body) = response.into_parts();
        let (status, headers, url) = (parts.status.as_u16(), parts.headers, self.shown.clone());
        let version = Version::of(&headers);
        let changed = |what: &str| FetchError::Changed { url: self.shown.clone(), what: what.to_owned() };
        match status {
            200 | 206 => {}
            412 => return Err(changed("the server says so (412)")),
            416 => {
                let range = headers.get(header::CONTENT_RANGE).and_then(|value| content_range(value.to_str().ok()?));
                let wants = wanted.range.as_ref().map_or(0, |range| range.end);
                return Err(match range {
                    Some(ContentRange::None { total }) => FetchError::Short { url, has: total, wants },
                    _ => FetchError::Status { url, status, after: None },
                });
            }
            _ => {
                let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let after = after.and_then(|text| retry_after(text, SystemTime::now()));
                return Err(FetchError::Status { url, status, after });
            }
        }
        let coding = headers.get(header::CONTENT_ENCODING).map(|value| String::from_utf8_lossy(value.as_bytes()));
        if let Some(coding) = coding.filter(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
            let coding = impasto_core::name::shown(&coding).to_string();
            return Err(FetchError::Coding { url, coding });
        }
        if wanted.version.is_some_and(|wanted| wanted.differs_from(&version)) {
            return Err(changed("it has another ETag or time"));
        }
        let is_range = status == 206;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let total = match (&wanted.range, is_range) {
            (Some(range), true) => self.part(range, &headers)?,
            (None, true) => return Err(FetchError::Status { url, status, after: None }),
            (_, false) => length,
        };
        let body = HttpBody { reader: body.into_reader(), url };
        Ok(Answer { is_range, total, version, has_length: length.is_some(), body: Box::new(body) })
    }

    fn stop(&self) {
        self.agent.clone().shutdown();
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

struct HttpBody {
    reader: BodyReader<'static>,
    url: String,
}

impl Body for HttpBody {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, FetchError> {
        self.reader.read(into).map_err(|error| match error.downcast::<ureq::Error>() {
            Ok(error) => failure(self.url.clone(), &error),
            Err(error) => failure(self.url.clone(), &ureq::Error::Io(error)),
        })
    }
}

/// Turns an error of the client into ours.
fn failure(url: String, error: &ureq::Error) -> FetchError {
    use std::io::ErrorKind;
    let reason = impasto_core::name::shown(&error.to_string()).to_string();
    match error {
        ureq::Error::Timeout(phase) => {
            let phase = match phase {
                Timeout::Resolve => "finding the host",
                Timeout::Connect => "connecting",
                Timeout::PerRead => "waiting for more bytes",
                _ => "waiting for an answer",
            };
            FetchError::Timeout { url, phase: phase.to_owned() }
        }
        ureq::Error::HostNotFound => FetchError::Connect { url, reason: "there is no such host".to_owned() },
        ureq::Error::ConnectionFailed | ureq::Error::ConnectProxyFailed(_) => FetchError::Connect { url, reason },
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => FetchError::Connect { url, reason },
        ureq::Error::Io(_) | ureq::Error::Rustls(_) if reason.contains("certificate") => {
            FetchError::Tls { url, reason: format!("{reason} (see --ca-file)") }
        }
        // The reason may have the whole URL in it.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            FetchError::Address { address: url, rule: "it cannot be asked for over HTTP".to_owned() }
        }
        ureq::Error::InvalidProxyUrl => {
            FetchError::Option { rule: "the proxy of the environment is not a URL".to_owned() }
        }
        _ => FetchError::Broken { url, reason },
    }
}

/// Reads the certificates of a PEM file.
fn certificates(path: &Path) -> Result<RootCerts, FetchError> {
    let file = path.display().to_string();
    let pem = std::fs::read(path).map_err(|error| FetchError::Io { file: file.clone(), error })?;
    let items: Result<Vec<PemItem<'static>>, _> = parse_pem(&pem).collect();
    let wrong = |rule: &str| FetchError::Option { rule: format!("{file}: {rule}") };
    let items = items.map_err(|_| wrong("not a file of certificates (PEM)"))?;
    let certificates: Vec<_> = items
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(wrong("there is no certificate in it (PEM)"));
    }
    Ok(RootCerts::from(certificates))
}
