//! Pages: memory for the keys or values of a fixed number of tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::KvError;
use super::lines::{LINE, Lines};

/// Number of tokens in a page.
pub const PAGE: usize = 64;

/// A count of the bytes of pages that sequences hold, with a limit. Sequences that share the count share the limit.
#[derive(Debug)]
pub struct Pages {
    used: AtomicUsize,
    limit: usize,
}

impl Pages {
    /// Creates a count with a limit of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// Returns the bytes of all pages in use. Pages shared by sequences count once.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the largest number of bytes that may be in use.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Allocates a zeroed page of `bytes` bytes.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Page, KvError> {
        let bytes = bytes.next_multiple_of(LINE);
        let grown = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        let counted = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        counted.map_err(|used| KvError::Limit { bytes: used.saturating_add(bytes), limit: self.limit })?;
        // From here on, dropping the page subtracts its bytes from the count.
        let mut page = Page { lines: Lines::default(), bytes, pages: self.clone() };
        page.lines = Lines::new(bytes).map_err(|_| KvError::Memory { bytes })?;
        Ok(page)
    }
}

/// The memory of one page. Dropping it subtracts its bytes from the count.
pub(super) struct Page {
    lines: Lines,
    bytes: usize,
    pages: Arc<Pages>,
}

impl Page {
    /// Returns a new page with the same content.
    pub(super) fn copy(&self) -> Result<Page, KvError> {
        let mut page = self.pages.take(self.bytes)?;
        page.bytes_mut().copy_from_slice(self.bytes());
        Ok(page)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.lines.bytes()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.lines.bytes_mut()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.pages.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_pages_come_back() {
        let pages = Pages::new(256);
        let (a, mut b) = (pages.take(100).unwrap(), pages.take(128).unwrap());
        assert_eq!((pages.used(), pages.limit()), (256, 256));
        assert_eq!(pages.take(1).err(), Some(KvError::Limit { bytes: 320, limit: 256 }));
        b.bytes_mut()[127] = 9;
        assert!(b.copy().is_err());
        drop(a);
        assert_eq!(b.copy().unwrap().bytes(), b.bytes());
        assert_eq!(pages.used(), 128);
        let without = Pages::new(usize::MAX);
        assert_eq!(without.take(1 << 62).err(), Some(KvError::Memory { bytes: 1 << 62 }));
        assert_eq!(without.used(), 0);
    }
}
