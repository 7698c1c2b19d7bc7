//! Errors of fetching.

use std::io;
use std::time::Duration;

use impasto_container::ContainerError;
use thiserror::Error;

/// An error of fetching a file.
///
/// `url` is the address without its query, which may be a secret. No message contains a header or a token.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The messages explain the fields.
pub enum FetchError {
    #[error("{address}: {rule}")]
    Address { address: String, rule: String },
    #[error("an option of fetching: {rule}")]
    Option { rule: String },
    #[error("{file}: {error}")]
    Io { file: String, error: io::Error },
    #[error(transparent)]
    Container(#[from] ContainerError),

    #[error("{url}: cannot connect: {reason}")]
    Connect { url: String, reason: String },
    #[error("{url}: {reason}")]
    Tls { url: String, reason: String },
    #[error("{url}: the connection broke: {reason}")]
    Broken { url: String, reason: String },
    #[error("{url}: no answer came in time ({phase})")]
    Timeout { url: String, phase: String },
    #[error("{url}: too slow: {bytes} bytes in {seconds} s, fewer than {least} bytes per second")]
    Slow { url: String, bytes: u64, seconds: u64, least: u64 },
    #[error("{url}: the server answered {status}{}", status_advice(*status))]
    Status { url: String, status: u16, after: Option<Duration> },
    #[error("{error}, after {tries} tries without progress")]
    GaveUp { tries: u32, error: Box<FetchError> },
    #[error("{url}: more than {most} redirects")]
    Redirects { url: String, most: usize },
    #[error("{url}: redirected in a circle, back to {to}")]
    RedirectLoop { url: String, to: String },
    #[error("{url}: redirected to {to}, which is refused: {rule}")]
    Redirect { url: String, to: String, rule: &'static str },
    #[error("{url}: bytes {start} to {end} were asked for, but the answer is {answer} (RFC 9110, 14.4)")]
    Range { url: String, start: u64, end: u64, answer: String },
    #[error("{url}: the answer is coded as {coding:?}, although only `identity` was accepted (RFC 9110, 12.5.3)")]
    Coding { url: String, coding: String },
    #[error("{url}: the server does not answer with parts of the file (RFC 9110, 14.2)")]
    NoRanges { url: String },
    #[error("{url}: it ends at byte {has}, before byte {wants}: the file there is cut")]
    Short { url: String, has: u64, wants: u64 },
    #[error("{url}: the file there changed while it was fetched: {what}")]
    Changed { url: String, what: String },
    #[error("{url}: {place} is damaged, {tries} times: it does not have the hash in the manifest (SPEC 11.2)")]
    Damaged { url: String, place: String, tries: u32 },
    #[error("{url}: it has the root {found}, not {wanted}")]
    WrongRoot { url: String, found: String, wanted: String },

    #[error(
        "{file}: it is another file than {url}: it has the root {has}, that one {root} (use --force to replace it)"
    )]
    OtherFile { file: String, url: String, has: String, root: String },
    #[error("{file}: it exists and is not the beginning of an .impasto file: {rule} (use --force to replace it)")]
    Occupied { file: String, rule: String },
    #[error("{file}: it is being fetched by another process")]
    Busy { file: String },
    #[error("{url}: {bytes} bytes are too few: the base takes {base} ({base_bits:.3} bits per weight)")]
    Budget { url: String, bytes: u64, base: u64, base_bits: f64 },
    #[error("{url}: there is no layer {layer}: the file has {layers}")]
    NoLayer { url: String, layer: usize, layers: usize },
    #[error("{url}: a token is not sent over http, except to this machine: use https")]
    Plain { url: String },
    #[error("cannot start threads: {reason}")]
    Threads { reason: String },
    #[error("cancelled")]
    Cancelled,

    #[error("{file}: its base {name:?} with the root {root} was not found{}", tried_shown(tried))]
    NoMirror { file: String, name: String, root: String, tried: Vec<String> },
    #[error("{file}: it is the end of a chain of more than {most} files, each a delta of the next (SPEC 21.8)")]
    Depth { file: String, most: usize },
}

impl FetchError {
    /// Returns whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            FetchError::Connect { .. }
            | FetchError::Broken { .. }
            | FetchError::Timeout { .. }
            | FetchError::Slow { .. }
            | FetchError::Range { .. } => true,
            FetchError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }
}

fn status_advice(status: u16) -> &'static str {
    match status {
        401 | 403 => " (is a token needed? see --token-file)",
        404 | 410 => " (there is no such file)",
        407 => " (the proxy wants a name and a password)",
        _ => "",
    }
}

fn tried_shown(tried: &[String]) -> String {
    match tried {
        [] => ": the file names no mirrors; fetch the base by its URL".to_owned(),
        tried => format!(": {}", tried.join("; ")),
    }
}
