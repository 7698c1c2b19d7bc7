//! Conversion between text and token ids, as `tokenizer.json` defines.
//!
//! ```text
//! tokenizer.json --json--+
//!                        +--> bpe, vocabulary --+
//! compiled form ---------+--> steps, template --+--> pipeline --> Tokenizer (within limits)
//! ```

mod bpe;
mod compiled;
mod json;
mod limits;
mod pattern;
mod pipeline;
mod processor_time;
mod steps;
mod stream;
mod template;
mod token;
mod vocabulary;

use crate::{Result, TextError};
pub use compiled::{NotCompiled, compile};
use limits::{bounded, grow};
use pipeline::Pipeline;
pub use stream::{StreamDecoder, TextStream};

/// File name of the tokenizer.
pub const FILE: &str = "tokenizer.json";
/// Name of the asset with its compiled form (SPEC 15).
pub const COMPILED: &str = "tokenizer.json#compiled";

/// Largest `tokenizer.json` in bytes. That of Gemma 3, one of the largest, has 33 MB.
const MAX_JSON: usize = 1 << 28;
/// Bytes of a token, where a limit depends on the number of tokens.
const TOKEN: usize = 16;

/// A tokenizer in the format of Hugging Face `tokenizers`.
pub struct Tokenizer(Pipeline);

impl Tokenizer {
    /// Parses `tokenizer.json`. Its truncation and padding are disabled: they are for training batches and would
    /// silently truncate a text.
    ///
    /// # Errors
    /// [`TextError::BadAsset`] if it is invalid, or larger or more complex than any tokenizer has to be.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > MAX_JSON {
            return Err(TextError::asset(FILE, format!("{} bytes, of at most {MAX_JSON}", json.len())));
        }
        let pipeline = bounded(json.len(), || pipeline::from_json(json));
        pipeline.map(Self).map_err(|e| TextError::asset(FILE, e))
    }

    /// Reads the compiled form of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::BadAsset`] if it is invalid or of another version. The `tokenizer.json` can be parsed instead.
    pub fn from_compiled(bytes: &[u8]) -> Result<Self> {
        let pipeline = bounded(bytes.len(), || compiled::read(bytes));
        pipeline.map(Self).map_err(|e| TextError::asset(COMPILED, e))
    }

    /// Loads the tokenizer of a model, of which `asset` returns the assets by name: from its compiled form, if there is a
    /// valid one, or from `tokenizer.json`. `None` if there is neither.
    ///
    /// # Errors
    /// Those of [`Self::from_json`].
    pub fn load(asset: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Option<Self>> {
        if let Some(tokenizer) = asset(COMPILED).and_then(|bytes| Self::from_compiled(&bytes).ok()) {
            return Ok(Some(tokenizer));
        }
        asset(FILE).map(|json| Self::from_json(&json)).transpose()
    }

    /// Parses `tokenizer.json`, if there is one.
    ///
    /// # Errors
    /// [`TextError::MissingAsset`] if there is none, otherwise those of [`Self::from_json`].
    pub fn from_asset(json: Option<&[u8]>) -> Result<Self> {
        Self::from_json(json.ok_or_else(Self::missing)?)
    }

    /// Returns the error for a model without a tokenizer.
    pub fn missing() -> TextError {
        TextError::MissingAsset { name: FILE, why: "text cannot be tokenized without it" }
    }

    /// Number of token ids, including added tokens. A model's vocabulary may be padded to more.
    pub fn vocab_size(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// Returns the id of the token whose text is exactly `token`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// Tokenizes `text`. Special tokens that appear in the text become their ids in either case; with `special`, the
    /// post-processor also adds its own, such as a beginning-of-sequence token.
    ///
    /// # Errors
    /// [`TextError::BadAsset`] if the text cannot be tokenized, or not in the time and memory that its length allows.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = bounded(text.len(), || self.0.encode_fast(text, special));
        Ok(encoding.map_err(|rule| TextError::asset(FILE, rule))?.get_ids().to_vec())
    }

    /// Decodes `ids` to text, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::BadAsset`] if the decoder rejects the tokens, or exceeds the time and memory that their number allows.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let decoded = bounded(ids.len().saturating_mul(TOKEN), || {
            // The library first gathers the texts of all tokens, which may be long.
            ids.iter().try_for_each(|&id| grow(self.0.id_to_token(id).map_or(0, |token| token.len())))?;
            self.0.decode(ids, skip_special)
        });
        decoded.map_err(|rule| TextError::asset(FILE, rule))
    }

    /// Returns a decoder for tokens that follow `prompt`, one at a time. It leaves out special tokens.
    pub fn stream(&self, prompt: &[u32]) -> TextStream<'_> {
        StreamDecoder::new(self, prompt)
    }
}
