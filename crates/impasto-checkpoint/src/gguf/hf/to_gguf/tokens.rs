//! The tokens of a `tokenizer.json`, by id.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::gguf::hf::TOKENIZER;
use crate::gguf::hf::json::Object;
use crate::gguf::hf::rules::TranslationRule;
use crate::gguf::hf::vocabulary::{Kind, MAX_TOKENS};

/// A token of `tokenizer.json`.
pub(super) struct Token {
    pub text: String,
    pub kind: Kind,
}

/// The token of each row of the embedding; some rows have none.
pub(super) struct Tokens {
    by_id: Vec<Option<Token>>,
    ids: HashMap<String, u32>,
}

impl Tokens {
    /// Reads the vocabulary of the model and the added tokens, which have precedence.
    pub fn read(tokenizer: &Object, model: &Object, rows: u32) -> Result<Tokens, TranslationRule> {
        if rows as usize > MAX_TOKENS {
            return Err(TranslationRule::unsupported(format!("{rows} tokens, at most {MAX_TOKENS}")));
        }
        let by_bytes = model.bool("byte_fallback")?.unwrap_or(false);
        let unk = model.str("unk_token")?.filter(|_| by_bytes);
        let mut tokens = Tokens { by_id: Vec::new(), ids: HashMap::new() };
        tokens.by_id.resize_with(rows as usize, || None);
        let Some(Json::Object(vocabulary)) = model.get("vocab") else {
            return Err(broken("model has no vocab"));
        };
        for (text, id) in vocabulary {
            let kind = match () {
                () if unk == Some(text) => Kind::Unknown,
                () if by_bytes && is_byte(text) => Kind::Byte,
                () => Kind::Normal,
            };
            tokens.put(id, text, kind)?;
        }
        if let Some(Json::Array(added)) = tokenizer.get("added_tokens") {
            for token in added {
                let text = token["content"].as_str().ok_or_else(|| broken("an added token has no content"))?;
                let controls = token["special"] == true || looks_special(text);
                tokens.put(&token["id"], text, if controls { Kind::Control } else { Kind::UserDefined })?;
            }
        }
        Ok(tokens)
    }

    fn put(&mut self, id: &Json, text: &str, kind: Kind) -> Result<(), TranslationRule> {
        let rows = self.by_id.len();
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let (Some(id), Some(place)) = (id, id.and_then(|id| self.by_id.get_mut(id as usize))) else {
            return Err(broken(&format!("token \"{text}\" has no id below {rows}, the rows of the embedding")));
        };
        let other_text = place.as_ref().is_some_and(|there| there.text != text);
        let other_id = self.ids.insert(text.to_owned(), id).is_some_and(|there| there != id);
        if other_text || other_id {
            return Err(broken(&format!("token \"{text}\" and id {id}: one of them occurs twice")));
        }
        *place = Some(Token { text: text.to_owned(), kind });
        Ok(())
    }

    /// Returns the token of each row.
    pub fn places(&self) -> &[Option<Token>] {
        &self.by_id
    }

    /// Returns the tokens in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Token)> {
        self.by_id.iter().enumerate().filter_map(|(id, token)| Some((id as u32, token.as_ref()?)))
    }

    /// Returns the id of a text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Returns whether there is a token with this id.
    pub fn has(&self, id: u32) -> bool {
        self.by_id.get(id as usize).is_some_and(Option::is_some)
    }
}

fn broken(rule: &str) -> TranslationRule {
    TranslationRule::asset(TOKENIZER, rule)
}

/// Returns whether a token is one of `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Returns whether a token is a control token without the flag `special`, by llama.cpp's list.
fn looks_special(text: &str) -> bool {
    let between = |open, close| text.starts_with(open) && text.ends_with(close);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}
