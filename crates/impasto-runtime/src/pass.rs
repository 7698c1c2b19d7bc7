//! Runs the operations of a sublayer with fast kernels, for tokens of several sequences at once.

use std::sync::Arc;

use impasto_kernels::elementwise::{add, gated, gelu_tanh, rms_norm, rms_norm_in_place, rope, silu};
use impasto_kernels::kv::{self, AttentionShape};
use impasto_model::config::{Activation, Rope};
use impasto_model::graph::{Attention, Backend, Rotation, Value};
use impasto_model::{KvCache, ModelError, Result};

use crate::matrix::{Linear, Matrix, Scratch, Tools, multiply_all};
use crate::paged::{Paged, failed};

/// The tokens of one sequence in a pass.
pub(crate) struct Piece<'a> {
    pub(crate) cache: &'a mut KvCache,
    pub(crate) tokens: &'a [u32],
    /// Length of the sequence after the call, in tokens: LongRoPE depends on it.
    pub(crate) context: usize,
}

/// Working memory of a pass. Its buffers grow on first use and are then reused.
#[derive(Default)]
pub(crate) struct Room {
    /// The values of a sublayer by slot. Slot 0 is the residual stream, tokens x hidden size.
    pub(crate) slots: Vec<Vec<f32>>,
    /// Rows of the residual stream, normalized for the output projection.
    pub(crate) normed: Vec<f32>,
    /// The rotary angles of the tokens, one table per set of rotary positions.
    tables: Vec<Vec<(f32, f32)>>,
    /// Frequencies of each set, and whether they are for a long context.
    frequencies: Vec<(bool, Vec<f32>)>,
    pub(crate) products: Scratch,
    attention: kv::Scratch,
}

/// Returns the first `length` values of `buffer`, after growing it if necessary.
///
/// # Errors
/// [`ModelError::Memory`] when memory cannot be allocated.
pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> Result<&mut [f32]> {
    if buffer.len() < length {
        let refused =
            |_| ModelError::Memory { what: "working memory of a pass", bytes: (length as u64).saturating_mul(4) };
        buffer.try_reserve_exact(length - buffer.len()).map_err(refused)?;
        buffer.resize(length, 0.0);
    }
    Ok(&mut buffer[..length])
}

impl Room {
    /// Fills the tables of rotary angles.
    pub(crate) fn turn(&mut self, ropes: &[Rope], pieces: &[Piece<'_>]) {
        self.tables.resize_with(ropes.len(), Vec::new);
        self.frequencies.resize_with(ropes.len(), Default::default);
        for ((rope, table), frequencies) in ropes.iter().zip(&mut self.tables).zip(&mut self.frequencies) {
            table.clear();
            for piece in pieces {
                let long = rope.is_long(piece.context);
                if frequencies.1.is_empty() || frequencies.0 != long {
                    *frequencies = (long, rope.frequencies(piece.context));
                }
                let past = piece.cache.len();
                table.extend(rope.angles(&frequencies.1, past..past + piece.tokens.len()));
            }
        }
    }
}

/// A pass of some tokens through a block.
pub(crate) struct Pass<'a, 'p> {
    pub(crate) tools: &'a Tools,
    pub(crate) room: &'a mut Room,
    pub(crate) pieces: &'a mut [Piece<'p>],
    /// Number of tokens of all pieces.
    pub(crate) tokens: usize,
    /// Index of the block.
    pub(crate) block: usize,
    /// Whether attention only stores keys and values.
    pub(crate) only_append: bool,
}

impl Pass<'_, '_> {
    /// Calls `work` with the buffer of `y`. Meanwhile, the slot of `y` is empty.
    fn make(&mut self, y: Value, work: impl FnOnce(&mut Self, &mut [f32]) -> Result<()>) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.room.slots[y.slot]);
        let result = sized(&mut buffer, self.tokens * y.width).and_then(|out| work(self, out));
        self.room.slots[y.slot] = buffer;
        result
    }

    /// Calls `work` with the buffer of `y`, which first gets the value of `x`.
    fn change(&mut self, x: Value, y: Value, work: impl FnOnce(&mut Self, &mut [f32])) -> Result<()> {
        self.make(y, |pass, out| {
            if x.slot != y.slot {
                out.copy_from_slice(pass.get(x));
            }
            work(pass, out);
            Ok(())
        })
    }

    /// Multiplies coded layers that share their input in one product, so that threads share the tile rows of all of
    /// them.
    fn linear_coded(&mut self, x: Value, layers: &[Arc<Linear>], y: &[Value]) -> Result<()> {
        let tokens = self.tokens;
        let Room { slots, products, .. } = &mut *self.room;
        let mut buffers: Vec<Vec<f32>> = y.iter().map(|y| std::mem::take(&mut slots[y.slot])).collect();
        let sizes = buffers.iter_mut().zip(y).map(|(buffer, y)| sized(buffer, tokens * y.width));
        let outs: Result<Vec<&mut [f32]>> = sizes.collect();
        let layers: Vec<&Linear> = layers.iter().map(|layer| &**layer).collect();
        let x = &slots[x.slot][..tokens * x.width];
        let result = outs.and_then(|mut outs| multiply_all(&layers, x, &mut outs, self.tools, products));
        y.iter().zip(buffers).for_each(|(y, buffer)| slots[y.slot] = buffer);
        result
    }

    fn get(&self, value: Value) -> &[f32] {
        &self.room.slots[value.slot][..self.tokens * value.width]
    }
}

impl Backend for Pass<'_, '_> {
    type Linear = Arc<Linear>;
    type Vector = Vec<f32>;
    type Error = ModelError;

    fn norm(&mut self, x: Value, weight: &Vec<f32>, eps: f32, y: Value) -> Result<()> {
        let pool = &self.tools.pool;
        self.make(y, |pass, out| {
            match x.slot == y.slot {
                true => rms_norm_in_place(out, weight, eps, pool),
                false => rms_norm(pass.get(x), weight, eps, out, pool),
            }
            Ok(())
        })
    }

    fn linear(&mut self, x: Value, layers: &[Arc<Linear>], y: &[Value]) -> Result<()> {
        if layers.len() > 1 && layers.iter().all(|layer| matches!(layer.matrix, Matrix::Coded(_))) {
            return self.linear_coded(x, layers, y);
        }
        layers.iter().zip(y).try_for_each(|(layer, &y)| {
            self.make(y, |pass, out| {
                let Room { slots, products, .. } = &mut *pass.room;
                layer.multiply(&slots[x.slot][..pass.tokens * x.width], out, pass.tools, products)
            })
        })
    }

    fn split(&mut self, x: Value, y: &[Value]) -> Result<()> {
        let mut at = 0;
        for &y in y {
            self.make(y, |pass, out| {
                let rows = out.chunks_exact_mut(y.width).zip(pass.get(x).chunks_exact(x.width));
                rows.for_each(|(out, row)| out.copy_from_slice(&row[at..at + y.width]));
                Ok(())
            })?;
            at += y.width;
        }
        Ok(())
    }

    fn rotate(&mut self, x: Value, by: Rotation, y: Value) -> Result<()> {
        self.change(x, y, |pass, out| {
            rope(out, y.width, by.head, by.dim, &pass.room.tables[by.rope], &pass.tools.pool);
        })
    }

    fn attend(&mut self, [q, k, v]: [Value; 3], how: &Attention, y: Value) -> Result<()> {
        let &Attention { query, kv, dim, scale, softcap, window } = how;
        let shape = AttentionShape { query, kv, dim, scale, softcap, window };
        self.make(y, |pass, out| {
            let Room { slots, attention, .. } = &mut *pass.room;
            let mut at = 0;
            for piece in pass.pieces.iter_mut() {
                let rows = at..at + piece.tokens.len();
                let of = |value: Value| &slots[value.slot][rows.start * value.width..rows.end * value.width];
                let Paged { store, .. } = piece.cache.store().ok_or(ModelError::ForeignCache)?;
                store.append(pass.block, of(k), of(v));
                if pass.only_append {
                    at = rows.end;
                    continue;
                }
                let (isa, pool) = (pass.tools.workers.isa(), &pass.tools.pool);
                let out = &mut out[rows.start * y.width..rows.end * y.width];
                kv::attend(isa, store, pass.block, of(q), &shape, out, attention, pool).map_err(failed)?;
                at = rows.end;
            }
            Ok(())
        })
    }

    fn gate(&mut self, gate: Value, up: Value, activation: Activation, y: Value) -> Result<()> {
        self.change(gate, y, |pass, out| {
            let (up, pool) = (pass.get(up), &pass.tools.pool);
            match activation {
                Activation::Silu => gated(out, up, y.width, silu, pool),
                Activation::GeluTanh => gated(out, up, y.width, gelu_tanh, pool),
            }
        })
    }

    fn add(&mut self, x: Value) -> Result<()> {
        let stream = Value { id: 0, slot: 0, width: x.width };
        self.make(stream, |pass, stream| {
            add(stream, pass.get(x));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_refused_is_an_error() {
        let mut buffer = vec![1.0];
        for length in [usize::MAX, usize::MAX / 8, 1 << 59] {
            assert!(matches!(sized(&mut buffer, length), Err(ModelError::Memory { .. })), "{length}");
        }
        assert_eq!(buffer, [1.0]);
        assert_eq!(sized(&mut buffer, 3).unwrap(), [1.0, 0.0, 0.0]);
    }
}
