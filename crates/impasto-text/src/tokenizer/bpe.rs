//! Byte pair encoding over flat tables. It gives the tokens of the `BPE` model of the library `tokenizers`, and loads
//! in a tenth of the time and memory.

use std::collections::BinaryHeap;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::vocabulary::Vocabulary;

/// The settings of a BPE model.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The token for characters that are not in the vocabulary. Without it they are dropped.
    pub unk_token: Option<String>,
    /// Whether adjacent unknown characters become one token.
    pub fuse_unk: bool,
    /// Whether an unknown character becomes the tokens of its bytes, if the vocabulary has them all.
    pub byte_fallback: bool,
    /// Whether a word that is a token is not merged from its characters.
    pub ignore_merges: bool,
}

/// Merges of two tokens into one, in the order of their priority.
#[derive(Debug)]
pub struct Merges {
    /// Left token, right token, result.
    rules: Vec<[u32; 3]>,
    /// Positions in `rules`, by the hash of the pair.
    ranks: HashTable<u32>,
    hasher: RandomState,
}

/// Why a merge is invalid.
#[derive(Debug, thiserror::Error)]
#[error("merge {rank} is not of two tokens into a token of the vocabulary")]
pub struct MergeRule {
    /// Position of the merge.
    pub rank: usize,
}

impl Merges {
    /// Creates merges from the left token, the right token and the result of each. A later one of the same pair replaces
    /// an earlier one.
    pub fn new(rules: Vec<[u32; 3]>) -> Self {
        let hasher = RandomState::new();
        let hash_of = |rank: u32| {
            let [left, right, _] = rules[rank as usize];
            hash(&hasher, left, right)
        };
        let mut ranks = HashTable::with_capacity(rules.len());
        for rank in 0..rules.len() as u32 {
            let is_same = |&other: &u32| rules[other as usize][..2] == rules[rank as usize][..2];
            match ranks.entry(hash_of(rank), is_same, |&other| hash_of(other)) {
                Entry::Occupied(mut place) => *place.get_mut() = rank,
                Entry::Vacant(place) => drop(place.insert(rank)),
            }
        }
        Self { rules, ranks, hasher }
    }

    /// Returns the rank of a pair and the token that it becomes.
    fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let is_same = |&rank: &u32| self.rules[rank as usize][..2] == [left, right];
        let rank = *self.ranks.find(hash(&self.hasher, left, right), is_same)?;
        Some((rank, self.rules[rank as usize][2]))
    }

    /// Left token, right token and result of each merge.
    pub fn rules(&self) -> &[[u32; 3]] {
        &self.rules
    }
}

fn hash(hasher: &RandomState, left: u32, right: u32) -> u64 {
    hasher.hash_one(u64::from(left) << 32 | u64::from(right))
}

/// A BPE model.
#[derive(Debug)]
pub struct Bpe {
    pub vocabulary: Vocabulary,
    pub merges: Merges,
    pub settings: Settings,
    /// The token of each byte, `<0x00>` to `<0xFF>`, where the vocabulary has it.
    bytes: Vec<Option<u32>>,
}

/// A token of a word that is being merged.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    /// Neighbors; `NONE` at the ends.
    previous: u32,
    next: u32,
    /// Length in bytes; 0 once it is merged into the previous symbol.
    length: u32,
}

const NONE: u32 = u32::MAX;

/// A possible merge. The greatest has the lowest rank, then the first position.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    order: std::cmp::Reverse<(u32, u32)>,
    result: u32,
}

impl Bpe {
    pub fn new(vocabulary: Vocabulary, merges: Merges, settings: Settings) -> Self {
        let bytes = (0..=255u8).map(|byte| vocabulary.id(&format!("<0x{byte:02X}>"))).collect();
        Self { vocabulary, merges, settings, bytes }
    }

    /// Calls `push` with each token of a word, and its length in bytes.
    ///
    /// # Errors
    /// If the token for unknown characters is not in the vocabulary.
    pub fn tokenize(&self, word: &str, push: &mut impl FnMut(u32, usize)) -> Result<(), String> {
        if self.settings.ignore_merges
            && let Some(id) = self.vocabulary.id(word)
        {
            push(id, word.len());
            return Ok(());
        }
        let mut symbols = self.symbols(word)?;
        self.merge(&mut symbols);
        symbols.iter().filter(|s| s.length > 0).for_each(|s| push(s.id, s.length as usize));
        Ok(())
    }

    /// Splits a word into characters, or into their bytes if the vocabulary does not have them.
    fn symbols(&self, word: &str) -> Result<Vec<Symbol>, String> {
        let mut symbols = Vec::with_capacity(word.len());
        let mut add = |id, length: usize| {
            let at = symbols.len() as u32;
            let previous = at.checked_sub(1).unwrap_or(NONE);
            symbols.push(Symbol { id, previous, next: at + 1, length: length as u32 });
        };
        let mut unknown: Option<(u32, usize)> = None;
        for (at, c) in word.char_indices() {
            let character = &word[at..at + c.len_utf8()];
            if let Some(id) = self.vocabulary.id(character) {
                unknown.take().into_iter().for_each(|(id, length)| add(id, length));
                add(id, character.len());
                continue;
            }
            if self.settings.byte_fallback {
                let ids = character.bytes().map(|byte| self.bytes[usize::from(byte)]);
                if ids.clone().all(|id| id.is_some()) {
                    // As in the library, unknown characters before these bytes come after them.
                    ids.flatten().for_each(|id| add(id, 1));
                    continue;
                }
            }
            let Some(token) = &self.settings.unk_token else { continue };
            let id = self.vocabulary.id(token);
            let id = id.ok_or_else(|| format!("unk_token {token:?} is not in the vocabulary"))?;
            unknown = match unknown {
                Some((id, length)) if self.settings.fuse_unk => Some((id, length + character.len())),
                before => {
                    before.into_iter().for_each(|(id, length)| add(id, length));
                    Some((id, character.len()))
                }
            };
        }
        unknown.into_iter().for_each(|(id, length)| add(id, length));
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        Ok(symbols)
    }

    /// Merges pairs until none is left: always the pair of the lowest rank, the first of equal ones.
    fn merge(&self, symbols: &mut [Symbol]) {
        let candidate = |symbols: &[Symbol], at: u32| {
            let left = symbols.get(at as usize)?;
            let right = symbols.get(left.next as usize)?;
            let (rank, result) = self.merges.find(left.id, right.id)?;
            Some(Candidate { order: std::cmp::Reverse((rank, at)), result })
        };
        let mut queue: BinaryHeap<_> = (0..symbols.len() as u32).filter_map(|at| candidate(symbols, at)).collect();
        while let Some(Candidate { order: std::cmp::Reverse((_, at)), result }) = queue.pop() {
            let left = symbols[at as usize];
            // Skip candidates whose symbols have changed since.
            let Some(&right) = symbols.get(left.next as usize).filter(|_| left.length > 0) else { continue };
            if self.merges.find(left.id, right.id).is_none_or(|(_, now)| now != result) {
                continue;
            }
            symbols[left.next as usize].length = 0;
            let merged = Symbol { id: result, next: right.next, length: left.length + right.length, ..left };
            symbols[at as usize] = merged;
            if let Some(after) = symbols.get_mut(right.next as usize) {
                after.previous = at;
            }
            queue.extend(candidate(symbols, merged.previous));
            queue.extend(candidate(symbols, at));
        }
    }
}
