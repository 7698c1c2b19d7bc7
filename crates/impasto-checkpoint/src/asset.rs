//! The files of a Hugging Face folder that are kept with the weights.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use impasto_core::FileKind;
use impasto_core::name::is_plain;

use crate::error::{CheckpointError, one_line, shown};
use crate::shard::open_regular;

/// Largest size of an asset in bytes: 256 MiB.
pub const MAX_ASSET_BYTES: u64 = 256 << 20;

/// The shard index, which is also an asset if the checkpoint has shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Endings of the names of assets: configuration, tokenizer, chat template, code.
const ENDINGS: [&str; 6] = [".jinja", ".json", ".model", ".py", ".tiktoken", ".txt"];
/// Endings of names in the folders of a folder: the modules of sentence-transformers, and further chat templates.
const ENDINGS_WITHIN: [&str; 2] = [".jinja", "/config.json"];
/// Files that say what a model is and what may be done with it.
const CARDS: [&str; 5] = ["LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "README.md"];
/// Ending of the indexes of shards, which describe files that are not assets.
const INDEXES: &str = ".index.json";
/// Most files that a note names.
const NAMED: usize = 16;

/// A file that is kept with the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Path relative to the folder, with `/` as the separator, such as `config.json`.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The files of a folder and of the folders in it, sorted by name. A folder further in is one entry that ends with `/`.
/// Hidden files are left out: they belong to other programs.
pub(crate) struct Files<'a> {
    folder: &'a Path,
    names: Vec<String>,
}

impl<'a> Files<'a> {
    /// Lists the files.
    pub(crate) fn of(folder: &'a Path) -> Result<Self, CheckpointError> {
        let mut names = Vec::new();
        for name in entries(folder)? {
            if is_asset(&name) || !folder.join(&name).is_dir() {
                names.push(name);
                continue;
            }
            let within = folder.join(&name);
            let end = |inner: &str| if within.join(inner).is_dir() { "/" } else { "" };
            names.extend(entries(&within)?.iter().map(|inner| format!("{name}/{inner}{}", end(inner))));
        }
        names.sort_unstable();
        Ok(Self { folder, names })
    }

    /// Reads the assets, without the index.
    pub(crate) fn assets(&self) -> Result<Vec<Asset>, CheckpointError> {
        let names = self.names.iter().filter(|name| is_asset(name));
        names.map(|name| read_asset(self.folder, name)).collect()
    }

    /// Returns a note that names the files, with their sizes, for which `is_kept` is false; `None` if there are none.
    pub(crate) fn left_out(&self, is_kept: impl Fn(&str) -> bool) -> Option<String> {
        let left: Vec<&String> = self.names.iter().filter(|name| !is_kept(name)).collect();
        let shown = |name: &&String| match fs::metadata(self.folder.join(name)) {
            Ok(file) if file.is_file() => format!("{} ({} bytes)", one_line(name), file.len()),
            _ => one_line(name),
        };
        let mut list: Vec<String> = left.iter().take(NAMED).map(shown).collect();
        if left.len() > NAMED {
            list.push(format!("and {} more", left.len() - NAMED));
        }
        (!list.is_empty()).then(|| format!("files of the folder that are left out: {}", list.join(", ")))
    }
}

/// The names of the entries of a folder that are not hidden.
fn entries(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let io = |error| CheckpointError::io(folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

/// Returns whether a file with this name is kept: engines or people may read it, it has no weights, and it can be restored on
/// every system.
fn is_asset(name: &str) -> bool {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let kind = match name.contains('/') {
        true => ends(&ENDINGS_WITHIN),
        // As in `tokenizer.model.v3`.
        false => ends(&ENDINGS) || name.contains(".model.v"),
    };
    let weights = name.ends_with(INDEXES);
    // A name that was not UTF-8 has replacement characters.
    let plain = !name.contains(char::REPLACEMENT_CHARACTER) && is_plain(name);
    CARDS.contains(&name) || kind && !weights && plain && !name.starts_with("README")
}

/// Reads one file of the folder, of at most [`MAX_ASSET_BYTES`].
pub(crate) fn read_asset(folder: &Path, name: &str) -> Result<Asset, CheckpointError> {
    let path = folder.join(name);
    let io = |error| CheckpointError::io(&path, error);
    let too_large = |len| CheckpointError::AssetTooLarge { path: shown(&path), len, max: MAX_ASSET_BYTES };
    let file = open_regular(&path)?;
    let len = file.metadata().map_err(io)?.len();
    if len > MAX_ASSET_BYTES {
        return Err(too_large(len));
    }
    // The file may grow while it is read, and the system does not know the length of every file.
    let mut bytes = Vec::new();
    file.take(MAX_ASSET_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_ASSET_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    if FileKind::of(&bytes) == Some(FileKind::LfsPointer) {
        return Err(CheckpointError::LfsPointer { path: shown(&path) });
    }
    Ok(Asset { name: name.to_owned(), bytes })
}

/// Returns whether a folder has an entry with this name. A dangling link counts, so that reading it is an error.
pub(crate) fn is_there(path: &Path) -> Result<bool, CheckpointError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(CheckpointError::io(path, e)),
    }
}
