//! The chat template and the special tokens in `tokenizer_config.json`.

use impasto_core::json::finite;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TOKENIZER_CONFIG;
use crate::{Result, TextError};

/// The keys of special tokens. A template has each as a variable.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// The key of a list of further special tokens, which is also a variable.
const MORE_TOKENS: &str = "additional_special_tokens";
/// The key of special tokens that the model itself names, such as `image_token`.
const NAMED_TOKENS: &str = "extra_special_tokens";
/// The name of the template for conversations, if there are several.
const DEFAULT: &str = "default";

#[derive(Default, Deserialize)]
pub(super) struct TokenizerConfig {
    chat_template: Option<Templates>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// A special token: its text, or an object with its text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl From<Token> for Value {
    fn from(token: Token) -> Self {
        match token {
            Token::Text(text) | Token::Object { content: text } => text.into(),
        }
    }
}

fn parse<T: for<'a> Deserialize<'a>>(key: &str, value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|e| TextError::asset(TOKENIZER_CONFIG, format!("{key}: {e}")))
}

impl TokenizerConfig {
    /// Parses the file, which may be absent.
    pub(super) fn parse(json: Option<&[u8]>) -> Result<Self> {
        let parsed = json.map(|json| serde_json::from_slice(&finite(json))).transpose();
        Ok(parsed.map_err(|e| TextError::asset(TOKENIZER_CONFIG, e))?.unwrap_or_default())
    }

    /// The chat template, if there is one.
    pub(super) fn template(&self) -> Result<Option<&str>> {
        let list = match &self.chat_template {
            None => return Ok(None),
            Some(Templates::One(text)) => return Ok(Some(text)),
            Some(Templates::Named(list)) => list,
        };
        let default = list.iter().find(|named| named.name == DEFAULT).map(|named| named.template.as_str());
        if default.is_none() && !list.is_empty() {
            let names: Vec<&str> = list.iter().map(|named| named.name.as_str()).collect();
            let reason = format!("chat_template has templates named {}, but none named {DEFAULT:?}", names.join(", "));
            return Err(TextError::asset(TOKENIZER_CONFIG, reason));
        }
        Ok(default)
    }

    /// The special tokens, by the names that they have in templates. Those that the model lacks are left out.
    pub(super) fn special_tokens(&self) -> Result<Map<String, Value>> {
        let given = |key: &str| self.others.get(key).filter(|value| !value.is_null());
        let mut tokens = Map::new();
        for key in TOKENS {
            if let Some(token) = given(key).map(|value| parse::<Token>(key, value)).transpose()? {
                tokens.insert(key.into(), token.into());
            }
        }
        if let Some(list) = given(MORE_TOKENS).map(|value| parse::<Vec<Token>>(MORE_TOKENS, value)).transpose()? {
            tokens.insert(MORE_TOKENS.into(), list.into_iter().map(Value::from).collect());
        }
        for (name, token) in given(NAMED_TOKENS).and_then(Value::as_object).into_iter().flatten() {
            tokens.insert(name.clone(), parse::<Token>(name, token)?.into());
        }
        Ok(tokens)
    }
}
