//! How to fetch: connections, timeouts, tries, certificates, headers.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue};

use crate::error::FetchError;

/// How to fetch. The defaults suit a usual network.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ranges in flight at once.
    pub connections: usize,
    /// Bytes of a range, about. Memory holds two of them per connection, and a unit.
    pub chunk: u64,
    /// Longest time for resolving a name, and for connecting.
    pub connect: Duration,
    /// Longest time from a request to the headers of its answer.
    pub answer: Duration,
    /// Longest time without a byte.
    pub stall: Duration,
    /// The time over which the rate of a connection is measured.
    pub patience: Duration,
    /// Least rate of a connection in bytes per second, over [`Options::patience`].
    pub least_rate: u64,
    /// Most tries without progress.
    pub tries: u32,
    /// Most times that a damaged unit is fetched.
    pub unit_tries: u32,
    /// The wait after the first failure, which doubles with each further one.
    pub backoff: Duration,
    /// The longest wait, also if the server asks for more.
    pub longest_wait: Duration,
    /// Certificates (PEM) to trust instead of those that are built in.
    pub ca_file: Option<PathBuf>,
    /// Headers of requests to the host of the address. They are not sent to another host that it redirects to.
    pub headers: Vec<Header>,
    /// A bearer token for the host of the address; never sent to another host, nor over http except to this machine.
    pub token: Option<Secret>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections: 4,
            chunk: 4 << 20,
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            patience: Duration::from_secs(30),
            least_rate: 256,
            tries: 6,
            unit_tries: 3,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            ca_file: None,
            headers: vec![],
            token: None,
        }
    }
}

/// A text that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text of a token file or variable: surrounding space does not count.
    ///
    /// # Errors
    /// If it is empty, or has characters that a header cannot have. `place` says where it is from.
    pub fn new(text: &str, place: &str) -> Result<Secret, FetchError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(FetchError::Option { rule: format!("{place} does not hold a token, which is one word") });
        }
        Ok(Secret(text.to_owned()))
    }

    /// Returns the header that carries it.
    pub(crate) fn bearer(&self) -> Option<Header> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(Header { name: HeaderName::from_static("authorization"), value })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A header of a request. Its value is not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
}

/// Headers that requests have anyway, or that say how a message is framed.
const OWN: [&str; 10] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-range",
    "range",
    "te",
    "transfer-encoding",
];

impl Header {
    /// Parses `Name: value`.
    ///
    /// # Errors
    /// [`FetchError::Option`] if it is not a header, or one that requests have anyway.
    pub fn parse(text: &str) -> Result<Header, FetchError> {
        let wrong = |rule: &str| FetchError::Option { rule: rule.to_owned() };
        let (name, value) = text.split_once(':').ok_or_else(|| wrong("a header has the form `Name: value`"))?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong("the name of a header is not valid"))?;
        if OWN.contains(&name.as_str()) {
            return Err(wrong(&format!("the header {name:?} cannot be given: requests have their own")));
        }
        let value = HeaderValue::from_str(value.trim());
        let mut value = value.map_err(|_| wrong(&format!("the value of the header {name:?} is not valid")))?;
        value.set_sensitive(true);
        Ok(Header { name, value })
    }

    /// Returns whether it gives access to something, whatever its name.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self.name.as_str(), "authorization" | "cookie" | "proxy-authorization")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_tokens() {
        let header = Header::parse("X-Key:  a secret ").unwrap();
        assert_eq!((header.name.as_str(), header.value.as_bytes()), ("x-key", &b"a secret"[..]));
        for bad in ["", "X", ": x", "a b: c", "X: a\nb", "Range: bytes=0-1", "host: x"] {
            assert!(Header::parse(bad).is_err(), "{bad:?}");
        }
        let token = Secret::new(" secret\n", "the file").unwrap();
        assert_eq!(token.bearer().unwrap().value.as_bytes(), b"Bearer secret");
        let options = Options { token: Some(token), headers: vec![header], ..Options::default() };
        assert!(!format!("{options:?}").contains("secret"), "{options:?}");
        for bad in ["", " \n", "a b", "ä"] {
            let error = Secret::new(bad, "the file").unwrap_err().to_string();
            assert!(error.contains("the file"), "{error}");
        }
    }
}
