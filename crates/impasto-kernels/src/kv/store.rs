//! The keys and values of one sequence.

use std::sync::Arc;

use super::pages::{PAGE, Page, Pages};
use super::plane::{Plane, Side};
use super::{KvError, KvLayout};

/// Keys and values of one sequence, for each transformer block pages of [`PAGE`] tokens, taken as they are needed.
///
/// A pass of T tokens goes: [`reserve`](Self::reserve), then for each block [`append`](Self::append) and
/// [`attend`](super::attend), then [`advance`](Self::advance). A pass that is given up before it advances leaves
/// nothing behind.
pub struct KvStore {
    pages: Arc<Pages>,
    blocks: Vec<Block>,
    kv_heads: usize,
    dim: usize,
    len: usize,
    /// Room to rotate a head in.
    work: Vec<f32>,
}

/// The pages of a transformer block.
pub(super) struct Block {
    pub(super) keys: Half,
    pub(super) values: Half,
    /// Tokens appended, those that the sequence has not advanced over among them.
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

    /// The bytes of page `i`.
    pub(super) fn page(&self, i: usize) -> &[u8] {
        self.pages[i].bytes()
    }

    /// Makes room for `tokens` in all, of which `len` are there; the page of token `len` will be this sequence's own.
    fn reserve(&mut self, from: &Arc<Pages>, bytes: usize, len: usize, tokens: usize) -> Result<(), KvError> {
        if len < tokens
            && let Some(last) = self.pages.get_mut(len / PAGE)
            && Arc::get_mut(last).is_none()
        {
            *last = Arc::new(last.copy()?);
        }
        let wanted = tokens.div_ceil(PAGE);
        let more = wanted.saturating_sub(self.pages.len());
        // Doubling, as a vector does: room for pointers alone.
        self.pages.try_reserve(more).map_err(|_| KvError::Memory { bytes: more.saturating_mul(size_of::<usize>()) })?;
        while self.pages.len() < wanted {
            self.pages.push(Arc::new(from.take(bytes)?));
        }
        Ok(())
    }

    /// Writes rows of `kv_heads` heads from token `at` on.
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
    /// An empty store for `blocks` transformer blocks with `kv_heads` heads of `head_dim`, whose pages count in `pages`.
    ///
    /// # Errors
    /// [`KvError::Shape`] for heads that are empty or too large, [`KvError::Block`] for a layout of more blocks.
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
        // Also where there is no block: what follows may rely on the shape.
        Plane::new(super::KvFormat::F32, Side::Keys, kv_heads, head_dim)?;
        let blocks = (0..blocks).map(block).collect::<Result<_, KvError>>()?;
        Ok(Self { pages, blocks, kv_heads, dim: head_dim, len: 0, work: vec![0.0; head_dim] })
    }

    /// Tokens in the sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Transformer blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim
    }

    /// Takes room for `tokens` more, so that appending them cannot fail (unless the sequence is forked in between).
    ///
    /// # Errors
    /// [`KvError::Limit`] or [`KvError::Memory`] when the pages are refused; then the room is as it was.
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

    /// Tokens that there is room for.
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

    /// Stores the keys and values of the tokens that follow the sequence's last, T x (heads * dim) each; keys are already
    /// rotated by their positions. What was appended to the block and not advanced over is replaced.
    ///
    /// # Panics
    /// If they are not whole rows of the same number, or room for them was not reserved since the last fork.
    pub fn append(&mut self, block: usize, keys: &[f32], values: &[f32]) {
        let width = self.kv_heads * self.dim;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "keys and values of whole tokens");
        let block = &mut self.blocks[block];
        block.keys.write(self.len, keys, self.kv_heads, &mut self.work);
        block.values.write(self.len, values, self.kv_heads, &mut self.work);
        block.filled = self.len + keys.len() / width;
    }

    /// Counts `tokens` as part of the sequence, after they were appended to every block.
    ///
    /// # Panics
    /// If a block lacks them.
    pub fn advance(&mut self, tokens: usize) {
        let len = self.len + tokens;
        assert!(self.blocks.iter().all(|b| b.filled == len), "the tokens were appended to every block");
        self.len = len;
    }

    /// Forgets all but the first `tokens` and gives the pages back that hold none of these.
    pub fn truncate(&mut self, tokens: usize) {
        self.len = self.len.min(tokens);
        self.keep_pages(self.len.div_ceil(PAGE));
        let len = self.len;
        self.blocks.iter_mut().for_each(|b| b.filled = len);
    }

    /// Bytes of this sequence's pages, those that it shares with others included.
    pub fn memory_bytes(&self) -> usize {
        let halves = self.blocks.iter().flat_map(|b| [&b.keys, &b.values]);
        halves.flat_map(|h| &h.pages).map(|page| page.bytes().len()).sum()
    }

    /// Another sequence that begins with the same tokens. Their pages are shared; a page that is not full is copied when
    /// either sequence next makes room.
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

    /// Writes the key and the value of a token as they are stored, heads * dim each.
    ///
    /// # Panics
    /// If the block lacks the token, or the slices have another length.
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
