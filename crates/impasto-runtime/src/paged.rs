//! Paged storage of keys and values.

use half::bf16;
use impasto_kernels::kv::{KvError, KvStore};
use impasto_model::cache::KvStorage;
use impasto_model::{ModelError, Result};

/// The key/value pages of one sequence.
pub(crate) struct Paged {
    pub(crate) store: KvStore,
    /// The inputs of its blocks, if they are kept.
    pub(crate) inputs: Option<Inputs>,
}

/// The residual stream before each block, for the tokens of a sequence, in bfloat16.
#[derive(Clone)]
pub(crate) struct Inputs {
    /// Tokens x hidden size each.
    blocks: Vec<Vec<u16>>,
    width: usize,
}

impl Inputs {
    /// Creates an empty store for blocks of hidden size `width`.
    pub(crate) fn new(blocks: usize, width: usize) -> Self {
        Inputs { blocks: vec![Vec::new(); blocks], width }
    }

    /// Appends those of some tokens to a block.
    ///
    /// # Errors
    /// [`ModelError::Memory`] when memory cannot be allocated.
    pub(crate) fn append(&mut self, block: usize, rows: &[f32]) -> Result<()> {
        let Some(kept) = self.blocks.get_mut(block) else { return Ok(()) };
        let refused = |_| ModelError::Memory { what: "inputs of blocks", bytes: 2 * rows.len() as u64 };
        kept.try_reserve(rows.len()).map_err(refused)?;
        kept.extend(rows.iter().map(|&x| bf16::from_f32(x).to_bits()));
        Ok(())
    }

    /// Writes those of `tokens` tokens from number `first` on to `out`; false if they are not all there.
    pub(crate) fn read(&self, block: usize, first: usize, out: &mut [f32]) -> bool {
        let kept = self.blocks.get(block).and_then(|kept| kept.get(first * self.width..)?.get(..out.len()));
        let Some(kept) = kept else { return false };
        out.iter_mut().zip(kept).for_each(|(out, &bits)| *out = bf16::from_bits(bits).to_f32());
        true
    }

    /// Takes those of the blocks from number `from` on from another store.
    pub(crate) fn take_from(&mut self, from: usize, other: &Inputs) {
        let pairs = self.blocks.iter_mut().zip(&other.blocks).skip(from);
        pairs.for_each(|(kept, other)| kept.clone_from(other));
    }

    fn truncate(&mut self, tokens: usize) {
        self.blocks.iter_mut().for_each(|kept| kept.truncate(tokens * self.width));
    }

    fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(|kept| size_of_val(&kept[..])).sum()
    }
}

/// Converts an error of the store.
pub(crate) fn failed(error: KvError) -> ModelError {
    ModelError::Cache(Box::new(error))
}

impl KvStorage for Paged {
    fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.store.reserve(tokens).map_err(failed)
    }

    fn advance(&mut self, tokens: usize) {
        self.store.advance(tokens);
    }

    fn truncate(&mut self, tokens: usize) {
        self.store.truncate(tokens);
        self.inputs.iter_mut().for_each(|inputs| inputs.truncate(tokens));
    }

    fn memory_bytes(&self) -> usize {
        self.store.memory_bytes() + self.inputs.as_ref().map_or(0, Inputs::memory_bytes)
    }

    fn fork(&self) -> Result<Box<dyn KvStorage>> {
        Ok(Box::new(Paged { store: self.store.fork(), inputs: self.inputs.clone() }))
    }
}
