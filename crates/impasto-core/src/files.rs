//! Atomically written files, and memory maps whose pages can be released.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tempfile::NamedTempFile;

/// A file that is written atomically: to a temporary file in the folder of its destination, which
/// [`AtomicFile::commit`] renames. Dropping it without a commit removes the temporary file.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    destination: PathBuf,
}

impl AtomicFile {
    /// Creates the temporary file. The folder of `destination` must exist.
    ///
    /// # Errors
    /// `AlreadyExists` if the destination exists and is not a regular file (a device, a pipe, a folder), since a rename
    /// would destroy it; otherwise errors of the operating system.
    pub fn create(destination: &Path) -> io::Result<AtomicFile> {
        if fs::metadata(destination).is_ok_and(|there| !there.is_file()) {
            let rule = "it exists and is not a regular file, so it is not replaced";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, rule));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".impasto-").suffix(".tmp");
        // Temporary files are private by default; this one becomes an ordinary file, so it gets the usual mode 0666,
        // masked by the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder_of(destination))?;
        Ok(AtomicFile { temporary, destination: destination.to_owned() })
    }

    /// Returns the destination path.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Syncs the file and renames it to its destination, replacing an existing file.
    ///
    /// # Errors
    /// Errors of the operating system. On error the temporary file is removed, and an existing destination is
    /// unchanged.
    pub fn commit(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.destination).map_err(|refused| refused.error)?;
        // The rename is durable only after the folder is synced. Not every file system supports that, so errors are
        // ignored.
        #[cfg(unix)]
        drop(File::open(folder_of(&self.destination)).and_then(|folder| folder.sync_all()));
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.temporary.seek(to)
    }
}

/// Returns the folder that contains `path`.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Maps a whole file for reading.
///
/// # Errors
/// Errors of the operating system.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read, and only as bytes, so any content is valid. As with every mapped file, nobody may
    // modify or truncate the file while it is mapped; our own writers never do, because they replace files by renaming.
    unsafe { Mmap::map(file) }
}

/// Advises the system that bytes of a map made by [`map`] will not be read again soon, so their pages can leave memory.
/// They can still be read.
///
/// The range may exceed the map. Does nothing on systems without such advice.
pub fn release(map: &Mmap, range: Range<u64>) {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(map.len());
    let (start, end) = (place(range.start), place(range.end));
    #[cfg(unix)]
    {
        // SAFETY: the map is shared, read-only and backed by a file. A page that is dropped is read again at the next
        // access, with the same bytes, as when the system evicts it on its own. References into the map stay valid.
        let advised =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end.saturating_sub(start)) };
        // This is advice only: if the call fails, the pages stay until memory runs short.
        drop(advised);
    }
    #[cfg(not(unix))]
    let _ = (start, end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let written = |text: &[u8]| {
            let mut file = AtomicFile::create(&path).unwrap();
            file.write_all(text).unwrap();
            file
        };
        drop(written(b"lost"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        written(b"one").commit().unwrap();
        let mut two = written(b"two");
        two.rewind().unwrap();
        two.write_all(b"T").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        two.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"Two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(AtomicFile::create(folder.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
