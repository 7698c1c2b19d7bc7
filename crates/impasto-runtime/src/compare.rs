//! How far a network is from another one of the same shape, block by block.

use std::ops::ControlFlow;

use impasto_model::{CausalLm, Hidden, KvCache, ModelError, Result, check_tokens, graph};

use crate::Runtime;
use crate::network::PREFILL;
use crate::pass::{Pass, Piece, Room, sized};
use crate::weights::Weights;

/// The result of [`Runtime::compare`].
#[derive(Clone, Debug)]
pub struct Comparison {
    /// For each block, the square of the error of its output, over the square of what the block adds to its input: both for the
    /// input that the block has in the reference, so that an error is that of the block, and not of those before it.
    pub errors: Vec<f64>,
    /// The outputs of the reference from the requested position on, for [`CausalLm::logits`] of the reference.
    pub hidden: Hidden,
}

impl Runtime {
    /// Names of the weight tensors of a block; none if there is no such block.
    pub fn names_of_block(&self, block: usize) -> Vec<String> {
        let weights = self.weights();
        let layers = weights.blocks.get(block).into_iter().flat_map(graph::Block::layers);
        layers.map(|linear| linear.name.clone()).collect()
    }

    /// Runs at most 512 tokens through this network, the reference, and through each block of another one with the inputs that
    /// the block has here. `watch` is called before each block; the result is `None` if it stops.
    ///
    /// # Errors
    /// [`ModelError::ForeignCache`] if the networks have not the same shape; tokens that are none, too many or outside the
    /// vocabulary; what a pass fails with.
    pub fn compare(
        &self,
        other: &Runtime,
        tokens: &[u32],
        from: usize,
        watch: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Comparison>> {
        let (config, width) = (self.config(), self.config().hidden_size);
        let shape = |runtime: &Runtime| (runtime.config().hidden_size, runtime.weights().blocks.len());
        if shape(self) != shape(other) {
            return Err(ModelError::ForeignCache);
        }
        check_tokens(tokens, config.vocab_size, 0, self.max_context().min(PREFILL))?;
        let (mine, theirs) = (self.weights(), other.weights());
        let (mut own_cache, mut other_cache) = (self.new_cache(tokens.len())?, other.new_cache(tokens.len())?);
        let (own_room, other_room) = (&mut *self.rooms.enter(), &mut *other.rooms.enter());
        let mut input = vec![0.0; tokens.len() * width];
        let pieces = &[Piece { cache: &mut own_cache, tokens, context: tokens.len() }];
        self.embed(&mine, &mut input, pieces, &mut own_room.products)?;
        let mut errors = Vec::with_capacity(mine.blocks.len());
        for block in 0..mine.blocks.len() {
            if watch().is_break() {
                return Ok(None);
            }
            self.block(&mine, own_room, &mut own_cache, tokens, block, &input)?;
            other.block(&theirs, other_room, &mut other_cache, tokens, block, &input)?;
            let (right, found) = (&own_room.slots[0][..input.len()], &other_room.slots[0][..input.len()]);
            let square = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            errors.push(square(right, found) / square(right, &input).max(f64::MIN_POSITIVE));
            input.copy_from_slice(right);
        }
        let rows = &input[from.min(tokens.len()) * width..];
        let normed = self.normed(&mine, rows, &mut own_room.normed)?.to_vec();
        Ok(Some(Comparison { errors, hidden: Hidden::new(normed, width) }))
    }

    /// Runs tokens through one block, from its input. Its output is in the first slot.
    fn block(
        &self,
        weights: &Weights,
        room: &mut Room,
        cache: &mut KvCache,
        tokens: &[u32],
        block: usize,
        input: &[f32],
    ) -> Result<()> {
        let pieces = &mut [Piece { cache, tokens, context: tokens.len() }];
        self.prepare_room(room, pieces);
        sized(&mut room.slots[0], input.len())?.copy_from_slice(input);
        let of_block = weights.blocks.get(block).ok_or(ModelError::ForeignCache)?;
        let (tools, block) = (self.tools(), of_block.index);
        let mut pass = Pass { tools, room, pieces, tokens: tokens.len(), block, only_append: false };
        of_block.sublayers.iter().try_for_each(|sublayer| graph::run(&sublayer.ops, &mut pass))?;
        weights.check()
    }
}
