//! The merges of a `tokenizer.json`, and scores that reproduce them.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use crate::gguf::hf::TOKENIZER;
use crate::gguf::hf::json::Object;
use crate::gguf::hf::rules::TranslationRule;
use crate::gguf::hf::spm::{self, Piece};
use crate::gguf::hf::vocabulary::Kind;

/// Reads the merges by rank. Older files have a pair as one string with a space.
pub(super) fn read<'a>(model: &'a Object) -> Result<Vec<(&'a str, &'a str)>, TranslationRule> {
    let broken = |rank: usize| TranslationRule::asset(TOKENIZER, format!("merge {rank} is not a pair of tokens"));
    let Some(merges) = model.get("merges") else { return Ok(Vec::new()) };
    let merges = merges.as_array().ok_or_else(|| model.broken("merges", "is not a list"))?;
    merges.iter().enumerate().map(|(rank, merge)| text_pair(merge).ok_or_else(|| broken(rank))).collect()
}

fn text_pair(merge: &Json) -> Option<(&str, &str)> {
    match merge {
        Json::String(joined) => joined.split_once(' '),
        Json::Array(pair) => match pair.as_slice() {
            [left, right] => Some((left.as_str()?, right.as_str()?)),
            _ => None,
        },
        _ => None,
    }
}

/// Scores such that merging by score equals merging by rank.
pub(super) struct Scores {
    /// The score of each normal token.
    pub by_id: HashMap<u32, f32>,
    /// Whether the module `spm` gives the merges the same ranks; otherwise merges to tokens with the same score are
    /// reordered.
    pub exact: bool,
}

/// Computes scores of normal tokens from all tokens with their ids and kinds.
///
/// SentencePiece joins any two tokens whose concatenation is a token, so the merges must be exactly these pairs, as in
/// every list made from a SentencePiece model. Other lists are refused, since llama.cpp would tokenize differently. If
/// the ranks of two tokens' merges overlap, the tokens get the same score.
pub(super) fn scores(tokens: &[(u32, &str, Kind)], merges: &[(&str, &str)]) -> Result<Scores, TranslationRule> {
    let ids: HashMap<&str, (u32, Kind)> = tokens.iter().map(|&(id, text, kind)| (text, (id, kind))).collect();
    let mut made = Vec::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        let joined = [*left, *right].concat();
        let Some(&(id, kind)) = ids.get(joined.as_str()) else {
            let rule = format!("merge {rank} gives \"{joined}\", which is not a token");
            return Err(TranslationRule::asset(TOKENIZER, rule));
        };
        // Added tokens are matched before anything is merged.
        if kind == Kind::Normal {
            made.push((id, (*left, *right)));
        }
    }
    let mut by_id = by_rank(made.iter().map(|&(id, _)| id));
    let mut next = made.len();
    for &(id, _, kind) in tokens {
        if kind == Kind::Normal && !by_id.contains_key(&id) {
            by_id.insert(id, -(next as f32));
            next += 1;
        }
    }
    let exact = check(tokens, &made, &by_id)?;
    Ok(Scores { by_id, exact })
}

/// Returns decreasing scores for the tokens that merges produce, by rank. Tokens whose ranks overlap have the same
/// score.
fn by_rank(made: impl Iterator<Item = u32> + Clone) -> HashMap<u32, f32> {
    let last: HashMap<u32, usize> = made.clone().zip(0..).collect();
    let mut scores = HashMap::new();
    let (mut group, mut end) = (0usize, 0);
    for (id, rank) in made.zip(0..) {
        if rank > end {
            group += 1;
        }
        end = end.max(last.get(&id).copied().unwrap_or(rank));
        scores.entry(id).or_insert(-(group as f32));
    }
    scores
}

/// Refuses missing pairs that SentencePiece would join. Returns whether the order is also the same.
fn check(
    tokens: &[(u32, &str, Kind)],
    made: &[(u32, (&str, &str))],
    scores: &HashMap<u32, f32>,
) -> Result<bool, TranslationRule> {
    let score = |id: u32, kind: Kind| match kind {
        Kind::Normal => scores.get(&id).copied(),
        Kind::UserDefined => Some(f32::INFINITY),
        _ => None,
    };
    let pieces: Vec<(Piece, &str)> =
        tokens.iter().filter_map(|&(id, text, kind)| Some((Piece { id, score: score(id, kind)? }, text))).collect();
    let normal: HashSet<&str> = tokens.iter().filter(|token| token.2 == Kind::Normal).map(|token| token.1).collect();
    let written: HashSet<(&str, &str)> = made.iter().map(|&(_, pair)| pair).collect();
    let mut in_order = made.iter().map(|&(_, pair)| pair);
    let mut exact = true;
    for (left, right) in spm::merges(&pieces)? {
        if !normal.contains([left, right].concat().as_str()) {
            continue;
        }
        if !written.contains(&(left, right)) {
            let what = format!("\"{left}\" and \"{right}\" are not merged, but sentencepiece would merge them");
            return Err(TranslationRule::unsupported(what));
        }
        exact &= in_order.next() == Some((left, right));
    }
    Ok(exact)
}
