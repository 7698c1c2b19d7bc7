//! The bases of a delta, from its mirrors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto_container::{Base, Limits, MmapSource, Reader, UnitState};

use crate::address::Address;
use crate::error::FetchError;
use crate::extent::Extent;
use crate::fetch::{Done, Request, Watch, fetch};
use crate::job::hex;
use crate::options::Options;
use crate::wait::Cancel;

/// Most files in a chain of deltas.
const MAX_DEPTH: usize = 16;

/// A base that is there.
#[derive(Clone, Debug)]
pub struct BaseFile {
    /// Its name, as the delta says it.
    pub name: String,
    /// Its root.
    pub root: [u8; 32],
    /// Where it is.
    pub path: PathBuf,
    /// How it was fetched; `None` if it was there.
    pub fetched: Option<Done>,
}

/// How bases are brought.
pub struct Bringer<'a> {
    /// The folder for those that are fetched. Their names there are their roots.
    pub folder: PathBuf,
    /// Finds the base of the delta at a path on this machine.
    pub find: &'a (dyn Fn(&Path, &Base) -> Option<PathBuf> + Sync),
    /// Limits for opening files.
    pub limits: Limits,
    /// How to fetch.
    pub options: Options,
    /// What cancels the work.
    pub cancel: Cancel,
    /// What is told of it, for each base.
    pub watch: &'a (dyn Fn(&Base) -> Arc<dyn Watch> + Sync),
}

/// Fetches the base of a delta, and the base of that, unless they are there. `from` is where the delta came from; its mirrors may be
/// paths from there.
///
/// A base must have the root that the delta says. It is fetched as far as the delta uses it.
///
/// # Errors
/// [`FetchError::NoMirror`] if none of the mirrors has a base; errors of files on this machine.
pub fn bring_bases(delta: &Path, from: &Address, bringer: &Bringer<'_>) -> Result<Vec<BaseFile>, FetchError> {
    let limits = Limits { allow_expansion: true, ..bringer.limits.clone() };
    let (mut file, mut from) = (delta.to_owned(), from.clone());
    let mut bases = Vec::new();
    loop {
        let reader = Reader::open_file(&file, &limits)?;
        let Some(base) = reader.base() else { return Ok(bases) };
        if bases.len() + 1 >= MAX_DEPTH {
            return Err(FetchError::Depth { file: delta.display().to_string(), most: MAX_DEPTH });
        }
        let extent = needed(&reader);
        let cached = bringer.folder.join(format!("{}.impasto", hex(&base.root)));
        let found = (bringer.find)(&file, base).into_iter().chain([cached.clone()]);
        let there = found.into_iter().find(|path| has(path, base, extent, &limits));
        let (path, came_from, fetched) = match there {
            Some(path) => (path.clone(), Address::File(path), None),
            None => {
                let (address, done) = fetch_base(&file, base, &from, extent, &cached, bringer)?;
                (cached, address, Some(done))
            }
        };
        bases.push(BaseFile { name: base.name.clone(), root: base.root, path: path.clone(), fetched });
        (file, from) = (path, came_from);
    }
}

/// Returns how much of its base a delta needs: layers above all levels that it uses are left out.
fn needed(delta: &Reader<MmapSource>) -> Extent {
    let levels = delta.objects().iter().filter_map(|object| object.base()).map(|link| link.level);
    // An adapter names no objects.
    levels.max().map_or(Extent::Whole, Extent::Level)
}

/// Returns whether a file is this base, with as much of it as is needed.
fn has(path: &Path, base: &Base, extent: Extent, limits: &Limits) -> bool {
    let Ok(reader) = Reader::open_file(path, limits) else { return false };
    let units = match extent {
        Extent::Level(level) => reader.units_through(level),
        _ => reader.units().len() as u32,
    };
    *reader.root() == base.root
        && (0..units).all(|unit| reader.unit_state(unit).is_ok_and(|state| state == UnitState::Present))
}

/// Fetches a base from the first mirror that has it.
fn fetch_base(
    delta: &Path,
    base: &Base,
    from: &Address,
    extent: Extent,
    to: &Path,
    bringer: &Bringer<'_>,
) -> Result<(Address, Done), FetchError> {
    let mut tried = Vec::new();
    for mirror in &base.mirrors {
        let done = from.mirror(mirror).and_then(|address| {
            let request = Request {
                extent,
                root: Some(base.root),
                // Its name is a root; a file of that name with another root is of no use.
                force: true,
                limits: Limits { allow_expansion: true, ..bringer.limits.clone() },
                options: bringer.options.clone(),
                ..Request::new(address.clone(), to)
            };
            // What gives access to the host of the delta is not for the hosts of its mirrors.
            let request = if from.shares_host(&address) { request } else { request.without_secrets() };
            Ok((address, fetch(&request, (bringer.watch)(base), &bringer.cancel)?))
        });
        match done {
            Ok(done) => return Ok(done),
            Err(error @ (FetchError::Cancelled | FetchError::Busy { .. } | FetchError::Threads { .. })) => {
                return Err(error);
            }
            Err(error) => tried.push(error.to_string()),
        }
    }
    let file = delta.display().to_string();
    Err(FetchError::NoMirror { file, name: base.name.clone(), root: hex(&base.root), tried })
}
