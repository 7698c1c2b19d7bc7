//! Text of tokens that arrive one at a time.

use std::ops::Deref;

use super::Tokenizer;
use crate::Result;

/// Longest run of tokens that is held back because their bytes are incomplete characters. A character has at most four
/// bytes; a longer run is invalid text, and is shown as U+FFFD.
const MAX_HELD: usize = 8;
/// Number of prompt tokens that are context for the first piece of a stream: decoders strip the space before the first
/// word of a text.
const CONTEXT: usize = 4;
/// Longest UTF-8 character in bytes. A token may be a single byte of it.
const MAX_CHARACTER: usize = 4;

/// Decodes a stream of tokens to whole characters.
///
/// The text of a token depends on its neighbors (split characters, stripped spaces). The decoder therefore decodes the
/// previous tokens with and without the new ones; the difference is the new text. `T` is how it holds the tokenizer: a
/// reference, or an [`Arc`](std::sync::Arc) if it outlives a scope.
pub struct StreamDecoder<T> {
    tokenizer: T,
    /// Context tokens, then the tokens that are not shown yet.
    ids: Vec<u32>,
    /// Number of context tokens in `ids`.
    shown: usize,
    skip_special: bool,
}

/// A [`StreamDecoder`] that borrows the tokenizer.
pub type TextStream<'a> = StreamDecoder<&'a Tokenizer>;

impl<T: Deref<Target = Tokenizer>> StreamDecoder<T> {
    /// Creates a decoder for tokens that follow `prompt`. It leaves out special tokens.
    pub fn new(tokenizer: T, prompt: &[u32]) -> Self {
        let ids = context(&tokenizer, prompt).to_vec();
        Self { tokenizer, shown: ids.len(), ids, skip_special: true }
    }

    /// Makes the text contain special tokens, too. Some models write calls of functions with them.
    pub fn with_special(self) -> Self {
        Self { skip_special: false, ..self }
    }

    /// Adds one token and returns the text that it completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let whole = self.tokenizer.decode(&self.ids, self.skip_special)?;
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
        let whole = self.tokenizer.decode(&self.ids, self.skip_special)?;
        self.show(whole)
    }

    fn show(&mut self, whole: String) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown], self.skip_special)?;
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

/// Returns the last tokens of a prompt, starting at the start of a character. After an incomplete character, the
/// decoder's byte fallback would replace all bytes up to the next regular token, including those of the stream.
fn context<'a>(tokenizer: &Tokenizer, prompt: &'a [u32]) -> &'a [u32] {
    let last = |n: usize| &prompt[prompt.len().saturating_sub(n)..];
    let is_cut = |ids| tokenizer.decode(ids, true).is_ok_and(|text| text.starts_with(char::REPLACEMENT_CHARACTER));
    let mut starts = (CONTEXT..CONTEXT + MAX_CHARACTER).map(last);
    starts.find(|ids| !is_cut(ids)).unwrap_or(last(CONTEXT)) // The prompt itself is invalid text.
}
