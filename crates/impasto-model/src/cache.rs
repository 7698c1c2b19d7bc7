//! The cache of keys and values.

use crate::{ModelError, Result};

/// Keys and values of the tokens seen so far, binary32, one pair of matrices (tokens x width) per transformer block.
///
/// Room is taken up front for the tokens announced and grows when more come, so a short chat does not pay for the
/// longest context.
#[derive(Debug)]
pub struct KvCache {
    blocks: Vec<Entry>,
    width: usize,
    len: usize,
}

#[derive(Debug, Default)]
struct Entry {
    keys: Vec<f32>,
    values: Vec<f32>,
}

fn reserve(data: &mut Vec<f32>, additional: usize) -> Result<()> {
    let bytes = (additional as u64).saturating_mul(size_of::<f32>() as u64);
    data.try_reserve(additional).map_err(|_| ModelError::Memory { what: "key/value cache", bytes })
}

impl KvCache {
    /// An empty cache for `blocks` transformer blocks whose keys (and values) are `width` wide, with room for `tokens`.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when the room is refused.
    pub fn new(blocks: usize, width: usize, tokens: usize) -> Result<Self> {
        let mut cache = Self { blocks: Vec::new(), width, len: 0 };
        cache.blocks.resize_with(blocks, Entry::default);
        cache.reserve(tokens)?;
        Ok(cache)
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every token and keeps the room.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all but the first `tokens`.
    pub fn truncate(&mut self, tokens: usize) {
        self.len = self.len.min(tokens);
        for block in &mut self.blocks {
            block.keys.truncate(self.len * self.width);
            block.values.truncate(self.len * self.width);
        }
    }

    /// Bytes of room taken.
    pub fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(|b| (b.keys.capacity() + b.values.capacity()) * size_of::<f32>()).sum()
    }

    /// Whether the cache was made for so many blocks of that width.
    pub(crate) fn fits(&self, blocks: usize, width: usize) -> bool {
        self.blocks.len() == blocks && self.width == width
    }

    /// Takes room for `tokens` more, so that [`Self::extend`] cannot fail.
    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<()> {
        let too_much = ModelError::Memory { what: "key/value cache", bytes: u64::MAX };
        let values = tokens.checked_mul(self.width).ok_or(too_much)?;
        for block in &mut self.blocks {
            reserve(&mut block.keys, values)?;
            reserve(&mut block.values, values)?;
        }
        Ok(())
    }

    /// Appends rows to `block` and returns all its keys and values, the new ones last.
    pub(crate) fn extend(&mut self, block: usize, keys: &[f32], values: &[f32]) -> (&[f32], &[f32]) {
        let entry = &mut self.blocks[block];
        entry.keys.extend_from_slice(keys);
        entry.values.extend_from_slice(values);
        (&entry.keys, &entry.values)
    }

    /// Counts `tokens` as seen, after every block was extended by them.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
        debug_assert!(self.blocks.iter().all(|b| b.keys.len() == self.len * self.width));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncate_keeps_the_first_rows() {
        let mut cache = KvCache::new(1, 2, 0).unwrap();
        cache.extend(0, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        cache.advance(2);
        cache.truncate(1);
        assert_eq!(cache.len(), 1);
        assert_eq!(cache.extend(0, &[], &[]), (&[1.0, 2.0][..], &[5.0, 6.0][..]));
    }

    #[test]
    fn impossible_room_is_an_error() {
        assert!(matches!(KvCache::new(1, usize::MAX, 3), Err(ModelError::Memory { .. })));
        assert!(matches!(KvCache::new(1, 1, usize::MAX), Err(ModelError::Memory { .. })));
    }
}
