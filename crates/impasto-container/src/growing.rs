//! A file that grows at its end while it is read.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::source::Source;

/// A file that another program, or another thread, is writing from its beginning to its end. Bytes are copied when they are read, so
/// that hashes are checked at every read.
#[derive(Debug)]
pub struct GrowingSource {
    file: File,
    limit: AtomicU64,
}

impl GrowingSource {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// If it cannot be opened, or is not a regular file.
    pub fn open(path: &Path) -> io::Result<GrowingSource> {
        // Checked before the file is opened, because opening a pipe blocks until it has a writer.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(GrowingSource { file: File::open(path)?, limit: u64::MAX.into() })
    }

    /// Limits what is read to the first `bytes` bytes, until the next call.
    pub fn limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Release);
    }
}

impl Source for GrowingSource {
    /// What is there now, within the limit; 0 if the system does not tell.
    fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len()).min(self.limit.load(Ordering::Acquire))
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.len());
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut bytes = vec![0; len];
        read_exact_at(&self.file, &mut bytes, offset)?;
        Ok(Cow::Owned(bytes))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[count..];
        offset += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_there_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut writer = File::create(&path).unwrap();
        let source = GrowingSource::open(&path).unwrap();
        assert_eq!((source.len(), source.read_at(0, 0).unwrap().len()), (0, 0));
        assert_eq!(source.read_at(0, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        writer.write_all(b"hello").unwrap();
        assert_eq!((source.len(), source.has(&(0..6)), source.has(&(2..5))), (5, false, true));
        assert_eq!(source.read_at(1, 4).unwrap(), &b"ello"[..]);
        source.limit(3);
        assert_eq!((source.len(), source.has(&(2..5))), (3, false));
        assert!(source.read_at(2, 2).is_err() && source.read_at(u64::MAX, 2).is_err());
        source.limit(8);
        writer.write_all(b" you all").unwrap();
        assert_eq!(source.read_at(0, 8).unwrap(), &b"hello yo"[..]);
        assert!(GrowingSource::open(folder.path()).is_err());
    }
}
