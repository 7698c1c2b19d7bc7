//! The cache of keys and values.

use crate::{ModelError, Result};

/// Keys and values of the tokens seen so far, binary32, one pair of matrices (tokens x width) per transformer block.
///
/// Room is taken up front for the tokens announced and grows when more come, so a short chat does not pay for the
/// longest context. The tokens themselves are kept, too: LongRoPE changes the keys of all of them when the context grows
/// past a certain length, and they are then run again.
#[derive(Debug)]
pub struct KvCache {
    blocks: Vec<Entry>,
    width: usize,
    tokens: Vec<u32>,
    /// Tokens in context, all in all, that the keys were made for.
    context: usize,
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

impl KvCache {
    /// An empty cache for `blocks` transformer blocks whose keys (and values) are `width` wide, with room for `tokens`.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when the room is refused.
    pub fn new(blocks: usize, width: usize, tokens: usize) -> Result<Self> {
        let mut cache = Self { blocks: Vec::new(), width, tokens: Vec::new(), context: 0 };
        cache.blocks.resize_with(blocks, Entry::default);
        cache.reserve(tokens)?;
        Ok(cache)
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

    /// Forgets every token and keeps the room.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all but the first `tokens`.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        let values = self.len() * self.width;
        for block in &mut self.blocks {
            block.keys.truncate(values);
            block.values.truncate(values);
        }
    }

    /// Bytes of room taken.
    pub fn memory_bytes(&self) -> usize {
        let blocks = self.blocks.iter().map(|b| (b.keys.capacity() + b.values.capacity()) * size_of::<f32>());
        blocks.sum::<usize>() + self.tokens.capacity() * size_of::<u32>()
    }

    /// Whether the cache was made for so many blocks of that width.
    pub(crate) fn fits(&self, blocks: usize, width: usize) -> bool {
        self.blocks.len() == blocks && self.width == width
    }

    /// Tokens in context that the keys were made for: those of the last call that extended them, and all before.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Takes room for `tokens` more, so that [`Self::extend`] cannot fail.
    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<()> {
        let too_much = ModelError::Memory { what: "key/value cache", bytes: u64::MAX };
        let values = tokens.checked_mul(self.width).ok_or(too_much)?;
        for block in &mut self.blocks {
            reserve(&mut block.keys, values)?;
            reserve(&mut block.values, values)?;
        }
        reserve(&mut self.tokens, tokens)
    }

    /// Appends rows to `block` and returns all its keys and values, the new ones last.
    pub(crate) fn extend(&mut self, block: usize, keys: &[f32], values: &[f32]) -> (&[f32], &[f32]) {
        let entry = &mut self.blocks[block];
        entry.keys.extend_from_slice(keys);
        entry.values.extend_from_slice(values);
        (&entry.keys, &entry.values)
    }

    /// Counts `tokens` as seen, after every block was extended by them in a context of `context` tokens.
    pub(crate) fn advance(&mut self, tokens: &[u32], context: usize) {
        self.tokens.extend_from_slice(tokens);
        self.context = context;
        debug_assert!(self.blocks.iter().all(|b| b.keys.len() == self.len() * self.width));
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
