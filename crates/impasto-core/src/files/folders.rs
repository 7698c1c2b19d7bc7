//! Folders that are made for an output, or for the time that it takes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::atomic::without_path;
use super::temporary::{self as list, Kind, Listed};
use super::{folder_of, orphans};

/// The folders that were missing on the path of an output. When this is dropped, those that are still empty are removed.
#[derive(Debug)]
pub struct MadeFolders {
    /// The deepest first.
    folders: Vec<(PathBuf, Listed)>,
}

impl MadeFolders {
    /// Makes a folder and those above it, where they are missing.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn make(folder: &Path) -> io::Result<MadeFolders> {
        let is_missing = |folder: &&Path| *folder != Path::new("") && !folder.exists();
        let missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
        let mut made = MadeFolders { folders: vec![] };
        for &folder in missing.iter().rev() {
            let make = || fs::create_dir_all(folder);
            let ((), listed) = list::make(Kind::EmptyFolder, make, |()| folder.to_owned())?;
            made.folders.insert(0, (folder.to_owned(), listed));
        }
        Ok(made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for (folder, _) in &self.folders {
            // This fails if something is in the folder, which then stays.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A folder for temporary data, which is removed with everything in it when this is dropped. If the process is killed, the
/// next one that makes a temporary file or folder in the same place removes it (on Unix).
#[derive(Debug)]
pub struct TemporaryFolder {
    folder: TempDir,
    _listed: Listed,
    /// Held open, and thereby locked.
    _owned: Option<File>,
    /// Dropped last, since they must be empty by then to be removed.
    _folders: MadeFolders,
}

impl TemporaryFolder {
    /// Makes a temporary folder in `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create_in(folder: &Path) -> io::Result<TemporaryFolder> {
        let folders = MadeFolders::make(folder)?;
        orphans::remove(folder);
        let mut owned = None;
        let make = || {
            orphans::owned(
                || tempfile::Builder::new().prefix(orphans::PREFIX).tempdir_in(folder).map_err(without_path),
                |folder| {
                    // Not every system opens folders.
                    owned = File::open(folder.path()).ok();
                    owned.as_ref().is_none_or(orphans::own)
                },
            )
        };
        let (folder, listed) = list::make(Kind::Folder, make, |folder| folder.path().to_owned())?;
        Ok(TemporaryFolder { folder, _listed: listed, _owned: owned, _folders: folders })
    }

    /// Makes a temporary folder in the folder of `path`.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn beside(path: &Path) -> io::Result<TemporaryFolder> {
        TemporaryFolder::create_in(folder_of(path))
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_with_its_contents() {
        let root = tempfile::tempdir().unwrap();
        let folder = TemporaryFolder::beside(&root.path().join("new/output")).unwrap();
        fs::create_dir(folder.path().join("inside")).unwrap();
        fs::write(folder.path().join("inside/file"), "x").unwrap();
        assert!(folder.path().starts_with(root.path().join("new")));
        drop(folder);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
