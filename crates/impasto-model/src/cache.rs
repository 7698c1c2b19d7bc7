//! The cache of keys and values.

use crate::runtime::kv::KvStore;
use crate::{ModelError, Result};

/// Keys and values of the tokens seen so far, made by the model that it is for.
///
/// The tokens themselves are kept, too: LongRoPE changes the keys of all of them when the context grows past a certain
/// length, and they are then run again.
pub struct KvCache {
    store: Store,
    tokens: Vec<u32>,
    /// Tokens in context, all in all, that the keys were made for.
    context: usize,
}

/// Where keys and values lie.
enum Store {
    Plain(Plain),
    Paged(KvStore),
}

/// Binary32, one pair of matrices (tokens x width) per transformer block: the reference.
///
/// Room is taken up front for the tokens announced and grows when more come, so a short chat does not pay for the longest
/// context.
#[derive(Debug)]
struct Plain {
    blocks: Vec<Entry>,
    width: usize,
}

#[derive(Debug, Default)]
struct Entry {
    keys: Vec<f32>,
    values: Vec<f32>,
}

fn reserve<T>(data: &mut Vec<T>, additional: usize) -> Result<()> {
    let bytes = (additional as u64).saturating_mul(size_of::<T>() as u64);
    data.try_reserve(additional).map_err(|_| ModelError::Memory { what: "key/value cache", bytes })
}

impl Plain {
    fn reserve(&mut self, tokens: usize) -> Result<()> {
        let too_much = ModelError::Memory { what: "key/value cache", bytes: u64::MAX };
        let values = tokens.checked_mul(self.width).ok_or(too_much)?;
        for block in &mut self.blocks {
            reserve(&mut block.keys, values)?;
            reserve(&mut block.values, values)?;
        }
        Ok(())
    }

    fn truncate(&mut self, tokens: usize) {
        let values = tokens * self.width;
        for block in &mut self.blocks {
            block.keys.truncate(values);
            block.values.truncate(values);
        }
    }
}

impl KvCache {
    /// An empty cache for `blocks` transformer blocks whose keys (and values) are `width` wide, with room for `tokens`.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when the room is refused.
    pub fn new(blocks: usize, width: usize, tokens: usize) -> Result<Self> {
        let mut plain = Plain { blocks: Vec::new(), width };
        plain.blocks.resize_with(blocks, Entry::default);
        let mut cache = Self { store: Store::Plain(plain), tokens: Vec::new(), context: 0 };
        cache.reserve(tokens)?;
        Ok(cache)
    }

    /// An empty cache over a paged store.
    pub(crate) fn paged(store: KvStore) -> Self {
        Self { store: Store::Paged(store), tokens: Vec::new(), context: 0 }
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens seen.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Forgets every token. Pages are given back; other room is kept.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all but the first `tokens`.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        match &mut self.store {
            Store::Plain(plain) => plain.truncate(self.tokens.len()),
            Store::Paged(store) => store.truncate(self.tokens.len()),
        }
    }

    /// Bytes of room taken.
    pub fn memory_bytes(&self) -> usize {
        let store = match &self.store {
            Store::Plain(plain) => {
                let blocks = plain.blocks.iter().map(|b| (b.keys.capacity() + b.values.capacity()) * size_of::<f32>());
                blocks.sum::<usize>()
            }
            Store::Paged(store) => store.memory_bytes(),
        };
        store + self.tokens.capacity() * size_of::<u32>()
    }

    /// Whether the cache was made for so many blocks of that width by the reference decoder.
    pub(crate) fn fits(&self, blocks: usize, width: usize) -> bool {
        matches!(&self.store, Store::Plain(plain) if plain.blocks.len() == blocks && plain.width == width)
    }

    /// The paged store, if there is one.
    pub(crate) fn store(&mut self) -> Option<&mut KvStore> {
        match &mut self.store {
            Store::Plain(_) => None,
            Store::Paged(store) => Some(store),
        }
    }

    /// Tokens in context that the keys were made for: those of the last call that extended them, and all before.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Takes room for `tokens` more, so that [`Self::extend`] cannot fail.
    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<()> {
        match &mut self.store {
            Store::Plain(plain) => plain.reserve(tokens)?,
            Store::Paged(store) => store.reserve(tokens).map_err(ModelError::Kv)?,
        }
        reserve(&mut self.tokens, tokens)
    }

    /// Appends rows to `block` of the reference decoder's cache and returns all its keys and values, the new ones last.
    pub(crate) fn extend(&mut self, block: usize, keys: &[f32], values: &[f32]) -> (&[f32], &[f32]) {
        let Store::Plain(plain) = &mut self.store else { unreachable!("`fits` was asked") };
        let entry = &mut plain.blocks[block];
        entry.keys.extend_from_slice(keys);
        entry.values.extend_from_slice(values);
        (&entry.keys, &entry.values)
    }

    /// Counts `tokens` as seen, after every block was extended by them in a context of `context` tokens.
    pub(crate) fn advance(&mut self, tokens: &[u32], context: usize) {
        self.tokens.extend_from_slice(tokens);
        self.context = context;
        match &mut self.store {
            Store::Plain(plain) => {
                let values = self.tokens.len() * plain.width;
                debug_assert!(plain.blocks.iter().all(|b| b.keys.len() == values));
            }
            Store::Paged(store) => store.advance(tokens.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncate_keeps_the_first_rows() {
        let mut cache = KvCache::new(1, 2, 0).unwrap();
        cache.extend(0, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        cache.advance(&[7, 8], 2);
        cache.truncate(1);
        assert_eq!((cache.len(), cache.tokens(), cache.context()), (1, &[7][..], 2));
        assert_eq!(cache.extend(0, &[], &[]), (&[1.0, 2.0][..], &[5.0, 6.0][..]));
    }

    #[test]
    fn impossible_room_is_an_error() {
        assert!(matches!(KvCache::new(1, usize::MAX, 3), Err(ModelError::Memory { .. })));
        assert!(matches!(KvCache::new(1, 1, usize::MAX), Err(ModelError::Memory { .. })));
    }
}
