//! The tokenizer model `llama`: SentencePiece merges, ordered by score, as BPE with byte fallback.
//!
//! A SentencePiece BPE model repeatedly joins the two adjacent tokens whose result has the best score. The library
//! tokenizers requires a ranked list of pairs: all ways to split a token into two tokens, by the score of the token,
//! best first. transformers makes the same list from a SentencePiece model (`generate_merges` in
//! `convert_slow_tokenizer.py`).

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Value as Json, json};

use super::bpe;
use super::keys::Keys;
use super::rules::TranslationRule;
use super::tokenizer::Parts;
use super::vocabulary::{Kind, SCORES, TOKENS, Token, UNDERLINE, Vocabulary};

/// Longest token, in bytes, whose merges are searched; bounds the time, which is quadratic in it.
const MAX_PIECE: usize = 512;

pub(super) const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const REMOVE_EXTRA_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// Settings of this kind of vocabulary besides the tokens.
pub(super) struct Spm<'a> {
    scores: Option<&'a [f32]>,
    add_space_prefix: bool,
    removes_spaces: bool,
}

/// Returns the text of a token in `tokenizer.json`. In GGUF, user-defined tokens contain spaces, and all others
/// [`UNDERLINE`].
pub(super) fn spelled(token: Token<'_>) -> Cow<'_, str> {
    if token.kind == Kind::UserDefined { token.text.replace(' ', UNDERLINE).into() } else { token.text.into() }
}

impl<'a> Spm<'a> {
    pub fn read(keys: &Keys<'a>, tokens: usize) -> Result<Spm<'a>, TranslationRule> {
        let scores = keys.f32s(SCORES)?;
        if let Some(scores) = scores {
            if scores.len() != tokens {
                let rule = format!("{} entries for {tokens} tokens", scores.len());
                return Err(TranslationRule::value(SCORES, rule));
            }
            if let Some(id) = scores.iter().position(|score| score.is_nan()) {
                return Err(TranslationRule::value(SCORES, format!("entry {id} is not a number")));
            }
        }
        Ok(Spm {
            scores,
            add_space_prefix: keys.bool(ADD_SPACE_PREFIX)?.unwrap_or(true),
            removes_spaces: keys.bool(REMOVE_EXTRA_SPACES)?.unwrap_or(false),
        })
    }

    /// Builds the parts of `tokenizer.json`.
    pub fn parts(&self, vocabulary: &Vocabulary, unk: Option<u32>) -> Result<Parts, TranslationRule> {
        if self.removes_spaces {
            return Err(TranslationRule::unsupported("the tokenizer removes spaces"));
        }
        let Some(scores) = self.scores else {
            return Err(TranslationRule::unsupported("the tokens have no scores, so merges have no order"));
        };
        let ids = vocabulary.ids(spelled)?;
        let piece = |token: Token<'_>| {
            let score = match token.kind {
                Kind::Normal => *scores.get(token.id as usize)?,
                // Matched before anything is merged.
                Kind::UserDefined => f32::INFINITY,
                _ => return None,
            };
            Some(Piece { id: token.id, score })
        };
        let texts: Vec<(Piece, Cow<str>)> =
            vocabulary.iter().filter_map(|token| Some((piece(token)?, spelled(token)))).collect();
        let pieces: Vec<(Piece, &str)> = texts.iter().map(|(piece, text)| (*piece, text.as_ref())).collect();
        check_scores(&pieces)?;
        let pairs = merges(&pieces)?.into_iter().map(|(left, right)| json!([left, right])).collect();
        let unk = unk.and_then(|id| vocabulary.text(id));
        let mut ordered: Vec<(String, u32)> = ids.into_iter().map(|(text, id)| (text.into_owned(), id)).collect();
        ordered.sort_unstable_by_key(|&(_, id)| id);
        Ok(Parts {
            normalizer: self.normalizer(),
            pre_tokenizer: Json::Null,
            decoder: self.decoder(),
            model: bpe::model(ordered.into_iter(), pairs, Some(json!(unk)), false),
        })
    }

    fn normalizer(&self) -> Json {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": UNDERLINE});
        if !self.add_space_prefix {
            return replace;
        }
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": UNDERLINE}, replace]})
    }

    fn decoder(&self) -> Json {
        let mut steps = vec![
            json!({"type": "Replace", "pattern": {"String": UNDERLINE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.add_space_prefix {
            steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": steps})
    }
}

/// A token that merges can produce, without its text.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub id: u32,
    pub score: f32,
}

/// Refuses equal scores, which some converters write as placeholders and which give no order.
fn check_scores(pieces: &[(Piece, &str)]) -> Result<(), TranslationRule> {
    let is_made = |&&(piece, text): &&(Piece, &str)| piece.score.is_finite() && text.chars().nth(1).is_some();
    let mut scores = pieces.iter().filter(is_made).map(|(piece, _)| piece.score);
    let Some(first) = scores.next() else { return Ok(()) };
    let mut rest = scores.peekable();
    if rest.peek().is_some() && rest.all(|score| score == first) {
        return Err(TranslationRule::unsupported("all tokens have the same score, so merges have no order"));
    }
    Ok(())
}

/// Returns every pair of pieces whose concatenation is a piece, by the score of the result, best first; among equal
/// scores, the longer left side first.
pub(super) fn merges<'p>(pieces: &[(Piece, &'p str)]) -> Result<Vec<(&'p str, &'p str)>, TranslationRule> {
    let known: HashSet<&str> = pieces.iter().map(|&(_, text)| text).collect();
    let mut found = Vec::new();
    for &(Piece { id, score }, text) in pieces {
        if text.len() > MAX_PIECE {
            let rule = format!("token {id} has {} bytes, at most {MAX_PIECE} can be merged", text.len());
            return Err(TranslationRule::value(TOKENS, rule));
        }
        let characters = text.chars().count();
        for (before, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            if known.contains(left) && known.contains(right) {
                found.push((score, before, characters - before, left, right));
            }
        }
    }
    // Adding 0 turns -0 into 0, so that both compare equal.
    found.sort_by(|a, b| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then((b.1, b.2).cmp(&(a.1, a.2))));
    Ok(found.into_iter().map(|(_, _, _, left, right)| (left, right)).collect())
}
