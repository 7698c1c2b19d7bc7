//! Keys and values of one sequence.

use std::ops::Range;
use std::sync::Arc;

use super::pages::{PAGE, Page, Pages};
use super::plane::{Plane, Side};
use super::{KvError, KvLayout};

/// Keys and values of one sequence. Each transformer block has pages of [`PAGE`] tokens, allocated as needed.
///
/// A pass over T tokens calls [`reserve`](Self::reserve), then for each block [`append`](Self::append) and
/// [`attend`](super::attend), then [`advance`](Self::advance). A pass that is abandoned before `advance` has no effect
/// on the sequence.
pub struct KvStore {
    pages: Arc<Pages>,
    blocks: Vec<Block>,
    kv_heads: usize,
    dim: usize,
    len: usize,
    /// Working memory for rotating a head.
    work: Vec<f32>,
}

/// The pages of a transformer block.
pub(super) struct Block {
    pub(super) keys: Half,
    pub(super) values: Half,
    /// Number of tokens appended, including those that the sequence has not advanced over.
    pub(super) filled: usize,
}

/// The pages of keys or of values.
#[derive(Clone)]
pub(super) struct Half {
    pub(super) plane: Plane,
    pages: Vec<Arc<Page>>,
}

impl Half {
    fn new(plane: Plane) -> Self {
        Self { plane, pages: Vec::new() }
    }

    /// Returns the bytes of page `i`.
    pub(super) fn page(&self, i: usize) -> &[u8] {
        self.pages[i].bytes()
    }

    /// Allocates pages for `tokens` tokens in total, of which `len` exist. Ensures that the page of token `len` is not
    /// shared with another sequence.
    fn reserve(&mut self, from: &Arc<Pages>, bytes: usize, len: usize, tokens: usize) -> Result<(), KvError> {
        if len < tokens
            && let Some(last) = self.pages.get_mut(len / PAGE)
            && Arc::get_mut(last).is_none()
        {
            *last = Arc::new(last.copy()?);
        }
        let wanted = tokens.div_ceil(PAGE);
        let more = wanted.saturating_sub(self.pages.len());
        // `try_reserve` grows by doubling, like `Vec::push`; this only allocates the pointers.
        self.pages.try_reserve(more).map_err(|_| KvError::Memory { bytes: more.saturating_mul(size_of::<usize>()) })?;
        while self.pages.len() < wanted {
            self.pages.push(Arc::new(from.take(bytes)?));
        }
        Ok(())
    }

    /// Writes rows of `kv_heads` heads, from token `at` on.
    fn write(&mut self, at: usize, rows: &[f32], kv_heads: usize, work: &mut [f32]) {
        let (dim, plane) = (work.len(), self.plane);
        let mut rows = rows.chunks_exact(kv_heads * dim);
        let mut token = at;
        while rows.len() > 0 {
            let page = self.pages.get_mut(token / PAGE).and_then(Arc::get_mut);
            let page = page.expect("room for the tokens was reserved").bytes_mut();
            let here = rows.len().min(PAGE - token % PAGE);
            for (row, slot) in rows.by_ref().take(here).zip(token % PAGE..) {
                for (head, x) in row.chunks_exact(dim).enumerate() {
                    plane.write(page, head, slot, x, work);
                }
            }
            token += here;
        }
    }
}

impl KvStore {
    /// Creates an empty store for `blocks` transformer blocks with `kv_heads` heads of width `head_dim`. Its pages are
    /// counted in `pages`.
    ///
    /// # Errors
    /// [`KvError::Shape`] if heads are empty or too large, [`KvError::Block`] if the layout names further blocks.
    pub fn new(
        pages: Arc<Pages>,
        blocks: usize,
        kv_heads: usize,
        head_dim: usize,
        layout: &KvLayout,
    ) -> Result<Self, KvError> {
        layout.check(blocks)?;
        let block = |block| {
            let (keys, values) = layout.of(block);
            let half = |format, side| Plane::new(format, side, kv_heads, head_dim).map(Half::new);
            Ok(Block { keys: half(keys, Side::Keys)?, values: half(values, Side::Values)?, filled: 0 })
        };
        // Checks the shape even if there are no blocks, because other code relies on it.
        Plane::new(super::KvFormat::F32, Side::Keys, kv_heads, head_dim)?;
        let blocks = (0..blocks).map(block).collect::<Result<_, KvError>>()?;
        Ok(Self { pages, blocks, kv_heads, dim: head_dim, len: 0, work: vec![0.0; head_dim] })
    }

    /// Returns the number of tokens in the sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the sequence is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of transformer blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Returns the number of key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Returns the width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim
    }

    /// Allocates room for `tokens` more tokens, so that appending them cannot fail (unless the sequence is forked in
    /// between).
    ///
    /// # Errors
    /// [`KvError::Limit`] or [`KvError::Memory`] if pages cannot be allocated; the room is then unchanged.
    pub fn reserve(&mut self, tokens: usize) -> Result<(), KvError> {
        let len = self.len;
        let total = len.checked_add(tokens).ok_or(KvError::Memory { bytes: usize::MAX })?;
        let before = self.room();
        let heads = self.kv_heads;
        let reserved = self.blocks.iter_mut().flat_map(|b| [&mut b.keys, &mut b.values]).try_for_each(|half| {
            let bytes = half.plane.head_bytes() * heads;
            half.reserve(&self.pages, bytes, len, total)
        });
        if reserved.is_err() {
            self.keep_pages(before / PAGE);
        }
        reserved
    }

    /// Returns the number of tokens that there is room for.
    fn room(&self) -> usize {
        let halves = self.blocks.iter().flat_map(|b| [&b.keys, &b.values]);
        halves.map(|h| h.pages.len() * PAGE).min().unwrap_or(0)
    }

    fn keep_pages(&mut self, pages: usize) {
        for block in &mut self.blocks {
            block.keys.pages.truncate(pages);
            block.values.pages.truncate(pages);
        }
    }

    /// Stores the keys and values of the tokens that follow the sequence, T x (heads * dim) each. Rotary positions must
    /// already be applied to the keys. Replaces tokens that were appended to the block but not advanced over.
    ///
    /// # Panics
    /// If keys and values are not whole rows of the same number, or room for them was not reserved since the last fork.
    pub fn append(&mut self, block: usize, keys: &[f32], values: &[f32]) {
        let width = self.kv_heads * self.dim;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "keys and values of whole tokens");
        let block = &mut self.blocks[block];
        block.keys.write(self.len, keys, self.kv_heads, &mut self.work);
        block.values.write(self.len, values, self.kv_heads, &mut self.work);
        block.filled = self.len + keys.len() / width;
    }

    /// Adds `tokens` tokens to the sequence, after they were appended to every block.
    ///
    /// # Panics
    /// If they were not appended to every block.
    pub fn advance(&mut self, tokens: usize) {
        let len = self.len + tokens;
        assert!(self.blocks.iter().all(|b| b.filled >= len), "the tokens were appended to every block");
        self.len = len;
    }

    /// Removes all but the first `tokens` tokens, and frees the pages that are no longer needed.
    pub fn truncate(&mut self, tokens: usize) {
        self.len = self.len.min(tokens);
        self.keep_pages(self.len.div_ceil(PAGE));
        let len = self.len;
        self.blocks.iter_mut().for_each(|b| b.filled = len);
    }

    /// Returns the bytes of this sequence's pages, including those shared with other sequences.
    pub fn memory_bytes(&self) -> usize {
        let halves = self.blocks.iter().flat_map(|b| [&b.keys, &b.values]);
        halves.flat_map(|h| &h.pages).map(|page| page.bytes().len()).sum()
    }

    /// Creates a sequence that begins with the same tokens. Full pages stay shared; a partly filled page is copied when
    /// one of the sequences next reserves room.
    pub fn fork(&self) -> Self {
        let pages = self.len.div_ceil(PAGE);
        let half = |half: &Half| Half { plane: half.plane, pages: half.pages[..pages].to_vec() };
        let block = |b: &Block| Block { keys: half(&b.keys), values: half(&b.values), filled: self.len };
        Self {
            pages: self.pages.clone(),
            blocks: self.blocks.iter().map(block).collect(),
            kv_heads: self.kv_heads,
            dim: self.dim,
            len: self.len,
            work: vec![0.0; self.dim],
        }
    }

    /// Creates an empty sequence that has the keys and values of this one in all blocks but `blocks`: after the tokens were appended
    /// to these blocks again, it can advance over them. Full pages stay shared.
    pub fn again(&self, blocks: Range<usize>) -> Self {
        let mut again = self.fork();
        again.len = 0;
        for block in again.blocks.iter_mut().take(blocks.end).skip(blocks.start) {
            block.keys.pages.clear();
            block.values.pages.clear();
            block.filled = 0;
        }
        again
    }

    /// Writes the key and the value of a token, as they are stored, to `key` and `value`, heads * dim each.
    ///
    /// # Panics
    /// If the block does not have the token, or the slices have another length.
    pub fn read(&self, block: usize, token: usize, key: &mut [f32], value: &mut [f32]) {
        let block = &self.blocks[block];
        assert!(token < block.filled, "token {token} of {}", block.filled);
        for (half, out) in [(&block.keys, key), (&block.values, value)] {
            assert_eq!(out.len(), self.kv_heads * self.dim);
            for (head, out) in out.chunks_exact_mut(self.dim).enumerate() {
                half.plane.read(half.page(token / PAGE), head, token % PAGE, out);
            }
        }
    }

    pub(super) fn block(&self, block: usize) -> &Block {
        &self.blocks[block]
    }
}

impl std::fmt::Debug for KvStore {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { blocks, kv_heads, dim, len, .. } = self;
        write!(f, "KvStore {{ {} blocks, {kv_heads} heads of {dim}, {len} tokens }}", blocks.len())
    }
}
