//! What is parsed of an answer: `Content-Range`, `Retry-After`, and what identifies a version of a file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ureq::http::HeaderMap;

use crate::date::days;

/// The value of a `Content-Range` (RFC 9110, 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// The bytes from `start` up to `end` of a file of `total` bytes, if that is known.
    Part {
        /// The first byte.
        start: u64,
        /// The byte after the last one.
        end: u64,
        /// The length of the file.
        total: Option<u64>,
    },
    /// No bytes: the file has `total` bytes.
    None {
        /// The length of the file.
        total: u64,
    },
}

/// Parses the value of a `Content-Range`; `None` if it is not valid.
pub fn content_range(text: &str) -> Option<ContentRange> {
    let (unit, rest) = text.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = rest.trim().split_once('/')?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    if range == "*" {
        return Some(ContentRange::None { total: total? });
    }
    let (first, last) = range.split_once('-')?;
    let (start, end) = (number(first)?, number(last)?.checked_add(1)?);
    let is_valid = start < end && total.is_none_or(|total| end <= total);
    is_valid.then_some(ContentRange::Part { start, end, total })
}

/// Parses digits only, unlike `str::parse`, which allows a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Parses the value of a `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). A date in the past is no wait.
pub fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Some(seconds) = number(text) {
        return Some(Duration::from_secs(seconds));
    }
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(http_date(text)?.saturating_sub(now)))
}

/// Parses a date as in `Sun, 06 Nov 1994 08:49:37 GMT`, in seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let parts: Vec<&str> = rest.split(' ').collect();
    let [day, month, year, time, "GMT"] = parts[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year) = (number(day)?, number(year)?);
    let clock: Vec<u64> = time.split(':').map(number).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    let is_valid = (1..=31).contains(&day) && (1970..10_000).contains(&year) && hour < 24 && minute < 60 && second < 61;
    is_valid.then(|| days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second)
}

/// What identifies a version of a file on its server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    etag: Option<String>,
    modified: Option<String>,
}

impl Version {
    /// Takes it from the headers of an answer.
    pub fn of(headers: &HeaderMap) -> Version {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.trim().to_owned());
        Version { etag: text("etag"), modified: text("last-modified") }
    }

    /// Returns the version of a file of this length and time.
    pub fn of_file(length: u64, modified: Option<SystemTime>) -> Version {
        Version { etag: Some(format!("{length} {modified:?}")), modified: None }
    }

    /// Returns the value of `If-Range`: only a strong tag may be used there, or a date (RFC 9110, 13.1.5).
    pub fn condition(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| tag.starts_with('"'));
        strong.or(self.modified.as_deref().filter(|_| self.etag.is_none()))
    }

    /// Returns whether two answers cannot be of the same version.
    pub fn differs_from(&self, other: &Version) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        match (&self.etag, &other.etag) {
            (Some(a), Some(b)) => a != b,
            _ => differ(&self.modified, &other.modified),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end, total| Some(ContentRange::Part { start, end, total });
        assert_eq!(content_range("bytes 0-99/200"), part(0, 100, Some(200)));
        assert_eq!(content_range(" Bytes 5-5/* "), part(5, 6, None));
        assert_eq!(content_range("bytes */17"), Some(ContentRange::None { total: 17 }));
        for bad in [
            "",
            "bytes",
            "bytes 0-99",
            "bytes 9-3/20",
            "bytes 0-20/20",
            "bytes */*",
            "lines 0-1/2",
            "bytes -1-3/9",
            "bytes +1-3/9",
            "bytes 0-18446744073709551615/*",
            "bytes 0-1,3-4/9",
            "bytes 0-1/2x",
            "bytes -/9",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn waits() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777); // The example of RFC 9110, 5.6.7.
        let seconds = |text: &str| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:07 GMT"), Some(0));
        assert_eq!(seconds("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400 - 784_111_777));
        for bad in ["", "-1", "1.5", "soon", "Sun, 06 Nov 1994 08:49:47", "Sun, 99 Nov 1994 08:49:47 GMT"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions() {
        let version = |etag: Option<&str>, modified: Option<&str>| Version {
            etag: etag.map(str::to_owned),
            modified: modified.map(str::to_owned),
        };
        assert_eq!(version(Some("\"a\""), Some("x")).condition(), Some("\"a\""));
        assert_eq!(version(Some("W/\"a\""), Some("x")).condition(), None);
        assert_eq!(version(None, Some("x")).condition(), Some("x"));
        assert!(version(Some("\"a\""), Some("x")).differs_from(&version(Some("\"b\""), Some("x"))));
        assert!(!version(Some("\"a\""), Some("x")).differs_from(&version(None, Some("x"))));
        assert!(version(None, Some("x")).differs_from(&version(Some("\"b\""), Some("y"))));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*") {
            content_range(&text);
            retry_after(&text, UNIX_EPOCH);
        }

        #[test]
        fn what_servers_write_is_read(start in 0..1u64 << 40, length in 1..1u64 << 40, more in 0..1u64 << 40) {
            let (end, total) = (start + length, start + length + more);
            let text = format!("bytes {start}-{}/{total}", end - 1);
            prop_assert_eq!(content_range(&text), Some(ContentRange::Part { start, end, total: Some(total) }));
        }
    }
}
