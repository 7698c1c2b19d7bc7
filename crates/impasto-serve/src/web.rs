//! The web page.

/// A file of the page.
pub struct Page {
    /// Its type.
    pub content_type: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

impl Page {
    /// Its entity tag.
    pub fn etag(&self) -> String {
        format!("\"{}\"", &blake3::hash(self.bytes).to_hex()[..16])
    }
}

/// Headers of the page.
pub const HEADERS: &[(&str, &str)] = &[];

/// Finds a file of the page.
pub fn find(_path: &str) -> Option<&'static Page> {
    None
}
