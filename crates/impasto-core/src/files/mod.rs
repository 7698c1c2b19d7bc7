//! Outputs that appear whole or not at all, and mapped files.

mod atomic;
#[cfg(unix)]
mod fault;
mod folders;
mod map;
mod orphans;
mod owner;
mod temporary;

use std::path::Path;

pub use atomic::{AtomicFile, prepare};
pub use folders::{MadeFolders, TemporaryFolder};
pub use map::Map;
pub use owner::only_we_write;
pub use temporary::{remove_temporary, try_remove_temporary};

/// Returns the folder that contains `path`.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
