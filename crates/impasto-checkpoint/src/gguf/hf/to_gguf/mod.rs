//! GGUF metadata from the files of a Hugging Face folder.
//!
//! Keys and types are those of llama.cpp's converter (`convert_hf_to_gguf.py`): counts and ids are U32, other numbers
//! F32. A model that GGUF or llama.cpp cannot represent is refused, because the file would load but compute something
//! else.

mod chat;
mod merges;
mod post;
mod prefix;
mod rotary;
mod sizes;
mod tokens;
mod vocab;

use crate::Asset;
use crate::gguf::{Metadata, Value};

use super::json::Object;
use super::rules::TranslationRule;
use super::{ARCHITECTURE, Architecture, CONFIG, TOKENIZER, TOKENIZER_CONFIG, Tensors};

/// GGUF metadata, and the tensors that a Hugging Face folder stores as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct FromAssets {
    /// All keys.
    pub metadata: Metadata,
    /// Rotary factors: 1-D binary32 tensors, to be written in addition to those of the checkpoint.
    pub factors: Vec<(String, Vec<f32>)>,
    /// Differences in llama.cpp, one line each.
    pub notes: Vec<String>,
}

impl FromAssets {
    /// Sets a key of the architecture.
    fn set(&mut self, architecture: Architecture, key: &str, value: impl Into<Value>) {
        self.metadata.insert(format!("{}.{key}", architecture.gguf_name()), value);
    }

    /// Sets a key of the architecture to a number, which GGUF stores as binary32.
    fn set_f32(&mut self, architecture: Architecture, key: &str, value: f64) -> Result<(), TranslationRule> {
        let short = value as f32;
        if !short.is_finite() {
            return Err(TranslationRule::unsupported(format!(
                "\"{key}\" is {value:e}, which 32 bits cannot represent"
            )));
        }
        self.set(architecture, key, short);
        Ok(())
    }
}

/// Builds GGUF metadata from the assets of a model: `config.json`, `tokenizer.json` and, if present,
/// `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.
///
/// `tensors` uses the names in the Hugging Face folder; `name` is the model's name for display; `file_type` is
/// llama.cpp's number for the dtype of most tensors (`llama_ftype`: 0 F32, 1 F16, 2 Q4_0, 7 Q8_0, 32 BF16).
///
/// # Errors
/// If an asset is missing or invalid, or GGUF cannot represent the model.
pub fn metadata(
    assets: &[Asset],
    tensors: &dyn Tensors,
    name: &str,
    file_type: u32,
) -> Result<FromAssets, TranslationRule> {
    let needed = |asset| Object::of(assets, asset)?.ok_or_else(|| TranslationRule::asset(asset, "is missing"));
    let config = needed(CONFIG)?;
    let tokenizer = needed(TOKENIZER)?;
    let tokenizer_config = Object::of(assets, TOKENIZER_CONFIG)?;
    let architecture = sizes::architecture(&config)?;

    let mut made = FromAssets { metadata: Metadata::new(), factors: Vec::new(), notes: Vec::new() };
    let general = &mut made.metadata;
    general.insert(ARCHITECTURE, architecture.gguf_name());
    general.insert("general.type", "model");
    general.insert("general.name", name);
    general.insert("general.file_type", file_type);
    general.insert("general.quantization_version", 2u32);
    let rows = sizes::write(&config, architecture, tensors, &mut made)?;
    rotary::write(&config, architecture, &mut made)?;
    let tokens = vocab::write(&tokenizer, rows, &mut made)?;
    post::write(assets, &tokenizer, tokenizer_config.as_ref(), &config, &tokens, &mut made.metadata)?;
    chat::write(assets, tokenizer_config.as_ref(), &mut made.metadata)?;
    Ok(made)
}

/// Returns the architecture and the head dimension in a `config.json`.
pub(super) fn head_dim(config: &[u8]) -> Result<(Architecture, u64), TranslationRule> {
    let config = Object::parse(CONFIG, config)?;
    let architecture = sizes::architecture(&config)?;
    Ok((architecture, sizes::Heads::read(&config, architecture)?.dim.into()))
}
