//! Conversion between text and token ids, as `tokenizer.json` defines.

use crate::{Result, TextError};

/// File name of the tokenizer.
pub const FILE: &str = "tokenizer.json";

/// Longest run of tokens that is held back because their bytes are incomplete characters. A character has at most four
/// bytes; a longer run is invalid text, and is shown as U+FFFD.
const MAX_HELD: usize = 8;
/// Number of prompt tokens that are context for the first piece of a stream: decoders strip the space before the first
/// word of a text.
const CONTEXT: usize = 4;
/// Longest UTF-8 character in bytes. A token may be a single byte of it.
const MAX_CHARACTER: usize = 4;

/// A tokenizer in the format of Hugging Face `tokenizers`.
pub struct Tokenizer(tokenizers::Tokenizer);

fn refused(error: impl std::fmt::Display) -> TextError {
    TextError::Tokenizer(error.to_string())
}

impl Tokenizer {
    /// Parses `tokenizer.json`. Its truncation and padding are disabled: they are for training batches and would
    /// silently truncate a text.
    ///
    /// # Errors
    /// [`TextError::BadAsset`] if the bytes do not parse.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| TextError::asset(FILE, e))?;
        inner.with_truncation(None).map_err(|e| TextError::asset(FILE, e))?;
        inner.with_padding(None);
        Ok(Self(inner))
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
    /// [`TextError::Tokenizer`] if the text cannot be tokenized.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(self.0.encode_fast(text, special).map_err(refused)?.get_ids().to_vec())
    }

    /// Decodes `ids` to text, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the decoder rejects the tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.0.decode(ids, skip_special).map_err(refused)
    }

    /// Returns a decoder for tokens that follow `prompt`, one at a time. It leaves out special tokens.
    pub fn stream(&self, prompt: &[u32]) -> TextStream<'_> {
        let ids = self.context(prompt).to_vec();
        TextStream { tokenizer: self, shown: ids.len(), ids }
    }

    /// The last tokens of a prompt, starting at the start of a character. After an incomplete character, the decoder's
    /// byte fallback would replace all bytes up to the next regular token, including those of the stream.
    fn context<'a>(&self, prompt: &'a [u32]) -> &'a [u32] {
        let last = |n: usize| &prompt[prompt.len().saturating_sub(n)..];
        let is_cut = |ids| self.decode(ids, true).is_ok_and(|text| text.starts_with(char::REPLACEMENT_CHARACTER));
        let mut starts = (CONTEXT..CONTEXT + MAX_CHARACTER).map(last);
        starts.find(|ids| !is_cut(ids)).unwrap_or(last(CONTEXT)) // The prompt itself is invalid text.
    }
}

/// Decodes a stream of tokens to whole characters.
///
/// The text of a token depends on its neighbors (split characters, stripped spaces). The decoder therefore decodes the
/// previous tokens with and without the new ones; the difference is the new text.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Context tokens, then the tokens that are not shown yet.
    ids: Vec<u32>,
    /// Number of context tokens in `ids`.
    shown: usize,
}

impl TextStream<'_> {
    /// Adds one token and returns the text that it completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let whole = self.tokenizer.decode(&self.ids, true)?;
        if whole.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.len() - self.shown < MAX_HELD {
            return Ok(String::new());
        }
        self.show(whole)
    }

    /// Returns the text of the tokens that are still held back, at the end.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let whole = self.tokenizer.decode(&self.ids, true)?;
        self.show(whole)
    }

    fn show(&mut self, whole: String) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown], true)?;
        // If the decoder changes text that was already shown, show only what extends beyond it.
        let piece = match whole.strip_prefix(&before) {
            Some(piece) => piece.to_owned(),
            None => whole.chars().skip(before.chars().count()).collect(),
        };
        // The tokens that were just shown are the context of the next ones.
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(piece)
    }
}
