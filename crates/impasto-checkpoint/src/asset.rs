//! The files of a Hugging Face folder that are kept with the weights.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use impasto_core::FileKind;

use crate::error::{CheckpointError, shown};
use crate::shard::open_regular;

/// Largest size of an asset in bytes: 256 MiB.
pub const MAX_ASSET_BYTES: u64 = 256 << 20;

/// The shard index, which is also an asset if the checkpoint has shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Names of assets, sorted bytewise: configuration, tokenizer, chat template, preprocessing, and the modules of
/// sentence-transformers.
const NAMES: [&str; 21] = [
    "1_Pooling/config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "data_config.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// A file that is kept with the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Path relative to the folder, with `/` as the separator, such as `config.json`.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Reads the assets of a folder, without the index.
pub(crate) fn read_assets(folder: &Path) -> Result<Vec<Asset>, CheckpointError> {
    let mut assets = Vec::new();
    for name in NAMES {
        if is_there(&folder.join(name))? {
            assets.push(read_asset(folder, name)?);
        }
    }
    Ok(assets)
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
