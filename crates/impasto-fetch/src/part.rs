//! The file that is written: at every moment a prefix of verified units.

#[cfg(unix)]
use std::fs::TryLockError;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_container::{ContainerError, GrowingSource, Limits, Reader, UnitHealth};
use impasto_core::files::AtomicFile;

use crate::error::FetchError;
use crate::head::Head;
use crate::wait::Cancel;

/// A file that is being fetched. It stays locked until this is dropped.
pub struct Part {
    path: PathBuf,
    file: Locked,
    growing: Arc<GrowingSource>,
    root: [u8; 32],
    /// Units that are there and verified.
    units: u32,
    /// The end of the last of them.
    length: u64,
}

/// What is at the path of a file that is to be fetched.
pub enum Found {
    /// Nothing.
    Nothing,
    /// The beginning of an .impasto file.
    Part(Part),
    /// The part of a file that has changed on its server since.
    Changed {
        /// The part.
        part: Part,
        /// Whether another file may take its place.
        is_free: bool,
        /// How the change was noticed.
        what: String,
    },
    /// Another file, which is locked, and what is wrong with it.
    Other(Locked, String),
}

impl Part {
    /// Opens and locks what is at `path`, and verifies its units. What follows the last good one is cut off when more is appended.
    ///
    /// # Errors
    /// [`FetchError::Busy`] if another process has locked it; errors of the operating system.
    pub fn find(path: &Path, limits: &Limits, cancel: &Cancel) -> Result<Found, FetchError> {
        let io = |error| FetchError::Io { file: path.display().to_string(), error };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(io(error)),
            Ok(found) if !found.is_file() => {
                let rule =
                    if found.is_dir() { "it is a folder; give the path of a file" } else { "not a regular file" };
                return Err(io(io::Error::new(io::ErrorKind::InvalidInput, rule)));
            }
            Ok(_) => {}
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        let file = Locked::new(file, path)?;
        let growing = Arc::new(GrowingSource::open(path).map_err(io)?);
        growing.limit(file.0.metadata().map_err(io)?.len());
        let opened = Reader::open(growing.clone(), path.display().to_string(), limits);
        let reader = match opened {
            Ok(reader) => reader,
            Err(ContainerError::Format { rule, .. }) => return Ok(Found::Other(file, rule.to_string())),
            Err(error) => return Err(error.into()),
        };
        let mut units = 0;
        for unit in 0..reader.units().len() as u32 {
            cancel.check()?;
            match reader.verify_unit(unit)? {
                UnitHealth::Good => units = unit + 1,
                UnitHealth::Absent | UnitHealth::Damaged => break,
            }
        }
        let (root, length) = (*reader.root(), reader.prefix_length(units));
        growing.limit(length);
        Ok(Found::Part(Part { path: path.to_owned(), file, growing, root, units, length }))
    }

    /// Creates the file, with header and manifest only. A file that is there is replaced only if the caller has locked it.
    ///
    /// # Errors
    /// [`FetchError::Busy`] if another process creates it at the same time; errors of the operating system.
    pub fn create(path: &Path, head: &Head, over: Option<&Locked>) -> Result<Part, FetchError> {
        let io = |error| FetchError::Io { file: path.display().to_string(), error };
        let length = head.bytes.len() as u64;
        let mut file = AtomicFile::create(path).map_err(io)?;
        file.write_all(&head.bytes).map_err(io)?;
        let file = file.commit_open(over.is_some()).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => FetchError::Busy { file: path.display().to_string() },
            _ => io(error),
        })?;
        let file = Locked::new(file, path)?;
        let growing = Arc::new(GrowingSource::open(path).map_err(io)?);
        growing.limit(length);
        Ok(Part { path: path.to_owned(), file, growing, root: *head.reader.root(), units: 0, length })
    }

    /// Returns the root of the file.
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// Returns the number of units that are there.
    pub fn units(&self) -> u32 {
        self.units
    }

    /// Returns the end of the last of them.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the file as a source of bytes.
    pub fn growing(&self) -> &Arc<GrowingSource> {
        &self.growing
    }

    /// Cuts off what follows the last good unit.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn cut(&mut self) -> Result<(), FetchError> {
        let length = self.length;
        self.write(|file| file.set_len(length))
    }

    /// Appends the next unit, which begins at `start`. It must be verified.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn append(&mut self, start: u64, unit: &[u8]) -> Result<(), FetchError> {
        let (from, gap) = (self.length, start.saturating_sub(self.length));
        self.write(|file| {
            file.seek(SeekFrom::Start(from))?;
            file.write_all(&vec![0; gap as usize])?;
            file.write_all(unit)
        })?;
        self.units += 1;
        self.length = start + unit.len() as u64;
        self.growing.limit(self.length);
        Ok(())
    }

    /// Writes everything through to the disk.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn sync(&mut self) -> Result<(), FetchError> {
        self.write(|file| file.sync_all())
    }

    /// Gives the open file away, so that another one can take its place.
    pub fn into_file(self) -> Locked {
        self.file
    }

    fn write(&mut self, work: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), FetchError> {
        work(&mut self.file.0).map_err(|error| FetchError::Io { file: self.path.display().to_string(), error })
    }
}

/// A file that no other process fetches at the same time.
pub struct Locked(File);

impl Locked {
    /// Locks an open file, which must still be the one at `path` afterwards.
    fn new(file: File, path: &Path) -> Result<Locked, FetchError> {
        // Elsewhere, a lock would also keep others from reading.
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let busy = || FetchError::Busy { file: path.display().to_string() };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(busy()),
                // Where the file system has no locks, nobody else has one either.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            let id = |found: io::Result<std::fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
            if id(file.metadata()) != id(std::fs::metadata(path)) {
                return Err(busy());
            }
        }
        #[cfg(not(unix))]
        let _ = path;
        Ok(Locked(file))
    }

    /// Returns whether the file is the beginning of `bytes`, so that nothing is lost with it.
    pub fn is_beginning_of(&self, bytes: &[u8]) -> bool {
        let Ok(length) = self.0.metadata().map(|found| found.len()) else { return false };
        let Some(bytes) = usize::try_from(length).ok().and_then(|length| bytes.get(..length)) else { return false };
        let mut there = vec![0; bytes.len()];
        let mut file = &self.0;
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut there)).is_ok() && there == bytes
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // To close the file would not be enough: a process that is being started has a copy of it for a moment.
        let _ = self.0.unlock();
    }
}
