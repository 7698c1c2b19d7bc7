//! Guesses from earlier text.

use impasto_core::rng::SplitMix64;

use super::{Draft, Known, Proposer};
use crate::Result;

/// Proposes what followed the last time that the last tokens occurred in the sequence (prompt lookup decoding, as in
/// transformers' `prompt_lookup_num_tokens`). Costs nothing, and helps where text repeats: code, quotations, summaries.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// The smallest and the largest number of last tokens to search for; longer matches are preferred.
    pub tokens: (usize, usize),
}

impl Default for Lookup {
    fn default() -> Self {
        Lookup { tokens: (2, 4) }
    }
}

impl Lookup {
    /// Returns what followed an earlier occurrence of the last tokens.
    fn find<'a>(&self, tokens: &'a [u32], most: usize) -> &'a [u32] {
        let (shortest, longest) = self.tokens;
        for length in (shortest.max(1)..=longest.min(tokens.len().saturating_sub(1))).rev() {
            let last = &tokens[tokens.len() - length..];
            // The latest occurrence, but for the last tokens themselves.
            if let Some(at) = tokens[..tokens.len() - 1].windows(length).rposition(|window| window == last) {
                let next = &tokens[at + length..];
                return &next[..next.len().min(most)];
            }
        }
        &[]
    }
}

impl Proposer for Lookup {
    fn propose(&mut self, known: &[Known<'_>], _: &mut SplitMix64) -> Result<Vec<Draft>> {
        let draft = |known: &Known<'_>| Draft { tokens: self.find(known.tokens, known.most).to_vec(), from: vec![] };
        Ok(known.iter().map(draft).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_longest_match_counts() {
        let lookup = Lookup::default();
        assert_eq!(lookup.find(&[1, 2, 3, 9, 1, 2, 4, 8, 1, 2], 2), [4, 8]);
        assert_eq!(lookup.find(&[7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2], 3), [3, 9, 1], "three tokens before two");
        assert_eq!(lookup.find(&[5, 5, 5, 5], 3), [5], "an occurrence may overlap the last tokens");
        assert!(lookup.find(&[1, 2, 3, 4], 3).is_empty());
        for tokens in [&[][..], &[1], &[1, 1]] {
            assert!(lookup.find(tokens, 3).is_empty(), "{tokens:?}");
        }
        assert!(lookup.find(&[1, 2, 3, 1, 2], 0).is_empty());
    }
}
