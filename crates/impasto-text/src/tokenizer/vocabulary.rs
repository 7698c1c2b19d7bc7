//! The texts of tokens, without an allocation per token.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// The tokens of a vocabulary. Their texts lie one after another, in the order of their ids.
#[derive(Debug)]
pub struct Vocabulary {
    text: String,
    /// End of the text of each id. It begins where that of the previous id ends; an id without a token has no text.
    ends: Vec<u32>,
    /// Ids by the hash of their text.
    ids: HashTable<u32>,
    hasher: RandomState,
}

/// Why texts are not a vocabulary.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyRule {
    /// Two ids have the same text.
    #[error("token {0:?} has two ids")]
    Twice(String),
    /// The texts overlap, end inside a character or after the end.
    #[error("the texts of its tokens are cut wrongly")]
    Cut,
}

impl Vocabulary {
    /// Creates a vocabulary. Token `i` is the text from `ends[i - 1]` to `ends[i]`; an empty text means no token.
    ///
    /// # Errors
    /// If a text is cut wrongly, or appears twice.
    pub fn new(text: String, ends: Vec<u32>) -> Result<Self, VocabularyRule> {
        let hasher = RandomState::new();
        let mut ids = HashTable::with_capacity(ends.len());
        let mut start = 0;
        for (id, &end) in (0u32..).zip(&ends) {
            let token = text.get(start..end as usize).ok_or(VocabularyRule::Cut)?;
            start = end as usize;
            if token.is_empty() {
                continue;
            }
            let is_same = |&other: &u32| span(&text, &ends, other) == Some(token);
            let hash = |&other: &u32| hasher.hash_one(span(&text, &ends, other));
            match ids.entry(hasher.hash_one(Some(token)), is_same, hash) {
                Entry::Occupied(_) => return Err(VocabularyRule::Twice(token.to_owned())),
                Entry::Vacant(place) => drop(place.insert(id)),
            }
        }
        if start != text.len() {
            return Err(VocabularyRule::Cut);
        }
        Ok(Self { text, ends, ids, hasher })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// One more than the largest id.
    pub fn ids(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Returns the text of a token.
    pub fn text(&self, id: u32) -> Option<&str> {
        span(&self.text, &self.ends, id).filter(|text| !text.is_empty())
    }

    /// Returns the id of a text.
    pub fn id(&self, token: &str) -> Option<u32> {
        let is_same = |&id: &u32| span(&self.text, &self.ends, id) == Some(token);
        self.ids.find(self.hasher.hash_one(Some(token)), is_same).copied()
    }
}

fn span<'a>(text: &'a str, ends: &[u32], id: u32) -> Option<&'a str> {
    let end = *ends.get(id as usize)?;
    let start = id.checked_sub(1).map_or(0, |before| ends[before as usize]);
    text.get(start as usize..end as usize)
}
