//! Outputs that appear whole or not at all, and memory maps whose pages can be released.

mod atomic;
mod folders;
mod orphans;
mod temporary;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

pub use atomic::{AtomicFile, prepare};
pub use folders::{MadeFolders, TemporaryFolder};
pub use temporary::{remove_temporary, try_remove_temporary};

/// Returns the folder that contains `path`.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Maps a whole file for reading.
///
/// # Errors
/// Errors of the operating system.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read, and only as bytes, so any content is valid. As with every mapped file, nobody may
    // modify or truncate the file while it is mapped; our own writers never do, because they replace files by renaming.
    unsafe { Mmap::map(file) }
}

/// Advises the system that bytes of a map made by [`map`] will not be read again soon, so their pages can leave memory.
/// They can still be read.
///
/// The range may exceed the map. Does nothing on systems without such advice.
pub fn release(map: &Mmap, range: Range<u64>) {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(map.len());
    let (start, end) = (place(range.start), place(range.end));
    #[cfg(unix)]
    {
        // SAFETY: the map is shared, read-only and backed by a file. A page that is dropped is read again at the next
        // access, with the same bytes, as when the system evicts it on its own. References into the map stay valid.
        let advised =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end.saturating_sub(start)) };
        // This is advice only: if the call fails, the pages stay until memory runs short.
        drop(advised);
    }
    #[cfg(not(unix))]
    let _ = (start, end);
}
