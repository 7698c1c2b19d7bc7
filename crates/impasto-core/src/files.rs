//! Files that appear whole or not at all, and mapped files whose pages may leave memory.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tempfile::NamedTempFile;

/// A file that is written atomically: to a temporary file in the folder of its destination, which is then renamed. Dropped
/// before [`AtomicFile::commit`], it is removed.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    destination: PathBuf,
}

impl AtomicFile {
    /// Begins a file in a folder that is there.
    ///
    /// # Errors
    /// `AlreadyExists` for a destination that a rename would destroy rather than replace (a device, a pipe, a folder), and
    /// what the operating system refuses.
    pub fn create(destination: &Path) -> io::Result<AtomicFile> {
        if fs::metadata(destination).is_ok_and(|there| !there.is_file()) {
            let rule = "it is there and not a regular file, so it is not replaced";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, rule));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(".impasto-").suffix(".tmp");
        // Temporary files are private by default; this one becomes an ordinary file, less what the umask takes.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder_of(destination))?;
        Ok(AtomicFile { temporary, destination: destination.to_owned() })
    }

    /// Where the file will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Syncs the file and gives it its name, replacing a file that has it.
    ///
    /// # Errors
    /// What the operating system refuses; then no file is left, and one that was there before stays.
    pub fn commit(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.destination).map_err(|refused| refused.error)?;
        // The rename itself is durable once the folder is synced, which not every file system can do.
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

/// The folder a path lies in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Maps a whole file, to be read only.
///
/// # Errors
/// What the operating system refuses.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read, and bytes are all that is made of it, so any content is valid. As with every mapped file,
    // nobody may change or shorten the file while it is mapped; our writers never do, they replace files by renaming.
    unsafe { Mmap::map(file) }
}

/// Says that bytes of a map that [`map`] made will not be read again soon, and may leave memory; they can be read all the
/// same. Any range is taken. Does nothing where the system has no such advice.
pub fn release(map: &Mmap, range: Range<u64>) {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(map.len());
    let (start, end) = (place(range.start), place(range.end));
    #[cfg(unix)]
    {
        // SAFETY: the map is shared, read-only and backed by a file: a page that is dropped is read again at the next access,
        // with the same bytes, as when the system evicts it by itself. References into the map stay valid.
        let advised =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end.saturating_sub(start)) };
        // Only an advice: where it is refused, the pages stay until memory is short.
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
