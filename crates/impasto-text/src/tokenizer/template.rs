//! Bounds on post-processors, which add special tokens to a text.

use serde_json::Value;
use tokenizers::Result;

/// Most pieces of a template, and most ids of a special token.
const MAX_PIECES: usize = 64;
/// Deepest nesting of sequences.
const MAX_DEPTH: usize = 4;

/// Checks a `post_processor`: no template may repeat the text.
///
/// # Errors
/// If it exceeds a bound.
pub fn check(json: &Value) -> Result<()> {
    check_nested(json, 0)
}

fn check_nested(json: &Value, depth: usize) -> Result<()> {
    let steps = json["processors"].as_array().into_iter().flatten();
    if depth > MAX_DEPTH {
        return Err(format!("sequences in sequences, more than {MAX_DEPTH} deep").into());
    }
    steps.clone().try_for_each(|step| check_nested(step, depth + 1))?;
    let special = json["special_tokens"].as_object().into_iter().flatten();
    let ids = special.filter_map(|(_, token)| Some(token.get("ids")?.as_array()?.len()));
    let (texts, pieces) = match &json["single"] {
        Value::String(pieces) => {
            let pieces = pieces.split_whitespace();
            (pieces.clone().filter(|piece| piece.starts_with('$')).count(), pieces.count())
        }
        Value::Array(pieces) => {
            let is_text = |piece: &&Value| {
                piece.get("Sequence").is_some() || piece.as_str().is_some_and(|piece| piece.starts_with('$'))
            };
            (pieces.iter().filter(is_text).count(), pieces.len())
        }
        _ => (0, 0),
    };
    if texts > 1 {
        return Err("a template that repeats the text".into());
    }
    if steps.count().max(pieces).max(ids.max().unwrap_or(0)) > MAX_PIECES {
        return Err(format!("a template or a sequence of more than {MAX_PIECES} pieces").into());
    }
    Ok(())
}
