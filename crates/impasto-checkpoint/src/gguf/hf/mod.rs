//! Translation between GGUF and Hugging Face folders: metadata and assets, tensor names and layouts.
//!
//! A GGUF stores as typed key-value pairs what a Hugging Face folder stores as JSON files. [`assets`] builds the files
//! from the pairs, and [`metadata`] the pairs from the files. A [`NameMap`] maps tensor names, and tells how the rows
//! or values of a tensor differ ([`Change`]).
//!
//! The architectures of [`Architecture`] and the tokenizer models `gpt2` and `llama` are translated. For anything else,
//! and where a file contradicts itself, the asset is omitted, and [`Assets::absent`] says why: it is better to refuse a
//! model than to run it with wrong tokens.
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
mod placed;
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
pub use placed::{Folded, OUTPUT, Placed, place};
pub use rules::TranslationRule;
pub use to_gguf::{FromAssets, metadata};

use crate::Asset;
use crate::gguf::Metadata;
use keys::Keys;
use tokenizer::Tokenizer;

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
    /// The files, sorted by name.
    pub assets: Vec<Asset>,
    /// The names of files that could not be derived, and why, one line each.
    pub absent: Vec<(&'static str, String)>,
    /// What was ignored, one line each.
    pub ignored: Vec<String>,
}

impl Assets {
    /// Returns the bytes of an asset.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        find(&self.assets, name)
    }

    /// Returns notes on what is absent and what was ignored, one line each.
    pub fn notes(&self) -> Vec<String> {
        let absent = self.absent.iter().map(|(name, why)| format!("no {name}: {why}"));
        absent.chain(self.ignored.iter().cloned()).collect()
    }

    /// Adds an asset, or the reason why it is absent.
    fn add(&mut self, name: &'static str, made: Result<Option<Vec<u8>>, TranslationRule>) {
        match made {
            Ok(Some(bytes)) => self.assets.push(Asset { name: name.to_owned(), bytes }),
            Ok(None) => {}
            Err(rule) => self.absent.push((name, rule.to_string())),
        }
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
/// An asset whose architecture or tokenizer is not known, or that needs a key which is missing, has the wrong type or is
/// out of range, is absent alone; the others do not depend on it.
///
/// `tensors` uses the names in the GGUF. Memory and time are bounded by a multiple of the length of the metadata, since
/// tokens and their lengths are limited.
pub fn assets(metadata: &Metadata, tensors: &dyn Tensors) -> Assets {
    let mut made = Assets::default();
    let keys = Keys::new(metadata);
    let none = || TranslationRule::unsupported("the file has no tokenizer");
    let tokenizer = Tokenizer::read(&keys).and_then(|tokenizer| tokenizer.ok_or_else(none));
    made.add(CONFIG, config::config(&keys, tensors, tokenizer.as_ref().ok()));
    match tokenizer {
        Ok(tokenizer) => {
            made.ignored.extend_from_slice(&tokenizer.special().ignored);
            made.add(GENERATION_CONFIG, tokenizer.generation_config());
            made.add(TOKENIZER, tokenizer.json());
            let template = tokenizer::chat_template(&keys);
            made.add(TOKENIZER_CONFIG, tokenizer.config(template.as_ref().ok().and_then(Option::as_ref)));
            made.add(CHAT_TEMPLATE, template.map(|_| None));
        }
        Err(rule) => made.add(TOKENIZER, Err(rule)),
    }
    made
}
