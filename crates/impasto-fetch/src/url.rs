//! The little of RFC 3986 that is needed: parts of http(s) URLs, references relative to them, percent-encoding.

use std::fmt;

use ureq::http::Uri;

use crate::error::FetchError;

/// An absolute http or https URL without a user and a fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    is_https: bool,
    /// Host, and port if there is one, in lower case.
    authority: String,
    host: String,
}

/// Shows the URL without its query, which may be a secret.
impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({:?})", shown(&self.text))
    }
}

impl Url {
    /// Parses an absolute URL; its fragment is dropped.
    ///
    /// # Errors
    /// [`FetchError::Address`], which does not show the URL's query.
    pub fn parse(text: &str) -> Result<Url, FetchError> {
        let text = text.split('#').next().unwrap_or_default();
        let wrong = |rule: &str| FetchError::Address { address: shown(text), rule: rule.to_owned() };
        let uri: Uri =
            text.parse().map_err(|_| wrong("not a URL (spaces and letters with accents need %-encoding)"))?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("the scheme must be http or https")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("there is no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a URL with a user and a password is not accepted; use --header or --token-file"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong("there is no host"));
        }
        let authority = authority.as_str().to_ascii_lowercase();
        Ok(Url { text: text.to_owned(), is_https, authority, host })
    }

    /// Returns the whole URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether it is an https URL.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Returns whether both have the same scheme, host and port.
    pub fn has_origin_of(&self, other: &Url) -> bool {
        let authority = |url: &Url| {
            let usual = if url.is_https { ":443" } else { ":80" };
            url.authority.strip_suffix(usual).unwrap_or(&url.authority).to_owned()
        };
        self.is_https == other.is_https && authority(self) == authority(other)
    }

    /// Returns whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }

    /// Resolves a reference, as in a `Location` (RFC 3986, 5.3).
    ///
    /// # Errors
    /// If the result is not an http(s) URL.
    pub fn join(&self, reference: &str) -> Result<Url, FetchError> {
        let reference = reference.split('#').next().unwrap_or_default();
        let scheme = if self.is_https { "https" } else { "http" };
        let has_scheme = reference.split_once(':').is_some_and(|(scheme, _)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        });
        if has_scheme {
            return Url::parse(reference);
        }
        if reference.starts_with("//") {
            return Url::parse(&format!("{scheme}:{reference}"));
        }
        let (path, query) = self.path_and_query();
        let root = format!("{scheme}://{}", self.authority);
        let (relative, new_query) = match reference.split_once('?') {
            Some((relative, query)) => (relative, Some(query)),
            None => (reference, None),
        };
        let (path, query) = match relative {
            "" => (path.to_owned(), new_query.or(query)),
            relative if relative.starts_with('/') => (without_dots(relative), new_query),
            relative => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                (without_dots(&format!("{folder}/{relative}")), new_query)
            }
        };
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        Url::parse(&format!("{root}{path}{query}"))
    }

    fn path_and_query(&self) -> (&str, Option<&str>) {
        let after = self.text.split_once("://").map_or("", |(_, rest)| rest);
        let from = after.find(['/', '?']).unwrap_or(after.len());
        match after[from..].split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&after[from..], None),
        }
    }
}

/// Returns an address for messages: on one line, without a query, a user or a password, which may be secrets.
pub fn shown(address: &str) -> String {
    let plain = address.split(['?', '#']).next().unwrap_or_default();
    let hidden = match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            // In hf:// addresses, an @ may follow the owner.
            if matches!(scheme, "http" | "https") { format!("{scheme}://{host}{path}") } else { plain.to_owned() }
        }
        None => plain.to_owned(),
    };
    impasto_core::name::shown(&hidden).to_string()
}

/// Removes the segments `.` and `..` of a path that begins with `/`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path.split('/').skip(1) {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let end = if ends_in_folder && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

/// Percent-encodes everything but unreserved characters and those of `kept`.
pub fn encode(text: &str, kept: &str) -> String {
    let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
    let mut out = String::new();
    for byte in text.bytes() {
        match is_kept(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn references() {
        // From RFC 3986, 5.4.
        let base = url("http://a/b/c/d;p?q");
        for (reference, whole) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("g#s", "http://a/b/c/g"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("g;x=1/../y", "http://a/b/c/y"),
            ("https://x.example/y?z", "https://x.example/y?z"),
        ] {
            assert_eq!(base.join(reference).unwrap().as_str(), whole, "{reference}");
        }
        assert_eq!(url("http://a").join("b").unwrap().as_str(), "http://a/b");
        for refused in ["file:///etc/passwd", "ftp://x/y", "javascript:0", "http://u:p@x/"] {
            assert!(base.join(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn origins() {
        assert!(url("https://A.example:443/x").has_origin_of(&url("https://a.example/y")));
        for other in ["http://a.example/", "https://a.example:444/", "https://b.example/", "https://a.example.b/"] {
            assert!(!url("https://a.example/").has_origin_of(&url(other)), "{other}");
        }
        for local in ["http://127.0.0.1:8/", "http://localhost/x", "http://[::1]:80/", "http://127.9.9.9/"] {
            assert!(url(local).is_loopback(), "{local}");
        }
        for far in ["http://127.0.0.1.example/", "http://10.0.0.1/", "http://localhost.example/"] {
            assert!(!url(far).is_loopback(), "{far}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("https://u:secret@h:1/p/q?sig=secret#x"), "https://h:1/p/q");
        assert_eq!(format!("{:?}", url("https://h/p?sig=secret")), "Url(\"https://h/p\")");
        assert_eq!(shown("hf://o/r/f@main"), "hf://o/r/f@main");
        let error = Url::parse("https://u:secret@h/?key=secret").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(encode("a b/ü@x", "/"), "a%20b/%C3%BC%40x");
    }
}
