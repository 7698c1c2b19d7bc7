//! Converts `tokenizer.json` to tokens, types, and merges or scores.

use serde_json::Value as Json;

use crate::gguf::hf::json::Object;
use crate::gguf::hf::pre::Pre;
use crate::gguf::hf::rules::TranslationRule;
use crate::gguf::hf::spm::ADD_SPACE_PREFIX;
use crate::gguf::hf::tokenizer::{MODEL, PRE};
use crate::gguf::hf::vocabulary::{Kind, MERGES, SCORES, TOKEN_TYPE, TOKENS, UNDERLINE, padding};

use super::FromAssets;
use super::merges;
use super::prefix::{Prefix, space_prefix};
use super::tokens::{Token, Tokens};

/// Scores that llama.cpp's converter gives to tokens that are not merged.
const ADDED_SCORE: f32 = -1000.0;
const PADDING_SCORE: f32 = -10_000.0;

/// Writes the keys of the vocabulary, padded to `rows` tokens.
pub(super) fn write(tokenizer: &Object, rows: u32, made: &mut FromAssets) -> Result<Tokens, TranslationRule> {
    let model = tokenizer.object("model")?;
    let model = tokenizer.needed("model", model)?;
    let kind = model.str("type")?.unwrap_or("BPE");
    if kind != "BPE" {
        return Err(TranslationRule::unsupported(format!("a tokenizer of type {kind}")));
    }
    let tokens = Tokens::read(tokenizer, &model, rows)?;
    let merges = merges::read(&model)?;
    let steps = Steps {
        normalizer: tokenizer.get("normalizer").unwrap_or(&Json::Null),
        pre_tokenizer: tokenizer.get("pre_tokenizer").unwrap_or(&Json::Null),
    };
    if model.bool("byte_fallback")?.unwrap_or(false) {
        write_pieces(&tokens, &merges, &steps, made)?;
    } else {
        write_bytes(&tokens, &merges, &steps, model.bool("ignore_merges")?.unwrap_or(false), made)?;
    }
    Ok(tokens)
}

/// The processing of a text before merges.
struct Steps<'a> {
    normalizer: &'a Json,
    pre_tokenizer: &'a Json,
}

/// Writes a SentencePiece-like vocabulary (`llama`).
fn write_pieces(
    tokens: &Tokens,
    merges: &[(&str, &str)],
    steps: &Steps,
    made: &mut FromAssets,
) -> Result<(), TranslationRule> {
    let prefix = space_prefix(steps.normalizer, steps.pre_tokenizer)?;
    if prefix == Prefix::First {
        made.notes.push("llama.cpp adds a space after special tokens too, not only at the start of a text".into());
    }
    let texts: Vec<(u32, &str, Kind)> = tokens.iter().map(|(id, t)| (id, t.text.as_str(), t.kind)).collect();
    let scores = merges::scores(&texts, merges)?;
    if !scores.exact {
        made.notes.push("merges of equal score are in a different order than in sentencepiece".into());
    }
    let score = |(id, token): (usize, &Option<Token>)| match token.as_ref().map(|token| token.kind) {
        None => PADDING_SCORE,
        Some(Kind::Normal) => scores.by_id.get(&(id as u32)).copied().unwrap_or(ADDED_SCORE),
        Some(Kind::Byte) => 0.0,
        Some(_) => ADDED_SCORE,
    };
    made.metadata.insert(MODEL, "llama");
    made.metadata.insert(PRE, "default");
    write_tokens(tokens, |token| spelled(token, true), made);
    made.metadata.insert(SCORES, tokens.places().iter().enumerate().map(score).collect::<Vec<f32>>());
    made.metadata.insert(ADD_SPACE_PREFIX, prefix != Prefix::Never);
    Ok(())
}

/// Writes a byte-level vocabulary (`gpt2`).
fn write_bytes(
    tokens: &Tokens,
    merges: &[(&str, &str)],
    steps: &Steps,
    ignores_merges: bool,
    made: &mut FromAssets,
) -> Result<(), TranslationRule> {
    let pre = Pre::of_json(steps.normalizer, steps.pre_tokenizer, ignores_merges)?;
    if let Some((left, right)) = merges.iter().find(|(left, right)| left.contains(' ') || right.contains(' ')) {
        return Err(TranslationRule::unsupported(format!("a merge with a space, \"{left}\" and \"{right}\"")));
    }
    if pre.composes {
        made.notes.push("llama.cpp does not normalize text to Unicode NFC, as this tokenizer does".into());
    }
    made.metadata.insert(MODEL, "gpt2");
    made.metadata.insert(PRE, pre.name());
    write_tokens(tokens, |token| spelled(token, false), made);
    let joined: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    made.metadata.insert(MERGES, joined);
    Ok(())
}

fn write_tokens(tokens: &Tokens, spelled: impl Fn(&Token) -> String, made: &mut FromAssets) {
    let text = |(id, token): (usize, &Option<Token>)| token.as_ref().map_or_else(|| padding(id), &spelled);
    let kind = |token: &Option<Token>| token.as_ref().map_or(Kind::Unused, |token| token.kind) as i32;
    made.metadata.insert(TOKENS, tokens.places().iter().enumerate().map(text).collect::<Vec<String>>());
    made.metadata.insert(TOKEN_TYPE, tokens.places().iter().map(kind).collect::<Vec<i32>>());
}

/// Returns the text of a token in GGUF. User-defined tokens contain spaces, since llama.cpp searches for them in the
/// raw text.
fn spelled(token: &Token, sentencepiece: bool) -> String {
    if sentencepiece && token.kind == Kind::UserDefined {
        token.text.replace(UNDERLINE, " ")
    } else {
        token.text.clone()
    }
}
