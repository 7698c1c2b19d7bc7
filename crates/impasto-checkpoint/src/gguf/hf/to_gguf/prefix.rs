//! The space that SentencePiece-like tokenizers add before a text.

use serde_json::Value as Json;

use crate::gguf::hf::rules::TranslationRule;
use crate::gguf::hf::vocabulary::UNDERLINE;

/// Where a space is added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    Never,
    /// At the start of the text.
    First,
    /// Also after special tokens.
    Always,
}

/// Returns the prefix of a SentencePiece-like tokenizer; others are refused.
pub(super) fn space_prefix(normalizer: &Json, pre_tokenizer: &Json) -> Result<Prefix, TranslationRule> {
    let is_replace =
        |step: &Json| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == UNDERLINE;
    let is_prepend = |step: &Json| step["type"] == "Prepend" && step["prepend"] == UNDERLINE;
    let steps: Vec<&Json> = match (&normalizer["normalizers"], normalizer) {
        (Json::Array(steps), _) => steps.iter().collect(),
        (_, Json::Null) => Vec::new(),
        (_, one) => vec![one],
    };
    // After the replacement there are no spaces to split at.
    let splits_nothing =
        pre_tokenizer.is_null() || pre_tokenizer["type"] == "Split" && pre_tokenizer["pattern"]["String"] == " ";
    let metaspace = pre_tokenizer["type"] == "Metaspace"
        && pre_tokenizer["replacement"] == UNDERLINE
        && pre_tokenizer["split"] == false;
    match steps.as_slice() {
        [replace] if splits_nothing && is_replace(replace) => Ok(Prefix::Never),
        [prepend, replace] if splits_nothing && is_prepend(prepend) && is_replace(replace) => Ok(Prefix::Always),
        [] if metaspace => match pre_tokenizer["prepend_scheme"].as_str() {
            Some("never") => Ok(Prefix::Never),
            Some("first") => Ok(Prefix::First),
            _ => Ok(Prefix::Always),
        },
        _ => {
            let what =
                format!("a tokenizer with byte fallback, normalizer {normalizer} and pre-tokenizer {pre_tokenizer}");
            Err(TranslationRule::unsupported(what))
        }
    }
}
