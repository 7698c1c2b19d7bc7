//! Folders that are made for an output.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folders that were missing on the path of an output. When this is dropped, those that are still empty are removed.
#[derive(Debug)]
pub struct MadeFolders {
    /// The deepest first.
    folders: Vec<PathBuf>,
}

impl MadeFolders {
    /// Makes a folder and those above it, where they are missing.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn make(folder: &Path) -> io::Result<MadeFolders> {
        let is_missing = |folder: &&Path| *folder != Path::new("") && !folder.exists();
        let made = MadeFolders { folders: folder.ancestors().take_while(is_missing).map(Path::to_owned).collect() };
        fs::create_dir_all(folder)?;
        Ok(made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in &self.folders {
            // This fails if something is in the folder, which then stays.
            let _ = fs::remove_dir(folder);
        }
    }
}
