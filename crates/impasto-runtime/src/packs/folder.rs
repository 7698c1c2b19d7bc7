//! The folder: whom files are believed from, and which go when there are too many.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use impasto_core::files::only_we_write;

use super::PackError;

/// The end of the names of files, after a dot.
pub(super) const EXTENSION: &str = "pack";

/// The files that this process uses. What is mapped stays readable when it is removed, but would have to be written again.
static USED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Opens a file; `None` if it does not exist. It counts as used from now on.
///
/// # Errors
/// [`PackError::NotOurs`] if others can write to it or to the folder: what they write could have all the right hashes.
pub(super) fn open(folder: &Path, path: &Path) -> Result<Option<File>, PackError> {
    match fs::metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => check(folder, &found.map_err(PackError::io(folder))?)?,
    }
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(PackError::io(path))?,
    };
    check(path, &file.metadata().map_err(PackError::io(path))?)?;
    use_now(path);
    // Where the time cannot be set, as in a folder that is only read, files go by the time when they were written.
    drop(file.set_modified(SystemTime::now()));
    Ok(Some(file))
}

/// Makes the folder if it is missing.
pub(super) fn make(folder: &Path) -> Result<(), PackError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    builder.create(folder).map_err(PackError::io(folder))?;
    check(folder, &fs::metadata(folder).map_err(PackError::io(folder))?)
}

/// Removes the files that were not used for the longest time, until all take at most `limit` bytes or only those are left that
/// this process uses, `path` among them. What cannot be removed stays.
pub(super) fn evict(folder: &Path, path: &Path, limit: u64) {
    use_now(path);
    let used = USED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut total = 0u64;
    let mut others = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_pack = path.extension().is_some_and(|extension| extension == EXTENSION);
        let Some(found) = entry.metadata().ok().filter(|found| is_pack && found.is_file()) else { continue };
        total = total.saturating_add(found.len());
        if !used.contains(&path) {
            others.push((found.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, found.len()));
        }
    }
    others.sort();
    for (_, path, bytes) in others {
        if total <= limit {
            return;
        }
        // Another process may remove it at the same time.
        drop(fs::remove_file(path));
        total -= bytes;
    }
}

fn use_now(path: &Path) {
    USED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
}

fn check(path: &Path, found: &fs::Metadata) -> Result<(), PackError> {
    if only_we_write(found) { Ok(()) } else { Err(PackError::NotOurs(path.to_owned())) }
}
