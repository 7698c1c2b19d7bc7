//! Files that are written atomically.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::temporary::{self as list, Kind, Listed};
use super::{MadeFolders, folder_of, orphans};

/// A file that is written atomically: to a temporary file in the folder of its destination, which
/// [`AtomicFile::commit`] renames. Dropping it without a commit removes the temporary file. If the process is killed, the
/// next one that makes a temporary file or folder in this folder removes it (on Unix).
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    _listed: Listed,
    destination: PathBuf,
    /// Dropped last, since they must be empty by then to be removed.
    _folders: MadeFolders,
}

/// Prepares the place of an output file, as [`AtomicFile::create`] does: checks that a file can have this path, and makes
/// the missing folders.
///
/// # Errors
/// `IsADirectory` if the destination is a folder; `AlreadyExists` if it is something else that a rename would destroy (a
/// device, a pipe); otherwise errors of the operating system.
pub fn prepare(destination: &Path) -> io::Result<MadeFolders> {
    let ends_as_folder = destination.as_os_str().as_encoded_bytes().ends_with(b"/");
    if ends_as_folder || destination.is_dir() {
        let rule = "it is a folder; give the path of a file";
        return Err(io::Error::new(io::ErrorKind::IsADirectory, rule));
    }
    if fs::metadata(destination).is_ok_and(|there| !there.is_file()) {
        let rule = "it exists and is not a regular file, so it is not replaced";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, rule));
    }
    MadeFolders::make(folder_of(destination))
}

impl AtomicFile {
    /// Creates the temporary file, and the folders of `destination` that are missing.
    ///
    /// # Errors
    /// Those of [`prepare`].
    pub fn create(destination: &Path) -> io::Result<AtomicFile> {
        // Temporary files are private by default; this one becomes an ordinary file, so it gets the usual mode.
        AtomicFile::create_with_mode(destination, 0o666)
    }

    /// Like [`AtomicFile::create`], with these permissions, masked by the umask, where the system has such.
    ///
    /// # Errors
    /// Those of [`prepare`].
    pub fn create_with_mode(destination: &Path, mode: u32) -> io::Result<AtomicFile> {
        let folders = prepare(destination)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(orphans::PREFIX).suffix(orphans::SUFFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
        #[cfg(not(unix))]
        let _ = mode;
        let folder = folder_of(destination);
        orphans::remove(folder);
        let make = || {
            orphans::owned(|| builder.tempfile_in(folder).map_err(without_path), |file| orphans::own(file.as_file()))
        };
        let (temporary, listed) = list::make(Kind::File, make, |file| file.path().to_owned())?;
        Ok(AtomicFile { temporary, _listed: listed, destination: destination.to_owned(), _folders: folders })
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
        self.commit_open(true).map(drop)
    }

    /// Commits like [`AtomicFile::commit`], and returns the file, still open and locked (where the system has locks). Without
    /// `may_replace`, a file that is at the destination stays there.
    ///
    /// # Errors
    /// `AlreadyExists` if there is a file that must not be replaced; otherwise as for [`AtomicFile::commit`].
    pub fn commit_open(self, may_replace: bool) -> io::Result<File> {
        self.temporary.as_file().sync_all()?;
        let held = list::lock();
        let renamed = match may_replace {
            true => self.temporary.persist(&self.destination),
            false => self.temporary.persist_noclobber(&self.destination),
        };
        drop(held);
        let file = renamed.map_err(|refused| refused.error)?;
        // The rename is durable only after the folder is synced. Not every file system supports that, so errors are
        // ignored.
        #[cfg(unix)]
        drop(File::open(folder_of(&self.destination)).and_then(|folder| folder.sync_all()));
        Ok(file)
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

/// Returns the error of the operating system without the random name of the temporary file, which explains nothing.
pub(super) fn without_path(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((cause, _)) => io::Error::new(error.kind(), cause),
        None => error,
    }
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
    }

    #[test]
    fn a_file_can_stay_open_and_another_can_stay_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let written = |text: &[u8]| {
            let mut file = AtomicFile::create(&path).unwrap();
            file.write_all(text).unwrap();
            file
        };
        let mut one = written(b"one").commit_open(false).unwrap();
        one.write_all(b" and more").unwrap();
        assert_eq!(written(b"two").commit_open(false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one and more");
        #[cfg(unix)]
        assert!(File::open(&path).unwrap().try_lock().is_err(), "it is still locked");
        written(b"three").commit_open(true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_folders_are_made_and_stay_only_with_the_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/file");
        let begun = AtomicFile::create(&path).unwrap();
        assert!(root.path().join("a/b").is_dir());
        drop(begun);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        AtomicFile::create(&path).unwrap().commit().unwrap();
        assert!(path.is_file());
    }

    #[test]
    fn a_folder_is_no_destination() {
        let root = tempfile::tempdir().unwrap();
        for path in [root.path().to_owned(), root.path().join("new/")] {
            let error = AtomicFile::create(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
            assert_eq!(error.to_string(), "it is a folder; give the path of a file");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn errors_do_not_name_the_temporary_file() {
        let error = tempfile::Builder::new().tempfile_in("/nonexistent/folder").unwrap_err();
        let error = without_path(error);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!error.to_string().contains("nonexistent"), "{error}");
        assert_eq!(without_path(io::Error::other("x")).to_string(), "x");
    }
}
