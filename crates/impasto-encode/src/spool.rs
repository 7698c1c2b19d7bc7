//! Temporary storage: an unlinked file.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use impasto_checkpoint::CheckpointError;
use impasto_core::files::{MadeFolders, folder_of};

/// Bytes that are read or written at once.
const BUFFER: usize = 1 << 18;

/// Pieces of bytes in a temporary file, which is deleted on drop and when the process dies.
pub struct Spool {
    file: BufWriter<File>,
    beside: PathBuf,
    end: u64,
    _folders: MadeFolders,
}

/// The place of bytes in a [`Spool`] that were pushed together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    first: u64,
    /// Number of bytes.
    pub length: usize,
}

impl Spool {
    /// Creates a temporary file in the folder of `path`, and the folder if it is missing.
    pub fn beside(path: &Path) -> Result<Spool, CheckpointError> {
        let folder = folder_of(path);
        let io = |error| CheckpointError::io(folder, error);
        let folders = MadeFolders::make(folder).map_err(io)?;
        let file = BufWriter::with_capacity(BUFFER, tempfile::tempfile_in(folder).map_err(io)?);
        Ok(Spool { file, beside: folder.to_owned(), end: 0, _folders: folders })
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Span, CheckpointError> {
        self.file.write_all(bytes).map_err(|error| CheckpointError::io(&self.beside, error))?;
        let first = self.end;
        self.end += bytes.len() as u64;
        Ok(Span { first, length: bytes.len() })
    }

    /// Replaces `out` by the bytes of a span.
    pub fn read(&mut self, span: Span, out: &mut Vec<u8>) -> Result<(), CheckpointError> {
        out.resize(span.length, 0);
        self.read_at(span.first, out)
    }

    /// Returns the offset of the next bytes to be pushed.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Fills `out` with the bytes from offset `first` on, which must have been pushed.
    pub fn read_at(&mut self, first: u64, out: &mut [u8]) -> Result<(), CheckpointError> {
        let mut read = || -> io::Result<()> {
            self.file.flush()?;
            let file = self.file.get_mut();
            file.seek(SeekFrom::Start(first))?;
            file.read_exact(out)?;
            file.seek(SeekFrom::End(0)).map(drop)
        };
        read().map_err(|error| CheckpointError::io(&self.beside, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::beside(&folder.path().join("x")).expect("a file");
        let bytes: Vec<u8> = (0..600_000).map(|i| (i * 7 % 251) as u8).collect();
        let spans = [&bytes[..9], &bytes[9..500_000], &[]].map(|bytes| spool.push(bytes).expect("room"));
        let mut out = vec![1; 3];
        spool.read(spans[1], &mut out).expect("a span");
        assert_eq!(out, bytes[9..500_000]);
        spool.read(spans[2], &mut out).expect("a span");
        assert!(out.is_empty());
        let last = spool.push(&bytes[500_000..]).expect("room");
        spool.read(last, &mut out).expect("a span");
        assert_eq!(out, bytes[500_000..]);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "it has no name");
    }
}
