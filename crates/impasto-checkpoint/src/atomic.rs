//! Files that appear whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{CheckpointError, one_line};

/// Joins a file name that comes from input to a folder, if it cannot leave it.
///
/// The name has parts divided by `/`. Refused are absolute paths, empty parts, `.` and `..`, and
/// backslashes, colons and NUL, which mean something on some systems.
///
/// # Errors
/// [`CheckpointError::UnsafePath`].
pub fn join_inside(folder: &Path, name: &str) -> Result<PathBuf, CheckpointError> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    if name.split('/').all(plain) {
        Ok(folder.join(name))
    } else {
        Err(CheckpointError::UnsafePath { name: one_line(name) })
    }
}

/// Writes a file `name` inside `folder`: to a temporary file beside it, synced, then renamed. Missing
/// folders on the way are created; a file of that name is replaced.
///
/// # Errors
/// A name that [`join_inside`] refuses, and what the operating system refuses; then no file is left.
pub fn atomic_write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
    let path = join_inside(folder, name)?;
    let mut file = AtomicFile::create(&path)?;
    file.write_all(bytes).map_err(|error| CheckpointError::io(&path, error))?;
    file.commit()
}

/// A file being written under a temporary name in the folder of its destination. Dropped before
/// [`AtomicFile::commit`], it is removed.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    temporary: NamedTempFile,
    destination: PathBuf,
}

impl AtomicFile {
    /// Begins a file; missing folders on the way are created.
    pub fn create(destination: &Path) -> Result<AtomicFile, CheckpointError> {
        let folder = folder_of(destination);
        let io = |error| CheckpointError::io(destination, error);
        // A rename would destroy a device or a pipe rather than replace it.
        if fs::metadata(destination).is_ok_and(|there| !there.is_file()) {
            let rule = "it is there and not a regular file, so it is not replaced";
            return Err(io(io::Error::new(io::ErrorKind::AlreadyExists, rule)));
        }
        fs::create_dir_all(folder).map_err(io)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".impasto-").suffix(".tmp");
        // Temporary files are private by default; this one becomes an ordinary file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder.tempfile_in(folder).map_err(io)?;
        Ok(AtomicFile { temporary, destination: destination.to_owned() })
    }

    /// Where the file will be.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Syncs the file and gives it its name, replacing a file that has it.
    pub fn commit(self) -> Result<(), CheckpointError> {
        let destination = self.destination;
        let io = |error| CheckpointError::io(&destination, error);
        self.temporary.as_file().sync_all().map_err(io)?;
        self.temporary.persist(&destination).map_err(|refused| io(refused.error))?;
        // The rename itself is durable once the folder is synced; not every system can do that.
        #[cfg(unix)]
        drop(fs::File::open(folder_of(&destination)).and_then(|folder| folder.sync_all()));
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

/// The folder a path lies in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_device_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let error = atomic_write(folder.path(), "null", b"x").unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        let folder = Path::new("out");
        let bad = [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "./x",
            "a//b",
            "a/",
            "a\\b",
            "..\\x",
            "C:x",
            "C:/x",
            "\\\\host\\x",
            "a\0b",
        ];
        for name in bad {
            let error = join_inside(folder, name).expect_err(name).to_string();
            assert!(error.ends_with("not a plain relative path inside the folder"), "{error}");
        }
        for name in ["config.json", "1_Pooling/config.json", "..a", "a..b/c"] {
            assert_eq!(join_inside(folder, name).unwrap(), folder.join(name));
        }
    }

    #[test]
    fn a_file_appears_whole_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        for content in [&b"one"[..], b"two"] {
            atomic_write(dir.path(), "1_Pooling/config.json", content).unwrap();
            assert_eq!(fs::read(dir.path().join("1_Pooling/config.json")).unwrap(), content);
        }
        assert_eq!(fs::read_dir(dir.path().join("1_Pooling")).unwrap().count(), 1);
    }

    #[test]
    fn a_refused_rename_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        let error = atomic_write(dir.path(), "taken", b"x").unwrap_err().to_string();
        assert!(error.contains("taken: "), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_file_has_ordinary_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("plain"), b"").unwrap();
        atomic_write(dir.path(), "ours", b"").unwrap();
        let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("ours"), mode("plain"));
    }
}
