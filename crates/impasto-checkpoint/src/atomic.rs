//! Files that appear either completely or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use impasto_core::files::AtomicFile;

use crate::error::{CheckpointError, one_line};

/// Joins a file name from untrusted input to a folder, if the result is inside the folder.
///
/// The name has parts separated by `/`. Absolute paths, empty parts, `.` and `..` are refused, as are backslashes,
/// colons and NUL, which have a meaning on some systems.
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

/// Writes a file `name` inside `folder` atomically: a temporary file in the folder is written, synced and renamed.
/// Missing folders are created, and an existing file is replaced.
///
/// # Errors
/// If [`join_inside`] refuses the name, or on an I/O error. No partial file is left.
pub fn atomic_write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
    let path = join_inside(folder, name)?;
    let mut file = begin(&path)?;
    file.write_all(bytes).and_then(|()| file.commit()).map_err(|error| CheckpointError::io(&path, error))
}

/// Starts an atomic file; missing folders are created.
pub(crate) fn begin(destination: &Path) -> Result<AtomicFile, CheckpointError> {
    AtomicFile::create(destination).map_err(|error| CheckpointError::io(destination, error))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
