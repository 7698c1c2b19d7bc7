//! A file that grows at its end while it is read.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use impasto_container::Source;

/// The verified prefix of a file that is being fetched, as a source of bytes. Bytes past it are not there yet; a
/// [`Reader`](impasto_container::Reader) that is asked to `refresh` sees the units that have arrived.
#[derive(Debug)]
pub struct Growing {
    file: File,
    length: AtomicU64,
}

impl Growing {
    /// Opens the file at `path`, of which nothing is verified yet.
    pub(crate) fn open(path: &Path) -> io::Result<Growing> {
        Ok(Growing { file: File::open(path)?, length: AtomicU64::new(0) })
    }

    /// Sets the length of the prefix. Its bytes must have been written.
    pub(crate) fn set_length(&self, length: u64) {
        self.length.store(length, Ordering::Release);
    }
}

impl Source for Growing {
    fn len(&self) -> u64 {
        self.length.load(Ordering::Acquire)
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
