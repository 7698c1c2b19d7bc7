//! Finds the bases of deltas: in files and folders that the user names, next to the delta, and in a cache.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_container::{Base, Header, Limits, MmapSource};
use impasto_core::files::folder_of;
use impasto_core::name::is_plain;

use crate::base::{MAX_DEPTH, hex};
use crate::error::FileError;
use crate::file::{File, MEMORY_LIMIT};

/// The environment variable with files and folders in which bases are found, separated as in `PATH`.
pub const VARIABLE: &str = "IMPASTO_BASES";
/// The extension of files that are looked at in a folder.
const EXTENSION: &str = "impasto";
/// Most files of a folder that are looked at.
const MOST_FILES: usize = 4096;

/// Where bases are found, and within which limits files are opened.
///
/// The root of a file, in its first 64 bytes, says whether it is the base. Nothing is fetched: a mirror counts only if it is a
/// path below the folder of the delta.
#[derive(Clone, Debug)]
pub struct Bases {
    /// Files and folders that the user named.
    named: Vec<PathBuf>,
    /// Those of the environment.
    usual: Vec<PathBuf>,
    limits: Limits,
    memory_limit: u64,
}

impl Default for Bases {
    fn default() -> Bases {
        Bases { named: vec![], usual: vec![], limits: Limits::default(), memory_limit: MEMORY_LIMIT }
    }
}

impl Bases {
    /// Looks in these files and folders, in those of the environment variable `IMPASTO_BASES`, and in the
    /// [cache folder](Bases::cache_folder).
    pub fn new(named: Vec<PathBuf>) -> Bases {
        let variable = std::env::var_os(VARIABLE).unwrap_or_default();
        let named_there = std::env::split_paths(&variable).filter(|path| !path.as_os_str().is_empty());
        let usual = named_there.chain(Bases::cache_folder()).collect();
        Bases { named, usual, ..Bases::default() }
    }

    /// Returns the folder for bases that are fetched, whose names there are their roots: `impasto/bases` in `XDG_CACHE_HOME`, or in
    /// `.cache` in the home folder. `None` if neither is known.
    pub fn cache_folder() -> Option<PathBuf> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        cache.map(|cache| cache.join("impasto").join("bases"))
    }

    /// Sets the limits for opening files, and on the memory that reading a tensor takes.
    pub fn within(self, limits: Limits, memory_limit: u64) -> Bases {
        Bases { limits, memory_limit, ..self }
    }

    /// Opens a file; if it is a delta, with its base, and the base of that, if they are found.
    ///
    /// # Errors
    /// If a file is invalid, if a base is found but does not fit, if all that are found are damaged, or if the chain is too long. A base
    /// that is not found is an
    /// error only when it is needed.
    pub fn open(&self, path: &Path) -> Result<File<MmapSource>, FileError> {
        self.open_at(path, MAX_DEPTH, true)
    }

    /// Opens a file that may have `depth` - 1 bases below it. If none of the files has the root of its base and `may_try`, those
    /// that the user named are tried; but not for the base of one that is tried, or there might be no end of it.
    fn open_at(&self, path: &Path, depth: usize, may_try: bool) -> Result<File<MmapSource>, FileError> {
        self.with_base(File::open_within(path, &self.limits)?, path, depth, may_try)
    }

    /// Attaches the base of a file that was opened at `path`, as [`Bases::open_at`] says.
    fn with_base(
        &self,
        mut file: File<MmapSource>,
        path: &Path,
        depth: usize,
        may_try: bool,
    ) -> Result<File<MmapSource>, FileError> {
        file.set_memory_limit(self.memory_limit);
        let Some(base) = file.base().cloned() else { return Ok(file) };
        let below = depth.checked_sub(1).filter(|&below| below > 0);
        let below = below.ok_or_else(|| FileError::Depth { file: path.display().to_string(), most: MAX_DEPTH })?;
        // A file whose first bytes say the root may be damaged all the same, and the next one not. Of those that open, the first is
        // the base, so that copies of a chain are not all tried with each other.
        let mut refused = None;
        for found in self.candidates(path, &base) {
            match File::open_within(&found, &self.limits) {
                Ok(opened) => {
                    file.attach(Arc::new(self.with_base(opened, &found, below, may_try)?))?;
                    return Ok(file);
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        // None has the root. One that the user named may have the same tensors all the same: a shorter copy of it, say.
        for named in self.named.iter().filter(|named| may_try && named.is_file() && !is_same(named, path)) {
            match self.open_at(named, below, false).and_then(|named| file.attach(Arc::new(named))) {
                Ok(()) => return Ok(file),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        refused.map_or(Ok(file), Err)
    }

    /// Returns the path of the base of the delta at `path`, if it is found: of the first that opens.
    pub fn find(&self, path: &Path, base: &Base) -> Option<PathBuf> {
        self.candidates(path, base).find(|found| File::open_within(found, &self.limits).is_ok())
    }

    /// Returns the files whose first bytes say that they are the base of the delta at `path`.
    fn candidates<'a>(&'a self, path: &'a Path, base: &'a Base) -> impl Iterator<Item = PathBuf> + 'a {
        let beside = folder_of(path).to_owned();
        let mirrors =
            base.mirrors.iter().filter(|mirror| is_plain(mirror)).map(move |mirror| folder_of(path).join(mirror));
        let named = move || self.named.iter().chain(&self.usual).cloned();
        // Names first, since they need no look into folders: those of files in a cache are roots.
        let by_root = named().map(move |folder| folder.join(format!("{}.{EXTENSION}", hex(&base.root))));
        let files = named().chain(mirrors).chain(by_root);
        let folders = named().chain([beside.clone()]);
        let is_base = move |candidate: &PathBuf| !is_same(candidate, path) && root(candidate) == Some(base.root);
        files.chain(folders.flat_map(|folder| impasto_files(&folder))).filter(is_base)
    }
}

/// Returns the files in a folder that have the usual extension, sorted.
fn impasto_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == EXTENSION)).take(MOST_FILES).collect();
    files.sort();
    files
}

/// Returns the root of an .impasto file; `None` if there is no such file. Nothing but a plain file is opened.
fn root(path: &Path) -> Option<[u8; 32]> {
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut first = [0; Header::SIZE];
    std::fs::File::open(path).ok()?.read_exact(&mut first).ok()?;
    Header::read(&first).ok().map(|header| header.root)
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
