//! The key/value cache.

use std::any::Any;

use crate::{ModelError, Result};

/// The key/value cache of one sequence. Only the model that created it can use it.
///
/// It also keeps the tokens: when the context grows past a threshold, LongRoPE changes the keys of all earlier tokens,
/// and the model must evaluate them again.
pub struct KvCache {
    store: Box<dyn KvStorage>,
    tokens: Vec<u32>,
    /// Length of the context, in tokens, for which the keys were computed.
    context: usize,
}

/// The storage of keys and values inside a [`KvCache`]; each network implements its own.
pub trait KvStorage: Any + Send + Sync {
    /// Allocates memory for `tokens` more tokens.
    ///
    /// # Errors
    /// When memory cannot be allocated; the store is then unchanged.
    fn reserve(&mut self, tokens: usize) -> Result<()>;

    /// Counts `tokens` more tokens, whose keys and values the network has already written.
    fn advance(&mut self, tokens: usize);

    /// Removes everything after the first `tokens` tokens, including rows that were written but not yet counted.
    fn truncate(&mut self, tokens: usize);

    /// Allocated bytes.
    fn memory_bytes(&self) -> usize;

    /// Returns an independent copy of the store.
    ///
    /// # Errors
    /// When memory cannot be allocated.
    fn fork(&self) -> Result<Box<dyn KvStorage>>;
}

/// The storage of the reference decoder: one pair of binary32 matrices (tokens x width) per transformer block.
///
/// Memory grows with the number of tokens, so a short chat does not pay for the longest context.
#[derive(Debug)]
pub(crate) struct Plain {
    blocks: Vec<Entry>,
    width: usize,
    tokens: usize,
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

#[cfg(feature = "decoder")]
impl Plain {
    /// Whether the store has `blocks` blocks of this width.
    pub(crate) fn fits(&self, blocks: usize, width: usize) -> bool {
        self.blocks.len() == blocks && self.width == width
    }

    /// Appends rows to `block` and returns all its keys and values, the new rows last.
    pub(crate) fn extend(&mut self, block: usize, keys: &[f32], values: &[f32]) -> (&[f32], &[f32]) {
        let entry = &mut self.blocks[block];
        entry.keys.extend_from_slice(keys);
        entry.values.extend_from_slice(values);
        (&entry.keys, &entry.values)
    }
}

impl KvStorage for Plain {
    fn reserve(&mut self, tokens: usize) -> Result<()> {
        let too_much = ModelError::Memory { what: "key/value cache", bytes: u64::MAX };
        let values = tokens.checked_mul(self.width).ok_or(too_much)?;
        for block in &mut self.blocks {
            reserve(&mut block.keys, values)?;
            reserve(&mut block.values, values)?;
        }
        Ok(())
    }

    fn advance(&mut self, tokens: usize) {
        self.tokens += tokens;
        debug_assert!(self.blocks.iter().all(|b| b.keys.len() == self.tokens * self.width));
    }

    fn truncate(&mut self, tokens: usize) {
        self.tokens = self.tokens.min(tokens);
        let values = self.tokens * self.width;
        for block in &mut self.blocks {
            block.keys.truncate(values);
            block.values.truncate(values);
        }
    }

    fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(|b| (b.keys.capacity() + b.values.capacity()) * size_of::<f32>()).sum()
    }

    fn fork(&self) -> Result<Box<dyn KvStorage>> {
        let mut fork = Self { blocks: Vec::with_capacity(self.blocks.len()), width: self.width, tokens: self.tokens };
        for block in &self.blocks {
            let mut copy = Entry::default();
            for (to, from) in [(&mut copy.keys, &block.keys), (&mut copy.values, &block.values)] {
                reserve(to, from.len())?;
                to.extend_from_slice(from);
            }
            fork.blocks.push(copy);
        }
        Ok(Box::new(fork))
    }
}

impl KvCache {
    /// Creates an empty cache for the reference decoder with `blocks` transformer blocks and keys (and values) of
    /// `width` elements, with memory for `tokens` tokens.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when memory cannot be allocated.
    pub fn new(blocks: usize, width: usize, tokens: usize) -> Result<Self> {
        let mut plain = Plain { blocks: Vec::new(), width, tokens: 0 };
        plain.blocks.resize_with(blocks, Entry::default);
        let mut cache = Self::of(Box::new(plain));
        cache.reserve(tokens)?;
        Ok(cache)
    }

    /// Creates an empty cache over a network's own store, which must be empty.
    pub fn of(store: Box<dyn KvStorage>) -> Self {
        Self { store, tokens: Vec::new(), context: 0 }
    }

    /// Number of tokens in the cache.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether the cache has no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Removes all tokens. Pages are freed; other memory stays allocated.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Removes all but the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        self.store.truncate(self.tokens.len());
    }

    /// Allocated bytes.
    pub fn memory_bytes(&self) -> usize {
        self.store.memory_bytes() + self.tokens.capacity() * size_of::<u32>()
    }

    /// Returns the store, mutably, if it has type `S`.
    pub fn store<S: KvStorage>(&mut self) -> Option<&mut S> {
        (&mut *self.store as &mut dyn Any).downcast_mut()
    }

    /// Returns the store if it has type `S`.
    pub fn store_ref<S: KvStorage>(&self) -> Option<&S> {
        (&*self.store as &dyn Any).downcast_ref()
    }

    /// Returns a cache with the same tokens. A paged network shares the pages until one side writes.
    ///
    /// # Errors
    /// When memory for the copy cannot be allocated.
    pub fn fork(&self) -> Result<Self> {
        Ok(Self { store: self.store.fork()?, tokens: self.tokens.clone(), context: self.context })
    }

    /// The context length, in tokens, for which the keys were computed: that of the last call of [`Self::advance`].
    pub fn context(&self) -> usize {
        self.context
    }

    /// Allocates memory for `tokens` more tokens.
    ///
    /// # Errors
    /// When memory cannot be allocated.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.store.reserve(tokens)?;
        reserve(&mut self.tokens, tokens)
    }

    /// Appends `tokens`, whose keys and values the network has written to every block, in a context of `context`
    /// tokens.
    pub fn advance(&mut self, tokens: &[u32], context: usize) {
        self.tokens.extend_from_slice(tokens);
        self.context = context;
        self.store.advance(tokens.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncate_keeps_the_first_rows() {
        let mut cache = KvCache::new(1, 2, 0).unwrap();
        cache.store::<Plain>().unwrap().extend(0, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]);
        cache.advance(&[7, 8], 2);
        cache.truncate(1);
        assert_eq!((cache.len(), cache.tokens(), cache.context()), (1, &[7][..], 2));
        assert_eq!(cache.store::<Plain>().unwrap().extend(0, &[], &[]), (&[1.0, 2.0][..], &[5.0, 6.0][..]));
    }

    #[test]
    fn forks_go_their_own_ways() {
        let mut cache = KvCache::new(1, 1, 0).unwrap();
        cache.store::<Plain>().unwrap().extend(0, &[1.0, 2.0], &[3.0, 4.0]);
        cache.advance(&[7, 8], 2);
        let mut fork = cache.fork().unwrap();
        fork.truncate(1);
        fork.store::<Plain>().unwrap().extend(0, &[9.0], &[9.0]);
        fork.advance(&[9], 2);
        assert_eq!((cache.tokens(), fork.tokens()), (&[7, 8][..], &[7, 9][..]));
        assert_eq!(cache.store_ref::<Plain>().unwrap().blocks[0].keys, [1.0, 2.0]);
        assert_eq!(fork.store_ref::<Plain>().unwrap().blocks[0].keys, [1.0, 9.0]);
    }

    #[test]
    fn impossible_room_is_an_error() {
        assert!(matches!(KvCache::new(1, usize::MAX, 3), Err(ModelError::Memory { .. })));
        assert!(matches!(KvCache::new(1, 1, usize::MAX), Err(ModelError::Memory { .. })));
    }
}
