//! Rayon's global pool, which decodes where the caller has no pool of its own.

use std::error::Error;
use std::sync::OnceLock;

use crate::error::FileError;

/// Starts the global pool, unless it runs or the caller has a pool. Rayon would panic where it is first used.
///
/// # Errors
/// [`FileError::Threads`] if threads cannot be started.
pub fn start() -> Result<(), FileError> {
    static STARTED: OnceLock<Option<String>> = OnceLock::new();
    if rayon::current_thread_index().is_some() {
        return Ok(());
    }
    let failed = STARTED.get_or_init(|| {
        let started = rayon::ThreadPoolBuilder::new().build_global();
        // An error without a cause means that it was started before.
        started.err().filter(|error| error.source().is_some()).map(|error| error.to_string())
    });
    failed.clone().map_or(Ok(()), |reason| Err(FileError::Threads { reason }))
}
