//! The tokens of a GGUF file and their types.

use std::borrow::Cow;
use std::collections::HashMap;

use super::keys::Keys;
use super::rules::TranslationRule;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// Most tokens that are translated, an order of magnitude above any real vocabulary.
pub(super) const MAX_TOKENS: usize = 1 << 22;

/// SentencePiece's symbol for a space.
pub(super) const UNDERLINE: &str = "\u{2581}";

/// The type of a token. The numbers are those of `llama_token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Kind {
    /// Produced from text by merges.
    Normal = 1,
    /// Represents text without a token.
    Unknown = 2,
    /// Controls the model and is not part of any text.
    Control = 3,
    /// Matched in text before anything is merged.
    UserDefined = 4,
    /// Not used.
    Unused = 5,
    /// Represents one byte of text without a token.
    Byte = 6,
}

impl Kind {
    fn of(number: i32) -> Kind {
        use Kind::*;
        // llama.cpp also ignores other numbers.
        [Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|&kind| kind as i32 == number).unwrap_or(Normal)
    }

    /// Returns whether the token is matched as a whole, before anything is merged.
    pub fn is_added(self) -> bool {
        matches!(self, Kind::Unknown | Kind::Control | Kind::UserDefined)
    }
}

/// The tokens by id.
#[derive(Default)]
pub(super) struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<Kind>,
}

/// A token that is not a placeholder.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub id: u32,
    pub text: &'a str,
    pub kind: Kind,
}

/// Returns the text of an id without a token, as llama.cpp's converter writes it.
pub(super) fn padding(id: usize) -> String {
    format!("[PAD{id}]")
}

impl<'a> Vocabulary<'a> {
    pub fn read(keys: &Keys<'a>) -> Result<Vocabulary<'a>, TranslationRule> {
        let tokens = keys.required(TOKENS, keys.strings(TOKENS)?)?;
        if tokens.len() > MAX_TOKENS {
            return Err(TranslationRule::value(TOKENS, format!("{} tokens, at most {MAX_TOKENS}", tokens.len())));
        }
        let kinds = match keys.i32s(TOKEN_TYPE)? {
            Some(numbers) => numbers.into_iter().map(Kind::of).collect(),
            None => vec![Kind::Normal; tokens.len()],
        };
        if kinds.len() != tokens.len() {
            let rule = format!("{} entries for {} tokens", kinds.len(), tokens.len());
            return Err(TranslationRule::value(TOKEN_TYPE, rule));
        }
        Ok(Vocabulary { tokens, kinds })
    }

    /// Returns the number of ids.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the text of an id.
    pub fn text(&self, id: u32) -> Option<&'a str> {
        self.tokens.get(id as usize).copied()
    }

    /// Returns the tokens in the order of their ids, without placeholders.
    pub fn iter(&self) -> impl Iterator<Item = Token<'a>> {
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        let fills = |id: usize, text: &str, kind: Kind| {
            text.is_empty() || kind != Kind::Normal && text.starts_with("[PAD") && text == padding(id)
        };
        tokens.filter(move |&(id, (text, kind))| !fills(id, text, *kind)).map(|(id, (text, kind))| Token {
            id: id as u32,
            text,
            kind: *kind,
        })
    }

    /// Returns the ids of all texts, as `spelled` in `tokenizer.json`. The texts must be distinct.
    pub fn ids(
        &self,
        spelled: impl Fn(Token<'a>) -> Cow<'a, str>,
    ) -> Result<HashMap<Cow<'a, str>, u32>, TranslationRule> {
        let mut ids = HashMap::with_capacity(self.len());
        for token in self.iter() {
            if let Some(other) = ids.insert(spelled(token), token.id) {
                let rule = format!("tokens {other} and {} are both \"{}\"", token.id, token.text);
                return Err(TranslationRule::value(TOKENS, rule));
            }
        }
        Ok(ids)
    }
}
