//! Text to token ids and back, from `tokenizer.json`.

use crate::{Result, TextError};

/// The file that a tokenizer comes from.
pub const FILE: &str = "tokenizer.json";

/// Longest run of tokens held back because their bytes are not whole characters yet. A character has at most four
/// bytes; a longer run is broken text, which is then shown as U+FFFD.
const MAX_HELD: usize = 8;
/// Prompt tokens kept before a stream, so that its first piece is decoded in context (decoders strip the space of a
/// text's first word).
const CONTEXT: usize = 4;
/// Longest UTF-8 character in bytes; a token may be one byte of it.
const MAX_CHARACTER: usize = 4;

/// A tokenizer of the Hugging Face `tokenizers` kind.
pub struct Tokenizer(tokenizers::Tokenizer);

fn refused(error: impl std::fmt::Display) -> TextError {
    TextError::Tokenizer(error.to_string())
}

impl Tokenizer {
    /// Reads the bytes of `tokenizer.json`. Truncation and padding written there are switched off: they belong to
    /// training batches and would silently cut a text.
    ///
    /// # Errors
    /// [`TextError::BadAsset`] when the bytes do not parse.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| TextError::asset(FILE, e))?;
        inner.with_truncation(None).map_err(|e| TextError::asset(FILE, e))?;
        inner.with_padding(None);
        Ok(Self(inner))
    }

    /// Reads the bytes of `tokenizer.json` that a model came with, if it did.
    ///
    /// # Errors
    /// [`TextError::MissingAsset`] without them, else those of [`Self::from_json`].
    pub fn from_asset(json: Option<&[u8]>) -> Result<Self> {
        Self::from_json(json.ok_or_else(Self::missing)?)
    }

    /// The error that a model came without a tokenizer.
    pub fn missing() -> TextError {
        TextError::MissingAsset { name: FILE, why: "text cannot be turned into tokens" }
    }

    /// Number of token ids, added tokens included. A model's vocabulary may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// Id of the token written exactly `token`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// Token ids of `text`. Special tokens written out in the text become their ids either way; with `special`, the
    /// post-processor also adds its own, such as a beginning-of-text token.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] when the text cannot be tokenized.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(self.0.encode_fast(text, special).map_err(refused)?.get_ids().to_vec())
    }

    /// Text of `ids`; special tokens are left out when `skip_special`. Bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] when the decoder refuses the tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.0.decode(ids, skip_special).map_err(refused)
    }

    /// A decoder for tokens that come one at a time after `prompt`; special tokens are left out.
    pub fn stream(&self, prompt: &[u32]) -> TextStream<'_> {
        let ids = self.context(prompt).to_vec();
        TextStream { tokenizer: self, shown: ids.len(), ids }
    }

    /// The last tokens of a prompt, from where a character begins. After half a character a byte fallback would give
    /// up all bytes up to the next token that is none, those of the stream among them.
    fn context<'a>(&self, prompt: &'a [u32]) -> &'a [u32] {
        let last = |n: usize| &prompt[prompt.len().saturating_sub(n)..];
        let is_cut = |ids| self.decode(ids, true).is_ok_and(|text| text.starts_with(char::REPLACEMENT_CHARACTER));
        let mut starts = (CONTEXT..CONTEXT + MAX_CHARACTER).map(last);
        starts.find(|ids| !is_cut(ids)).unwrap_or(last(CONTEXT)) // A prompt that is broken itself.
    }
}

/// Decodes tokens as they come and gives out whole characters only.
///
/// The text of a token depends on its neighbours (split characters, stripped spaces), so the tokens shown last are
/// decoded with and without the new ones, and the difference is the new text.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Context first, then the tokens not shown yet.
    ids: Vec<u32>,
    /// How many of `ids` are context.
    shown: usize,
}

impl TextStream<'_> {
    /// Takes one token; returns the text that is now certain, empty while a character is incomplete.
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

    /// Text of the tokens still held back, at the end.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let whole = self.tokenizer.decode(&self.ids, true)?;
        self.show(whole)
    }

    fn show(&mut self, whole: String) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown], true)?;
        // Where a decoder rewrites what it had said, only what goes beyond it can still be shown.
        let piece = match whole.strip_prefix(&before) {
            Some(piece) => piece.to_owned(),
            None => whole.chars().skip(before.chars().count()).collect(),
        };
        // The tokens shown now are the next ones' context.
        self.ids.drain(..self.shown);
        self.shown = self.ids.len();
        Ok(piece)
    }
}
