//! The list of what must not outlast the process: drops remove it, [`remove_temporary`] if the process is told to end, and
//! [`super::orphans`] in a later process if it had no chance to.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::{fs, mem};

/// What is at the path of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file.
    File,
    /// A folder, which goes with its contents.
    Folder,
    /// A folder, which goes if it is empty.
    EmptyFolder,
}

/// The entries, in the order in which they were made.
static LIST: Mutex<Vec<(Kind, PathBuf)>> = Mutex::new(Vec::new());

/// An entry of the list, which is taken off when this is dropped.
#[derive(Debug)]
pub(super) struct Listed(Kind, PathBuf);

/// Locks the list: as long as it is held, [`remove_temporary`] waits.
pub(super) fn lock() -> MutexGuard<'static, Vec<(Kind, PathBuf)>> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes something and puts its path on the list.
pub(super) fn make<T>(
    kind: Kind,
    make: impl FnOnce() -> io::Result<T>,
    path: impl FnOnce(&T) -> PathBuf,
) -> io::Result<(T, Listed)> {
    let mut list = lock();
    let made = make()?;
    let path = path(&made);
    list.push((kind, path.clone()));
    Ok((made, Listed(kind, path)))
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut list = lock();
        if let Some(place) = list.iter().rposition(|(kind, path)| *kind == self.0 && *path == self.1) {
            list.remove(place);
        }
    }
}

/// Removes all temporary files and folders of this process, and the folders that were made for them. The process must
/// then end: a thread that makes or renames one from now on waits forever.
///
/// For the handler of a signal that ends the process. It must run in a thread of its own, since this function locks.
pub fn remove_temporary() {
    remove_all(lock());
}

/// As [`remove_temporary`], in a thread that may be at one of these files itself: does nothing then.
pub fn try_remove_temporary() {
    match LIST.try_lock() {
        Ok(list) => remove_all(list),
        Err(TryLockError::Poisoned(list)) => remove_all(list.into_inner()),
        Err(TryLockError::WouldBlock) => {}
    }
}

fn remove_all(mut list: MutexGuard<'static, Vec<(Kind, PathBuf)>>) {
    for (kind, path) in list.drain(..).rev() {
        // What cannot be removed stays; there is nobody to tell.
        let _ = match kind {
            Kind::File => fs::remove_file(path),
            Kind::Folder => fs::remove_dir_all(path),
            Kind::EmptyFolder => fs::remove_dir(path),
        };
    }
    mem::forget(list);
}
