//! Special tokens: beginning, end, padding.

use serde_json::{Value as Json, json};

use super::keys::Keys;
use super::rules::TranslationRule;
use super::vocabulary::{Kind, Vocabulary};

pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(super) const UNK: &str = "tokenizer.ggml.unknown_token_id";
pub(super) const PAD: &str = "tokenizer.ggml.padding_token_id";
pub(super) const EOT: &str = "tokenizer.ggml.eot_token_id";
pub(super) const EOM: &str = "tokenizer.ggml.eom_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

/// Texts of tokens that end a turn or a text in the supported models. llama.cpp stops at these in any file
/// (`special_eog_ids` in `llama-vocab.cpp`), and the models list them in `generation_config.json`.
const ENDS: [&str; 8] =
    ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "<EOT>"];

/// The ids of special tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Special {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    /// Other tokens that end a turn.
    turns: Vec<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    /// Ids that are not those of tokens and that text does not need, one line each. They count as absent, as in
    /// llama.cpp.
    pub ignored: Vec<String>,
}

/// Values for absent keys, as in llama.cpp.
pub(super) struct Defaults {
    /// Ids of BOS, EOS and the unknown token.
    pub ids: [Option<u32>; 3],
    pub add_bos: bool,
}

impl Special {
    /// Reads the ids from the keys. They must be below `count`, if given.
    pub fn read(keys: &Keys, count: Option<usize>, defaults: &Defaults) -> Result<Special, TranslationRule> {
        let id = |key: &str, default: Option<u32>| match keys.u64(key)? {
            None => Ok(default.filter(|&id| count.is_none_or(|count| (id as usize) < count))),
            Some(id) => match u32::try_from(id) {
                Ok(id) if count.is_none_or(|count| (id as usize) < count) => Ok(Some(id)),
                _ => Err(TranslationRule::value(
                    key,
                    format!("{id} is not the id of one of {} tokens", count.unwrap_or(0)),
                )),
            },
        };
        let mut ignored = Vec::new();
        let mut optional = |key: &str| match id(key, None) {
            Err(rule @ TranslationRule::Value { .. }) => {
                ignored.push(format!("{rule}, so it is ignored"));
                Ok(None)
            }
            other => other,
        };
        let [bos, eos, unk] = defaults.ids;
        let special = Special {
            bos: id(BOS, bos)?,
            eos: id(EOS, eos)?,
            unk: id(UNK, unk)?,
            pad: optional(PAD)?,
            turns: [optional(EOT)?, optional(EOM)?].into_iter().flatten().collect(),
            add_bos: keys.bool(ADD_BOS)?.unwrap_or(defaults.add_bos),
            add_eos: keys.bool(ADD_EOS)?.unwrap_or(false),
            ignored,
        };
        for (wanted, there, key, id) in [
            (special.add_bos, special.bos.is_some(), ADD_BOS, BOS),
            (special.add_eos, special.eos.is_some(), ADD_EOS, EOS),
        ] {
            if wanted && !there && keys.bool(key)?.is_some() {
                return Err(TranslationRule::value(key, format!("true without \"{id}\"")));
            }
        }
        Ok(special)
    }

    /// Returns the ids that end a text: EOS first, then those that end a turn.
    pub fn ends(&self, vocabulary: &Vocabulary) -> Vec<u32> {
        let by_text = vocabulary.iter().filter(|token| token.kind != Kind::Normal && ENDS.contains(&token.text));
        let mut ends = Vec::new();
        for id in self.eos.into_iter().chain(self.turns.iter().copied()).chain(by_text.map(|token| token.id)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }

    /// Returns the fields of `config.json`.
    pub fn config(&self) -> Vec<(&'static str, Json)> {
        let ids = [("bos_token_id", self.bos), ("eos_token_id", self.eos), ("pad_token_id", self.pad)];
        ids.into_iter().filter_map(|(key, id)| Some((key, json!(id?)))).collect()
    }
}
