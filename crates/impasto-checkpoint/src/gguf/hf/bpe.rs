//! The tokenizer model `gpt2`: byte-level BPE from tokens and merges.

use serde_json::{Map, Value as Json, json};

use super::pre::{Pre, byte_level};
use super::rules::TranslationRule;
use super::tokenizer::Parts;
use super::vocabulary::{MERGES, Vocabulary};

/// Builds the parts of `tokenizer.json`. The model's vocabulary contains all tokens, including added ones, so that
/// their ids are explicit.
pub(super) fn parts(vocabulary: &Vocabulary, pre: &Pre, merges: &[&str]) -> Result<Parts, TranslationRule> {
    let ids = vocabulary.ids(|token| token.text.into())?;
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let broken = |rule: String| TranslationRule::value(MERGES, format!("merge {rank} {rule}"));
        let (left, right) = split(merge).ok_or_else(|| broken(format!("\"{merge}\" is not a pair")))?;
        let merged = [left, right].concat();
        if let Some(stranger) = [left, right, &merged].into_iter().find(|text| !ids.contains_key(*text)) {
            return Err(broken(format!("\"{merge}\": \"{stranger}\" is not a token")));
        }
        pairs.push(json!([left, right]));
    }
    Ok(Parts {
        normalizer: pre.normalizer(),
        pre_tokenizer: pre.pre_tokenizer(),
        decoder: byte_level(true, true),
        model: model(vocabulary.iter().map(|token| (token.text.to_owned(), token.id)), pairs, None, pre.ignores_merges),
    })
}

/// Builds a BPE model. One with an unknown token falls back to bytes.
pub(super) fn model(
    vocabulary: impl Iterator<Item = (String, u32)>,
    merges: Vec<Json>,
    falls_back: Option<Json>,
    ignore_merges: bool,
) -> Json {
    let by_bytes = falls_back.is_some();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": falls_back.unwrap_or(Json::Null),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": by_bytes,
        "byte_fallback": by_bytes,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary.map(|(text, id)| (text, json!(id))).collect::<Map<_, _>>(),
        "merges": merges,
    })
}

/// Splits a merge at the first space that is not its first character.
fn split(merge: &str) -> Option<(&str, &str)> {
    let space = merge.char_indices().skip(1).find(|&(_, c)| c == ' ')?.0;
    let (left, right) = (merge.get(..space)?, merge.get(space + 1..)?);
    (!right.is_empty()).then_some((left, right))
}
