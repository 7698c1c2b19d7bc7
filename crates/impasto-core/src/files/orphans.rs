//! Temporary files and folders of processes that were killed.
//!
//! A process locks what it makes, and the system releases the lock when the process ends, in whatever way. So what can be
//! locked has no owner. That also holds between machines with a common file system, where process numbers mean nothing.

use std::fs::File;
use std::io;
use std::path::Path;

/// Start of the names of temporary files and folders.
pub(super) const PREFIX: &str = ".impasto-";
/// End of the names of temporary files.
pub(super) const SUFFIX: &str = ".tmp";

/// Makes something and owns it, again if another process took it for an orphan and removed it in between. `own` returns
/// whether it is still there.
pub(super) fn owned<T>(mut make: impl FnMut() -> io::Result<T>, mut own: impl FnMut(&T) -> bool) -> io::Result<T> {
    loop {
        let made = make()?;
        if own(&made) {
            return Ok(made);
        }
    }
}

/// Locks a file or folder for as long as it is open. Returns `false` if it has been removed.
#[cfg(unix)]
pub(super) fn own(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    // Where the file system has no locks, nobody else can lock it either, so nobody takes it for an orphan.
    let locked = file.lock();
    locked.is_err() || file.metadata().is_ok_and(|found| found.nlink() > 0)
}

/// Without the check that a file is still there, a lock is of no use.
#[cfg(not(unix))]
pub(super) fn own(_file: &File) -> bool {
    true
}

/// Removes the orphans in a folder, once per process. What cannot be removed stays.
#[cfg(unix)]
pub(super) fn remove(folder: &Path) {
    use std::collections::BTreeSet;
    use std::fs::{self, OpenOptions};
    use std::path::PathBuf;
    use std::sync::{Mutex, PoisonError};

    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

    let Ok(place) = folder.canonicalize() else { return };
    if !DONE.lock().unwrap_or_else(PoisonError::into_inner).insert(place) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let is_ours = entry.file_name().to_str().is_some_and(|name| is_temporary(name, kind.is_dir()));
        // Links lead elsewhere, and to open a pipe would block.
        if !is_ours || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        let path = entry.path();
        // Some file systems lock only what is open for writing.
        let opened = if kind.is_dir() { File::open(&path) } else { OpenOptions::new().write(true).open(&path) };
        // The lock is held until it is removed, so an owner that was about to lock it notices.
        if let Ok(file) = opened
            && file.try_lock().is_ok()
        {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Nothing is known of owners on this system.
#[cfg(not(unix))]
pub(super) fn remove(_folder: &Path) {}

/// Whether a file or folder of this name is ours: a random word of six letters and digits is in it.
#[cfg(unix)]
fn is_temporary(name: &str, is_folder: bool) -> bool {
    let random = name.strip_prefix(PREFIX);
    let random = random.and_then(|rest| if is_folder { Some(rest) } else { rest.strip_suffix(SUFFIX) });
    random.is_some_and(|word| word.len() == 6 && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::{AtomicFile, TemporaryFolder};

    fn left(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_has_no_owner_goes() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at(".impasto-abc123.tmp"), "left").unwrap();
        fs::create_dir_all(at(".impasto-ABCdef/inside")).unwrap();
        fs::write(at(".impasto-ABCdef/inside/file"), "left").unwrap();
        let kept = [".impasto-abc123", ".impasto-abc1234.tmp", ".impasto-notes.tmp", ".impasto-x", "a.tmp"];
        kept.iter().for_each(|name| fs::write(at(name), "mine").unwrap());
        std::os::unix::fs::symlink(at("a.tmp"), at(".impasto-link00.tmp")).unwrap();
        // One of another process; a second description of an open file is as good.
        fs::write(at(".impasto-living.tmp"), "").unwrap();
        fs::create_dir(at(".impasto-livefo")).unwrap();
        let living = [".impasto-living.tmp", ".impasto-livefo"].map(|name| File::open(at(name)).unwrap());
        living.iter().for_each(|file| file.lock().unwrap());
        let file = AtomicFile::create(&at("new")).unwrap();
        let mut expected = kept.to_vec();
        expected.extend([".impasto-living.tmp", ".impasto-livefo", ".impasto-link00.tmp", "new"]);
        expected.sort_unstable();
        file.commit().unwrap();
        assert_eq!(left(root.path()), expected);
    }

    #[test]
    fn the_living_are_locked() {
        let root = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(&root.path().join("file")).unwrap();
        let folder = TemporaryFolder::create_in(root.path()).unwrap();
        let names = left(root.path());
        assert_eq!(names.len(), 2);
        for name in names {
            assert!(File::open(root.path().join(&name)).unwrap().try_lock().is_err(), "{name}");
        }
        drop((file, folder));
        assert_eq!(left(root.path()), [] as [&str; 0]);
    }

    #[test]
    fn one_that_was_taken_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let mut made = 0;
        let make = || {
            made += 1;
            let path = root.path().join(made.to_string());
            let file = File::create(&path)?;
            // Another process is faster than the lock.
            if made < 3 { fs::remove_file(&path).map(|()| file) } else { Ok(file) }
        };
        owned(make, own).unwrap();
        assert_eq!(left(root.path()), ["3"]);
    }
}
