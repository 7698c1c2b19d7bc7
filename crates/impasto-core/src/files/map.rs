//! Mapped files that may become shorter while they are read.
//!
//! The system raises SIGBUS when a page past the end of its file is read, which by default ends the process. A handler
//! puts zeros in the place of what is gone and marks the map; [`Map::check`] then returns an error. Whoever uses the
//! bytes of a map calls it when a job is done, before the result is used.

use std::fs::{self, File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

/// A whole file, mapped for reading.
#[derive(Debug)]
pub struct Map {
    /// Dropped before the map, so that no other map can have its addresses yet.
    #[cfg(unix)]
    guard: super::fault::Guard,
    map: Mmap,
    path: PathBuf,
    id: Option<(u64, u64)>,
}

impl Map {
    /// Maps `file`, which was opened at `path`.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn new(file: &File, path: &Path) -> io::Result<Map> {
        let id = id(&file.metadata()?);
        // SAFETY: the map is only read, and only as bytes, so any content is valid. If another process shortens the file,
        // the guard puts zeros in place of what is gone.
        let map = unsafe { Mmap::map(file)? };
        Ok(Map {
            #[cfg(unix)]
            // SAFETY: the range is that of the map. Fields are dropped in order, so the guard goes before the map.
            guard: unsafe { super::fault::Guard::new(map.as_ptr_range()) },
            map,
            path: path.to_owned(),
            id,
        })
    }

    /// Returns an error if the file became shorter than the map, so that zeros may have been read in place of its bytes.
    ///
    /// # Errors
    /// `UnexpectedEof`.
    pub fn check(&self) -> io::Result<()> {
        #[cfg(unix)]
        let is_lost = self.guard.is_lost();
        #[cfg(not(unix))]
        let is_lost = false;
        // The rest of the page in which a file ends is read as zeros, without a signal. Another file at this path says
        // nothing about the mapped one.
        let is_shorter =
            || fs::metadata(&self.path).is_ok_and(|now| id(&now) == self.id && now.len() < self.map.len() as u64);
        if is_lost || is_shorter() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        Ok(())
    }

    /// Advises the system that bytes will not be read again soon, so their pages can leave memory. They can still be read.
    ///
    /// The range may exceed the map. Does nothing on systems without such advice.
    pub fn release(&self, range: Range<u64>) {
        let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(self.map.len());
        let (start, end) = (place(range.start), place(range.end));
        #[cfg(unix)]
        {
            let length = end.saturating_sub(start);
            // SAFETY: the map is read-only and backed by a file. A page that is dropped is read again at the next access,
            // with the same bytes, as when the system evicts it on its own. References into the map stay valid.
            let advised = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, length) };
            // This is advice only: if the call fails, the pages stay until memory runs short.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = (start, end);
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// What tells a file from others; `None` if the system does not say.
fn id(metadata: &Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    const PAGES: usize = 40;

    /// A mapped file without zeros, of more than one page, whatever the size of a page.
    fn mapped(path: &Path) -> Map {
        fs::write(path, vec![7; PAGES << 16]).unwrap();
        Map::new(&File::open(path).unwrap(), path).unwrap()
    }

    fn cut(path: &Path, length: u64) {
        OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    }

    #[test]
    fn a_file_that_becomes_shorter_is_an_error_and_not_a_signal() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let maps = [mapped(&first), mapped(&second)];
        maps.iter().for_each(|map| map.check().unwrap());
        cut(&first, 1 << 16);
        // Several threads meet the end at once.
        let sum = |map: &Map| map.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        std::thread::scope(|scope| {
            let sums: Vec<_> = (0..4).map(|_| scope.spawn(|| sum(&maps[0]))).collect();
            sums.into_iter().for_each(|sum| assert_eq!(sum.join().unwrap(), 7 << 16));
        });
        let error = maps[0].check().unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (io::ErrorKind::UnexpectedEof, "it became shorter while it was read".to_owned())
        );
        assert_eq!(sum(&maps[1]), (7 * PAGES as u64) << 16);
        maps[1].check().unwrap();
        // Restored bytes do not undo what was read.
        fs::write(&first, vec![7; PAGES << 16]).unwrap();
        assert!(maps[0].check().is_err());
        drop(maps);
        mapped(&first).check().unwrap();
    }

    #[test]
    fn the_page_in_which_a_file_ends_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let map = mapped(&path);
        cut(&path, (PAGES as u64) << 16);
        map.check().unwrap();
        cut(&path, ((PAGES as u64) << 16) - 1);
        assert_eq!(map[map.len() - 1], 0, "zero without a signal");
        assert!(map.check().is_err());
    }

    #[test]
    fn a_file_that_is_replaced_or_grows_keeps_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        let map = mapped(&path);
        cut(&path, (PAGES as u64) << 17);
        map.check().unwrap();
        fs::write(&other, "short").unwrap();
        fs::rename(&other, &path).unwrap();
        map.check().unwrap();
        assert!(map.iter().all(|&byte| byte == 7));
    }
}
