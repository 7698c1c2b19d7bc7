//! Sources of the bytes of a file.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use impasto_core::files::Map;

/// Bytes with random access, readable by several threads at once.
pub trait Source: Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> u64;

    /// Returns whether the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the `len` bytes at `offset`, borrowed if they are in memory anyway.
    ///
    /// # Errors
    /// `UnexpectedEof` if the range extends past the end; otherwise errors of the operating system.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>>;

    /// Returns the bytes of several ranges, in order.
    ///
    /// The default reads them one after another. A source with high latency should override it to read them at once.
    ///
    /// # Errors
    /// As for [`Source::read_at`], for the first range that cannot be read.
    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Cow<'_, [u8]>>> {
        ranges.iter().map(|range| self.read_at(range.start, length(range)?)).collect()
    }

    /// Returns whether the bytes of a range are available.
    ///
    /// The default checks that the range ends within [`Source::len`]. A source that is filled in arbitrary order, such
    /// as a file that is being downloaded, should override it.
    fn has(&self, range: &Range<u64>) -> bool {
        range.end <= self.len()
    }

    /// Returns an error if the source cannot stand by bytes that it returned, for example because a mapped file became
    /// shorter. Users of borrowed bytes ask when they are done with them.
    ///
    /// # Errors
    /// What happened to the source.
    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    /// Advises the source that bytes will not be read again soon, so that it can free their memory. They can still be
    /// read.
    fn release(&self, _range: Range<u64>) {}
}

/// Returns the length of a range; `UnexpectedEof` if it is negative or does not fit `usize`.
fn length(range: &Range<u64>) -> io::Result<usize> {
    let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
    range.end.checked_sub(range.start).and_then(|length| usize::try_from(length).ok()).ok_or_else(eof)
}

impl Source for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let bytes = usize::try_from(offset).ok().and_then(|from| self.get(from..from.checked_add(len)?));
        bytes.map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

macro_rules! through {
    ($([$($generics:tt)*] $type:ty)*) => {$(
        impl<$($generics)*> Source for $type {
            fn len(&self) -> u64 {
                Source::len(&**self)
            }

            fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
                Source::read_at(&**self, offset, len)
            }

            fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Cow<'_, [u8]>>> {
                Source::read_ranges(&**self, ranges)
            }

            fn has(&self, range: &Range<u64>) -> bool {
                Source::has(&**self, range)
            }

            fn check(&self) -> io::Result<()> {
                Source::check(&**self)
            }

            fn release(&self, range: Range<u64>) {
                Source::release(&**self, range);
            }
        }
    )*};
}

through! {
    [] Vec<u8>
    [S: Source + ?Sized] &S
    [S: Source + ?Sized] Box<S>
    [S: Source + ?Sized] Arc<S>
}

/// A memory-mapped file. Pages are read at the first access, and the system may evict them.
#[derive(Debug)]
pub struct MmapSource(Map);

impl MmapSource {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be opened or is not a regular file.
    pub fn open(path: &Path) -> io::Result<MmapSource> {
        // Checked before the file is opened, because opening a pipe blocks until it has a writer.
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, not a file"));
        }
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        Ok(MmapSource(Map::new(&file, path)?))
    }
}

impl Source for MmapSource {
    fn len(&self) -> u64 {
        Source::len(&self.0[..])
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        self.0[..].read_at(offset, len)
    }

    fn check(&self) -> io::Result<()> {
        self.0.check()
    }

    fn release(&self, range: Range<u64>) {
        self.0.release(range);
    }
}

/// A wrapper that records which bytes of a source are read, and in how many calls.
#[derive(Debug, Default)]
pub struct CountingSource<S> {
    inner: S,
    reads: Mutex<Vec<Range<u64>>>,
    calls: AtomicUsize,
}

impl<S: Source> CountingSource<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> CountingSource<S> {
        CountingSource { inner, reads: Mutex::default(), calls: AtomicUsize::new(0) }
    }

    /// Clears what was recorded.
    pub fn clear(&self) {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.calls.store(0, Ordering::Relaxed);
    }

    /// Returns the number of successful read calls so far; a call with several ranges counts once.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn record(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).extend(ranges);
    }

    /// Returns the ranges read so far, in ascending order, merged so that they neither overlap nor touch.
    pub fn touched(&self) -> Vec<Range<u64>> {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reads.retain(|read| !read.is_empty());
        reads.sort_by_key(|read| read.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for read in reads {
            match merged.last_mut() {
                Some(last) if read.start <= last.end => last.end = last.end.max(read.end),
                _ => merged.push(read),
            }
        }
        merged
    }

    /// Returns the number of distinct bytes read so far.
    pub fn touched_bytes(&self) -> u64 {
        self.touched().iter().map(|read| read.end - read.start).sum()
    }
}

impl<S: Source> Source for CountingSource<S> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let bytes = self.inner.read_at(offset, len)?;
        self.record(std::iter::once(offset..offset + len as u64));
        Ok(bytes)
    }

    fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Cow<'_, [u8]>>> {
        let bytes = self.inner.read_ranges(ranges)?;
        self.record(ranges.iter().cloned());
        Ok(bytes)
    }

    fn has(&self, range: &Range<u64>) -> bool {
        self.inner.has(range)
    }

    fn check(&self) -> io::Result<()> {
        self.inner.check()
    }

    fn release(&self, range: Range<u64>) {
        self.inner.release(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &dyn Source) {
        assert_eq!((source.len(), source.is_empty()), (5, false));
        assert_eq!(&source.read_at(1, 3).unwrap()[..], b"ell");
        assert_eq!(&source.read_at(5, 0).unwrap()[..], b"");
        for (offset, len) in [(6, 0), (0, 6), (5, 1), (u64::MAX, 1), (1, usize::MAX)] {
            let error = source.read_at(offset, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let many = source.read_ranges(&[1..4, 5..5, 0..1]).unwrap();
        assert_eq!(many.iter().map(|bytes| &bytes[..]).collect::<Vec<_>>(), [&b"ell"[..], b"", b"h"]);
        #[allow(clippy::reversed_empty_ranges, reason = "these ranges must be refused")]
        for ranges in [[0..1, 4..6], [3..2, 0..1]] {
            assert_eq!(source.read_ranges(&ranges).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert!(source.has(&(0..5)) && !source.has(&(4..6)));
        #[allow(clippy::reversed_empty_ranges, reason = "advice accepts any range")]
        for range in [0..5, 1..3, 5..5, 3..1, 4..u64::MAX, u64::MAX..0] {
            source.release(range);
            assert_eq!(&source.read_at(0, 5).unwrap()[..], b"hello");
        }
    }

    #[test]
    fn all_sources_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, b"hello").unwrap();
        check(&b"hello".to_vec());
        check(&&b"hello"[..]);
        check(&Arc::new(b"hello".to_vec()));
        check(&CountingSource::new(b"hello".to_vec()));
        check(&MmapSource::open(&path).unwrap());
    }

    #[test]
    fn released_pages_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let source = MmapSource::open(&path).unwrap();
        let held = source.read_at(0, bytes.len()).unwrap();
        for range in [5_000..70_001, 4_096..8_192, 99_999..100_000, 0..100_000] {
            source.release(range);
            assert!(held[..] == bytes[..] && source.read_at(3, 99_997).unwrap()[..] == bytes[3..]);
        }
    }

    #[test]
    fn odd_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        let empty = MmapSource::open(&path).unwrap();
        assert!(empty.is_empty());
        assert_eq!(&empty.read_at(0, 0).unwrap()[..], b"");
        assert!(empty.read_at(0, 1).is_err());
        let error = MmapSource::open(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "it is a folder, not a file");
        let error = MmapSource::open(&dir.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn reads_are_merged() {
        let source = CountingSource::new(vec![0; 100]);
        for (offset, len) in [(50, 10), (0, 4), (4, 4), (55, 20), (90, 0), (52, 2)] {
            source.read_at(offset, len).unwrap();
        }
        assert!(source.read_at(99, 2).is_err());
        assert_eq!(source.calls(), 6, "failed reads do not count");
        source.read_ranges(&[70..75, 8..8]).unwrap();
        assert_eq!((source.touched(), source.calls()), (vec![0..8, 50..75], 7));
        assert_eq!(source.touched_bytes(), 33);
        source.clear();
        assert_eq!(source.touched(), []);
    }
}
