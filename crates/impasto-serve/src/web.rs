//! The page at `/`: its files, which are part of the program, and the headers that they are sent with.
//!
//! A path is only ever compared with the names in the table, so no request reaches the file system.

use std::sync::LazyLock;

/// What the page may do: use its own files and this server. It holds no inline script or style, and makes no elements from text.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'";

/// Headers of every page and file, beside `Content-Type`, `Content-Length` and `ETag`. Names are in lower case.
///
/// A browser keeps a file, but asks each time whether it is still the same one (`no-cache` with an `ETag`), so that a page never runs
/// with files of another version of the program.
pub const HEADERS: &[(&str, &str)] = &[
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-cache"),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const MANIFEST: &str = "application/manifest+json";

/// One file of the page.
#[derive(Debug)]
pub struct Page {
    /// Where it is served, from `/` on.
    pub path: &'static str,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// The file.
    pub bytes: &'static [u8],
    etag: String,
}

impl Page {
    /// Value of `ETag`, with its quotes: a hash of the bytes.
    #[must_use]
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Whether a client that sends this `If-None-Match` already has the file. The comparison is the weak one of RFC 9110, section 13.1.2.
    #[must_use]
    pub fn matches(&self, if_none_match: &str) -> bool {
        if_none_match.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == self.etag)
    }
}

macro_rules! file {
    ($name:literal, $content_type:expr) => {
        file!(concat!("/web/", $name), $name, $content_type)
    };
    ($path:expr, $name:literal, $content_type:expr) => {
        ($path, $content_type, include_bytes!(concat!("../web/", $name)) as &'static [u8])
    };
}

static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
    [
        file!("/", "index.html", HTML),
        file!("/favicon.ico", "logo.svg", IMAGE),
        file!("api.js", SCRIPT),
        file!("app.js", SCRIPT),
        file!("chat.js", SCRIPT),
        file!("dialogs.js", SCRIPT),
        file!("dom.js", SCRIPT),
        file!("drawer.js", SCRIPT),
        file!("format.js", SCRIPT),
        file!("frame.js", SCRIPT),
        file!("highlight.js", SCRIPT),
        file!("inline.js", SCRIPT),
        file!("keys.js", SCRIPT),
        file!("live.js", SCRIPT),
        file!("logo.svg", IMAGE),
        file!("manifest.webmanifest", MANIFEST),
        file!("markdown.js", SCRIPT),
        file!("messages.js", SCRIPT),
        file!("models.js", SCRIPT),
        file!("quality.js", SCRIPT),
        file!("render.js", SCRIPT),
        file!("settings.js", SCRIPT),
        file!("sidebar.js", SCRIPT),
        file!("sse.js", SCRIPT),
        file!("store.js", SCRIPT),
        file!("style.css", STYLE),
        file!("theme-early.js", SCRIPT),
        file!("theme.js", SCRIPT),
        file!("toast.js", SCRIPT),
        file!("transcript.js", SCRIPT),
    ]
    .into_iter()
    .map(|(path, content_type, bytes)| {
        let hash = blake3::hash(bytes).to_hex();
        Page { path, content_type, bytes, etag: format!("\"{}\"", &hash[..32]) }
    })
    .collect()
});

/// The file that is served at a path, such as `/` or `/web/app.js`.
#[must_use]
pub fn find(path: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.path == path)
}

/// All files, for a server that routes each path by itself.
#[must_use]
pub fn pages() -> &'static [Page] {
    &PAGES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(page: &Page) -> &str {
        std::str::from_utf8(page.bytes).unwrap()
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
        let on_disk: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name != "README.md" && name != "index.html")
            .collect();
        let served: BTreeSet<String> =
            pages().iter().filter_map(|page| page.path.strip_prefix("/web/")).map(str::to_owned).collect();
        assert_eq!(on_disk, served);
    }

    #[test]
    fn everything_that_is_named_is_found() {
        let mut named = 0;
        for page in pages() {
            let marks: &[&str] = match page.content_type {
                HTML => &["src=\"", "href=\""],
                SCRIPT => &["from './", "import './"],
                _ => &[],
            };
            for mark in marks {
                for rest in text(page).split(mark).skip(1) {
                    let name = rest.split(['"', '\'']).next().unwrap();
                    let path = if page.path == "/" { format!("/{name}") } else { format!("/web/{name}") };
                    assert!(find(&path).is_some(), "{} names {path}", page.path);
                    named += 1;
                }
            }
        }
        assert!(named > 30);
    }

    #[test]
    fn nothing_breaks_the_policy() {
        let html = text(find("/").unwrap());
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick"));
        assert!(
            html.split("<script").skip(1).all(|rest| rest.trim_start().starts_with("src=") || rest.contains("src="))
        );
        for page in pages() {
            let outside = ["http://", "https://"].iter().flat_map(|scheme| text(page).match_indices(scheme));
            // Names of XML, no requests.
            let requests = outside.filter(|(at, _)| !text(page)[*at..].starts_with("http://www.w3.org/")).count();
            // inline.js tells addresses in answers apart; it asks for none.
            assert!(requests == 0 || page.path == "/web/inline.js", "{}", page.path);
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!text(page).contains(word), "{} holds {word}", page.path);
            }
        }
    }

    #[test]
    fn tags_differ_and_match() {
        let distinct: BTreeSet<&str> = pages().iter().map(|page| page.etag.as_str()).collect();
        // The icon is served at two paths.
        assert_eq!(distinct.len(), pages().len() - 1);
        let page = find("/web/app.js").unwrap();
        assert!(page.matches(&page.etag) && page.matches("*"));
        assert!(page.matches(&format!("\"other\", W/{}", page.etag)));
        assert!(!page.matches("") && !page.matches("\"other\"") && !page.matches(page.etag.trim_matches('"')));
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in
            ["", "/web", "/web/", "/web/../Cargo.toml", "/web/README.md", "/web/tests/mock.js", "/web/app.js/", "//"]
        {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
