//! Translation between GGUF and Hugging Face folders: metadata and assets, tensor names and layouts.
//!
//! A GGUF stores as typed key-value pairs what a Hugging Face folder stores as JSON files. [`assets`] builds the files
//! from the pairs, and [`metadata`] the pairs from the files. A [`NameMap`] maps tensor names, and tells how the rows
//! or values of a tensor differ ([`Change`]).
//!
//! The architectures of [`Architecture`] and the tokenizer models `gpt2` and `llama` are translated. For anything else
//! the asset is omitted, and a note says why ([`Assets::notes`]): it is better to refuse a model than to run it with
//! wrong tokens. A file that contradicts itself is an error.
//!
//! Sources for keys, token types and pre-tokenizers: the GGUF specification of the ggml project, and llama.cpp's loader
//! and converter (`llama-vocab.cpp`, `llama-model.cpp`, `convert_hf_to_gguf.py`).
//!
//! ```text
//! Metadata --+--> keys (typed) --+--> config (sizes), rope --------------------------> config.json
//!            |                   +--> vocabulary --+--> pre, bpe (gpt2) --+--> json --> tokenizer.json
//!            |                                     +--> spm (llama) ------+
//!            +-- to_gguf (reverse: sizes, vocab) <-- config.json, tokenizer.json, tokenizer_config.json
//! ```

mod architecture;
mod bpe;
mod config;
mod json;
mod keys;
mod names;
mod pre;
mod rope;
mod rules;
mod special;
mod spm;
mod to_gguf;
mod tokenizer;
mod vocabulary;

pub use crate::change::Change;
pub use architecture::Architecture;
pub use names::{Mapped, NameMap};
pub use rules::TranslationRule;
pub use to_gguf::{FromAssets, metadata};

use crate::Asset;
use crate::gguf::Metadata;
use keys::Keys;

/// What the translation needs to know about tensors, by their names in the source format.
pub trait Tensors {
    /// Returns the dimensions of a tensor in weights, slowest first, or `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<u64>>;

    /// Returns the values of a small binary32 tensor, or `None` if there is no such tensor or its dtype differs. Used
    /// only for rotary factors.
    fn values(&self, name: &str) -> Option<Vec<f32>>;
}

/// The files of a Hugging Face folder that can be derived from a GGUF file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assets {
    /// Sorted by name.
    pub assets: Vec<Asset>,
    /// Why an asset is missing, one line each.
    pub notes: Vec<String>,
}

impl Assets {
    /// Returns the bytes of an asset.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        find(&self.assets, name)
    }

    /// Adds an asset, or a note that it is unsupported.
    fn add(&mut self, name: &str, made: Result<Option<Vec<u8>>, TranslationRule>) -> Result<(), TranslationRule> {
        match made {
            Ok(Some(bytes)) => self.assets.push(Asset { name: name.to_owned(), bytes }),
            Ok(None) => {}
            Err(TranslationRule::Unsupported(why)) => self.notes.push(format!("no {name}: {why}")),
            Err(broken) => return Err(broken),
        }
        Ok(())
    }
}

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The key of a GGUF's architecture.
const ARCHITECTURE: &str = "general.architecture";

fn find<'a>(assets: &'a [Asset], name: &str) -> Option<&'a [u8]> {
    assets.iter().find(|asset| asset.name == name).map(|asset| asset.bytes.as_slice())
}

/// Builds the assets of a Hugging Face folder for a GGUF: `config.json`, `generation_config.json`, `tokenizer.json` and
/// `tokenizer_config.json` (with the chat template).
///
/// `tensors` uses the names in the GGUF. Memory and time are bounded by a multiple of the length of the metadata, since
/// tokens and their lengths are limited.
///
/// # Errors
/// If a key of a known architecture or tokenizer is missing, has the wrong type, or is out of range. An unknown
/// architecture or tokenizer is not an error but a note.
pub fn assets(metadata: &Metadata, tensors: &dyn Tensors) -> Result<Assets, TranslationRule> {
    let mut made = Assets::default();
    let keys = Keys::new(metadata);
    let tokenizer = tokenizer::Tokenizer::read(&keys)?;
    made.add(CONFIG, config::config(&keys, tensors, tokenizer.as_ref()))?;
    if let Some(tokenizer) = tokenizer {
        made.add(GENERATION_CONFIG, tokenizer.generation_config())?;
        made.add(TOKENIZER, tokenizer.json())?;
        made.add(TOKENIZER_CONFIG, tokenizer.config(&keys))?;
    } else {
        made.notes.push(format!("no {TOKENIZER}: the file has no tokenizer"));
    }
    Ok(made)
}
