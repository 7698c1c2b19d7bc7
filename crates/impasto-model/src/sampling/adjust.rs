//! What changes logits before the filters: masks, penalties and biases.

use super::SamplingParams;
use crate::{ModelError, Result};

/// The bias from which on a token is banned.
pub(super) const BAN: f32 = -100.0;

/// Applies the repetition penalty, once to each token of `context`, however often it occurs.
pub(super) fn repetition(logits: &mut [f32], context: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = vec![false; logits.len()];
    for &id in context {
        if let (Some(logit), Some(seen)) = (logits.get_mut(id as usize), seen.get_mut(id as usize))
            && !std::mem::replace(seen, true)
        {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Subtracts the presence penalty from each token of `generated`, and the frequency penalty as often as it occurs.
pub(super) fn occurrence(logits: &mut [f32], generated: &[u32], p: &SamplingParams) {
    if p.presence_penalty == 0.0 && p.frequency_penalty == 0.0 {
        return;
    }
    let mut ids = generated.to_vec();
    ids.sort_unstable();
    for same in ids.chunk_by(|a, b| a == b) {
        if let Some(logit) = logits.get_mut(same[0] as usize) {
            *logit -= p.presence_penalty + p.frequency_penalty * same.len() as f32;
        }
    }
}

/// Adds biases to the logits of tokens; [`BAN`] makes a token impossible.
///
/// # Errors
/// [`ModelError::BadOption`] for a token outside the vocabulary.
pub(super) fn bias(logits: &mut [f32], biases: &[(u32, f32)]) -> Result<()> {
    for &(id, bias) in biases {
        let outside = || ModelError::BadOption {
            name: "logit-bias",
            value: id.to_string(),
            rule: "the token id must be in the vocabulary",
        };
        let logit = logits.get_mut(id as usize).ok_or_else(outside)?;
        *logit = if bias <= BAN { f32::NEG_INFINITY } else { *logit + bias };
    }
    Ok(())
}

/// Makes all tokens impossible that a mask does not allow. Token `i` is bit `i % 32` of word `i / 32`; what the mask does
/// not reach is not allowed.
pub(super) fn mask(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        match word {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            _ => {
                let banned = logits.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0);
                banned.for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
            }
        }
    }
}
