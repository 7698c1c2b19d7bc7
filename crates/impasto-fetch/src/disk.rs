//! Files of this machine, at addresses that begin with `file:`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::answer::Version;
use crate::error::FetchError;
use crate::remote::{Answer, Body, Remote, Wanted};

/// A file of this machine.
pub struct Disk {
    path: PathBuf,
    requests: AtomicU64,
    is_stopped: AtomicBool,
}

impl Disk {
    /// Takes the path of a file.
    pub fn new(path: &Path) -> Disk {
        Disk { path: path.to_owned(), requests: AtomicU64::new(0), is_stopped: AtomicBool::new(false) }
    }

    fn io(&self, error: io::Error) -> FetchError {
        FetchError::Io { file: self.path.display().to_string(), error }
    }
}

impl Remote for Disk {
    fn shown(&self) -> String {
        format!("file:{}", self.path.display())
    }

    fn open(&self, wanted: &Wanted<'_>) -> Result<Answer, FetchError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.is_stopped.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled);
        }
        // Checked before it is opened, because opening a pipe blocks until it has a writer.
        if !std::fs::metadata(&self.path).map_err(|error| self.io(error))?.is_file() {
            return Err(self.io(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let mut file = File::open(&self.path).map_err(|error| self.io(error))?;
        let found = file.metadata().map_err(|error| self.io(error))?;
        let version = Version::of_file(found.len(), found.modified().ok());
        if wanted.version.is_some_and(|wanted| wanted.differs_from(&version)) {
            return Err(FetchError::Changed { url: self.shown(), what: "it has another time or length".to_owned() });
        }
        let range = wanted.range.clone().unwrap_or(0..u64::MAX);
        if wanted.range.is_some() && range.start >= found.len() {
            return Err(FetchError::Short { url: self.shown(), has: found.len(), wants: range.end });
        }
        file.seek(SeekFrom::Start(range.start)).map_err(|error| self.io(error))?;
        let body = Part { bytes: file.take(range.end.saturating_sub(range.start)), path: self.path.clone() };
        let (is_range, total) = (wanted.range.is_some(), Some(found.len()));
        Ok(Answer { is_range, total, version, has_length: true, body: Box::new(body) })
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

struct Part {
    bytes: io::Take<File>,
    path: PathBuf,
}

impl Body for Part {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, FetchError> {
        self.bytes.read(into).map_err(|error| FetchError::Io { file: self.path.display().to_string(), error })
    }
}
