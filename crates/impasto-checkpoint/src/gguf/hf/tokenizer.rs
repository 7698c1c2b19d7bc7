//! Builds `tokenizer.json`, `tokenizer_config.json` and `generation_config.json` from the keys of the tokenizer.

use std::borrow::Cow;

use serde_json::{Map, Value as Json, json};

use super::keys::Keys;
use super::pre::Pre;
use super::rules::TranslationRule;
use super::special::{Defaults, Special};
use super::vocabulary::{Kind, Token, Vocabulary};
use super::{Architecture, bpe, json, spm};

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const HUGGING_FACE: &str = "tokenizer.huggingface.json";
pub(super) const CHAT: &str = "tokenizer.chat_template";

/// The kind of tokenizer.
enum Model<'a> {
    /// `gpt2`: merges over bytes, within the pieces of a pre-tokenizer.
    Bpe { pre: Result<&'static Pre, TranslationRule>, merges: Vec<&'a str> },
    /// `llama`: merges by score, over characters.
    Spm(spm::Spm<'a>),
    /// Another kind, with this name.
    Other(&'a str),
}

/// The tokenizer of a GGUF file.
pub(super) struct Tokenizer<'a> {
    model: Model<'a>,
    vocabulary: Vocabulary<'a>,
    special: Special,
    /// The whole `tokenizer.json`, if the file contains it.
    original: Option<&'a str>,
    /// Whether special tokens absorb the white space after them.
    strips: bool,
    context: Option<u64>,
}

/// The parts of `tokenizer.json` that depend on the kind of tokenizer.
pub(super) struct Parts {
    pub normalizer: Json,
    pub pre_tokenizer: Json,
    pub decoder: Json,
    pub model: Json,
}

impl<'a> Tokenizer<'a> {
    /// Reads the tokenizer from the keys; `None` if the file has none.
    pub fn read(keys: &Keys<'a>) -> Result<Option<Tokenizer<'a>>, TranslationRule> {
        let name = match keys.str(MODEL)? {
            None | Some("no_vocab" | "none") => return Ok(None),
            Some(name) => name,
        };
        let (vocabulary, model, defaults) = match name {
            "gpt2" => {
                let pre = Pre::of_gguf(keys.str(PRE)?);
                let add_bos = pre.as_ref().is_ok_and(|pre| pre.adds_bos);
                let merges = keys.required(super::vocabulary::MERGES, keys.strings(super::vocabulary::MERGES)?)?;
                (Vocabulary::read(keys)?, Model::Bpe { pre, merges }, Defaults { ids: [None; 3], add_bos })
            }
            "llama" => {
                let vocabulary = Vocabulary::read(keys)?;
                let model = Model::Spm(spm::Spm::read(keys, vocabulary.len())?);
                (vocabulary, model, Defaults { ids: [Some(1), Some(2), Some(0)], add_bos: true })
            }
            other => (Vocabulary::default(), Model::Other(other), Defaults { ids: [None; 3], add_bos: false }),
        };
        let count = (!matches!(model, Model::Other(_))).then(|| vocabulary.len());
        let strips = matches!(model, Model::Spm(_)) && keys.architecture().is_ok_and(|a| a == Architecture::Phi3);
        Ok(Some(Tokenizer {
            special: Special::read(keys, count, &defaults)?,
            original: keys.str(HUGGING_FACE)?,
            context: keys.u64(&keys.own("context_length"))?,
            model,
            vocabulary,
            strips,
        }))
    }

    /// Returns the number of ids.
    pub fn token_count(&self) -> usize {
        self.vocabulary.len()
    }

    pub fn special(&self) -> &Special {
        &self.special
    }

    /// Builds the bytes of `generation_config.json`.
    pub fn generation_config(&self) -> Result<Option<Vec<u8>>, TranslationRule> {
        let mut config: Map<_, _> = self.special.config().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let ends = self.special.ends(&self.vocabulary);
        if !ends.is_empty() {
            config.insert("eos_token_id".to_owned(), json!(ends));
        }
        if config.is_empty() { Ok(None) } else { json::pretty(&Json::Object(config)).map(Some) }
    }

    /// Builds the bytes of `tokenizer.json`.
    pub fn json(&self) -> Result<Option<Vec<u8>>, TranslationRule> {
        if let Some(original) = self.original {
            json::Object::parse(super::TOKENIZER, original.as_bytes())?;
            return Ok(Some(original.as_bytes().to_vec()));
        }
        let parts = match &self.model {
            Model::Bpe { pre, merges } => bpe::parts(&self.vocabulary, pre.clone()?, merges)?,
            Model::Spm(spm) => spm.parts(&self.vocabulary, self.special.unk)?,
            Model::Other(name) => {
                return Err(TranslationRule::unsupported(format!("tokenizer model \"{name}\" is not known")));
            }
        };
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": parts.decoder,
            "model": parts.model,
        });
        json::compact(&json).map(Some)
    }

    /// Builds the bytes of `tokenizer_config.json`.
    pub fn config(&self, chat_template: Option<&Json>) -> Result<Option<Vec<u8>>, TranslationRule> {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        let special = &self.special;
        for (key, id) in [
            ("bos_token", special.bos),
            ("eos_token", special.eos),
            ("unk_token", special.unk),
            ("pad_token", special.pad),
        ] {
            if let Some(text) = id.and_then(|id| self.vocabulary.text(id)) {
                config.insert(key.into(), json!(text));
            }
        }
        config.insert("add_bos_token".into(), json!(special.add_bos));
        config.insert("add_eos_token".into(), json!(special.add_eos));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        if let Some(context) = self.context {
            config.insert("model_max_length".into(), json!(context));
        }
        if let Some(template) = chat_template {
            config.insert("chat_template".into(), template.clone());
        }
        json::pretty(&Json::Object(config)).map(Some)
    }

    fn added_tokens(&self) -> Vec<Json> {
        let added = self.vocabulary.iter().filter(|token| token.kind.is_added());
        added
            .map(|token| {
                json!({
                    "id": token.id,
                    "content": self.spelled(token),
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": self.strips && !["<unk>", "<s>", "<|endoftext|>"].contains(&token.text),
                    "normalized": false,
                    "special": token.kind != Kind::UserDefined,
                })
            })
            .collect()
    }

    fn spelled(&self, token: Token<'a>) -> Cow<'a, str> {
        match self.model {
            Model::Spm(_) => spm::spelled(token),
            _ => token.text.into(),
        }
    }

    /// Returns the step that adds tokens before and after each text.
    fn post_processor(&self) -> Json {
        let token = |wanted: bool, id: Option<u32>| {
            let id = id.filter(|_| wanted)?;
            Some((id, self.vocabulary.text(id)?))
        };
        let before = token(self.special.add_bos, self.special.bos);
        let after = token(self.special.add_eos, self.special.eos);
        if before.is_none() && after.is_none() {
            return Json::Null;
        }
        let special = |found: Option<(u32, &str)>, type_id: u32| {
            found.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": type_id}}))
        };
        let text = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
        let around = |name, type_id| -> Vec<Json> {
            [special(before, type_id), Some(text(name, type_id)), special(after, type_id)]
                .into_iter()
                .flatten()
                .collect()
        };
        let used: Map<String, Json> = [before, after]
            .into_iter()
            .flatten()
            .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        let pair: Vec<Json> = around("A", 0).into_iter().chain(around("B", 1)).collect();
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": used})
    }
}

/// Returns the template or, if there are several, a list of them as in transformers.
pub(super) fn chat_template(keys: &Keys) -> Result<Option<Json>, TranslationRule> {
    let default = keys.str(CHAT)?;
    let prefix = format!("{CHAT}.");
    let mut named = Vec::new();
    for (key, _) in keys.beginning_with(&prefix) {
        if let (Some(name), Some(template)) = (key.strip_prefix(&prefix), keys.str(key)?) {
            named.push(json!({"name": name, "template": template}));
        }
    }
    if named.is_empty() {
        return Ok(default.map(|template| json!(template)));
    }
    named.splice(0..0, default.map(|template| json!({"name": "default", "template": template})));
    Ok(Some(Json::Array(named)))
}
