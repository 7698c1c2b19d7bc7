//! Translation between GGUF and Hugging Face folders: metadata to assets and back, tensor names and layouts.
//!
//! GGUF keeps in typed pairs what a Hugging Face folder keeps in JSON files. [`assets`] makes the files from the pairs,
//! [`metadata`] the pairs from the files, and a [`NameMap`] tells which tensor is which, and what was done to its rows
//! or values on the way ([`Change`]).
//!
//! Translated are the architectures of [`Architecture`] and the tokenizers named `gpt2` and `llama`. What else a file
//! may say is not guessed at: the asset is left out and a note says why ([`Assets::notes`]), so that a model is
//! refused by name rather than run on wrong tokens. A file that contradicts itself is an error.
//!
//! Facts about keys, token types and pre-tokenizers: the GGUF specification of the ggml project, and llama.cpp's
//! loader and converter (`llama-vocab.cpp`, `llama-model.cpp`, `convert_hf_to_gguf.py`).
//!
//! ```text
//! Metadata --+--> keys (typed) --+--> config (sizes), rope --------------------------> config.json
//!            |                   +--> vocabulary --+--> pre, bpe (gpt2) --+--> json --> tokenizer.json
//!            |                                     +--> spm (llama) ------+
//!            +-- to_gguf (the way back: sizes, vocab) <-- config.json, tokenizer.json, tokenizer_config.json
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

/// What the translation asks about the tensors, by the names that the side it comes from gives them.
pub trait Tensors {
    /// The extents of a tensor, slowest first, in weights; `None` if there is none of this name.
    fn shape(&self, name: &str) -> Option<Vec<u64>>;

    /// The values of a small binary32 tensor; `None` if there is none of this name, or of another dtype. Asked for
    /// rotary factors only.
    fn values(&self, name: &str) -> Option<Vec<f32>>;
}

/// The files of a Hugging Face folder, as far as a GGUF file tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assets {
    /// Sorted by name.
    pub assets: Vec<Asset>,
    /// Why an asset is missing, one line each.
    pub notes: Vec<String>,
}

impl Assets {
    /// The bytes of an asset.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        find(&self.assets, name)
    }

    /// Takes in an asset, or the note that it cannot be.
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

/// The architecture of a GGUF file.
const ARCHITECTURE: &str = "general.architecture";

fn find<'a>(assets: &'a [Asset], name: &str) -> Option<&'a [u8]> {
    assets.iter().find(|asset| asset.name == name).map(|asset| asset.bytes.as_slice())
}

/// The files that a Hugging Face folder of this model would have: `config.json`, `generation_config.json`,
/// `tokenizer.json`, `tokenizer_config.json` (with the chat template).
///
/// `tensors` has the names of the GGUF. Memory and time are bounded by a multiple of the metadata's bytes (see
/// the limits on tokens in [`TranslationRule`]).
///
/// # Errors
/// A key of a known architecture or tokenizer that is missing, of a wrong type or out of range. An architecture or
/// tokenizer that is not known is no error but a note.
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
