//! Packed matrices that are kept in files, so that the next load maps them instead of decoding and packing again.
//!
//! ```text
//! load --> content of the source --> its file in the folder --checked, mapped--> matrices
//!                                          | none, or not to be believed
//!                                          +--> decode and pack --> matrices --written meanwhile--> file
//! ```
//!
//! There is one file per content: a model, or the part of it that a cut leaves. `file` describes its layout, `folder`
//! whom its bytes are believed from, and what goes when there are too many.

mod error;
mod file;
mod folder;
mod matrix;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_core::files::Map;
use impasto_kernels::Pool;

pub use error::PackError;
pub(crate) use writing::Writing;

use crate::load::{LoadWarning, Wanted};
use crate::matrix::Matrix;
use crate::weights::Weights;

/// Where packed weights are kept.
#[derive(Clone, Debug)]
pub struct Packs {
    /// The folder, which is made if it is missing. It must belong to this user or to root, and nobody else may write to it.
    pub folder: PathBuf,
    /// The most bytes that its files may take. Those that were not used for the longest time go first.
    pub limit: u64,
    /// Is told, in one line, why a file is not used or could not be written. Neither is an error. Called while a model loads
    /// and from the thread that writes.
    pub report: fn(&str),
}

/// A file of packed weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its path.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The number of matrices.
    pub matrices: usize,
}

/// What a load finds in a file.
pub(crate) struct Found {
    /// In the order in which they are wanted.
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) warnings: Vec<LoadWarning>,
    pub(crate) map: Arc<Map>,
}

/// Two are equal if they have the same folder and limit.
impl PartialEq for Packs {
    fn eq(&self, other: &Self) -> bool {
        (&self.folder, self.limit) == (&other.folder, other.limit)
    }
}

impl Packs {
    /// Keeps packed weights in `folder`, without a limit, and reports nothing.
    pub fn new(folder: impl Into<PathBuf>) -> Packs {
        Packs { folder: folder.into(), limit: u64::MAX, report: |_| {} }
    }

    /// Returns the matrices of a content, if there is a file that has them.
    pub(crate) fn find(&self, content: &[u8; 32], wanted: &[Wanted<'_>], pool: &Pool) -> Option<Found> {
        let path = self.path_of(content);
        let found = folder::open(&self.folder, &path)
            .and_then(|file| file.map(|file| file::read(&file, &path, content, wanted, pool)).transpose());
        match found {
            Ok(found) => found,
            Err(error) => {
                (self.report)(&format!("{error}; it is not used"));
                None
            }
        }
    }

    /// Writes the matrices of a content, and removes other files above the limit.
    pub(crate) fn write(
        &self,
        content: &[u8; 32],
        weights: &Weights,
        warnings: &[LoadWarning],
    ) -> Result<Pack, PackError> {
        // The rest of a file is small beside its matrices.
        let bytes = weights.memory_bytes() as u64;
        if bytes > self.limit {
            return Err(PackError::Limit { bytes, limit: self.limit });
        }
        let path = self.path_of(content);
        folder::make(&self.folder)?;
        let pack = file::write(&path, content, weights, warnings)?;
        folder::evict(&self.folder, &path, self.limit);
        Ok(pack)
    }

    fn path_of(&self, content: &[u8; 32]) -> PathBuf {
        let name: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(Path::new(&name).with_extension(folder::EXTENSION))
    }
}
