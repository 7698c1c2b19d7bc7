//! Why packed weights are not kept, or not believed.

use std::io;
use std::path::{Path, PathBuf};

/// Error: a file of packed weights cannot be used or written. A model then loads from its own file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The operating system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than this user and root can write to it.
    #[error("{}: packed weights must belong to this user or root, and nobody else may write to them", .0.display())]
    NotOurs(PathBuf),
    /// It was written by another version.
    #[error("{}: the packed weights are those of another version", .0.display())]
    Version(PathBuf),
    /// It is what another source became.
    #[error("{}: the packed weights are those of another model, or of another part of it", .0.display())]
    OtherContent(PathBuf),
    /// Its bytes are not those that were written.
    #[error("{}: the packed weights are damaged: {rule}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is not as it should be.
        rule: &'static str,
    },
    /// The file would be larger than all files may be.
    #[error("the packed weights take {bytes} bytes, more than the limit of {limit}")]
    Limit {
        /// Bytes of the file.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The source does not say what it is, or the weights are not packed.
    #[error(
        "packed weights are kept for .impasto files that are no deltas, with residence packed, as long as none are exchanged"
    )]
    NoContent,
}

impl PackError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> PackError {
        let path = path.to_owned();
        move |source| PackError::Io { path, source }
    }
}
