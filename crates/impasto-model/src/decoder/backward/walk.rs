//! The backward pass over many windows together, block by block.

use super::Labels;
use crate::decoder::walk::{piece_tables, pieces, room};
use crate::decoder::{Block, Frame};
use crate::{GradientProbe, Result};

/// The backward pass of a [`Walk`](crate::decoder::Walk): the gradients of its residual streams.
///
/// The caller keeps the residual streams before each sublayer of the forward walk, in a file or in memory, and passes
/// them to [`Self::retreat`]. The results do not depend on the number of threads.
pub struct WalkBack {
    window: usize,
    width: usize,
    gradient: Vec<f32>,
}

impl WalkBack {
    /// Starts after the last block. `stream` is the residual streams there: tokens x hidden size, whole windows of
    /// `window` tokens. The labels of window i are [`Labels::Sampled`] with the seed `seed + i`. `probe` receives the
    /// Fisher information of the output projection, window by window.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`](crate::ModelError::NonFinite) for logits that are not finite; not enough memory.
    ///
    /// # Panics
    /// If `stream` is not a whole number of windows.
    pub fn new(frame: &Frame, stream: &[f32], window: usize, seed: u64, probe: &mut dyn GradientProbe) -> Result<Self> {
        let width = frame.config.hidden_size;
        assert!(window > 0 && stream.len().is_multiple_of(window * width), "the streams must be whole windows");
        let mut gradient = room(Some(stream.len()), "gradients of all windows")?;
        let windows = (seed..).zip(stream.chunks(window * width));
        frame.pool.install(|| {
            for (seed, x) in windows {
                let labels = Labels::Sampled { seed }.rows(x.len() / width);
                gradient.extend(frame.stream_gradient(x, &labels, probe)?);
            }
            Result::Ok(())
        })?;
        Ok(Self { window, width, gradient })
    }

    /// Goes back through the sublayer with index `sublayer` of `block`; `stream` is the residual streams before it.
    /// `probe` receives the gradients of the outputs of its layers, piece by piece, as in
    /// [`GradientProbe::linear_gradient`].
    ///
    /// # Panics
    /// If `stream` has another length than that of [`Self::new`], `block` does not belong to `frame`, or it has no such
    /// sublayer.
    pub fn retreat(
        &mut self,
        frame: &Frame,
        block: &Block,
        sublayer: usize,
        stream: &[f32],
        probe: &mut dyn GradientProbe,
    ) {
        assert_eq!(stream.len(), self.gradient.len(), "the streams must have the length passed to `new`");
        let tables = piece_tables(frame, self.window);
        frame.pool.install(|| {
            let sublayer = &block.sublayers[sublayer];
            for piece in pieces(self.window, self.width, stream.len()) {
                let (x, gradient) = (&stream[piece.clone()], &mut self.gradient[piece]);
                frame.sublayer_backward(sublayer, &tables, x, self.window, gradient, probe);
            }
        });
    }

    /// Ends before the first block: passes `probe` the gradient of the embeddings of `tokens`, the tokens of all
    /// windows.
    pub fn finish(self, frame: &Frame, tokens: &[u32], probe: &mut dyn GradientProbe) {
        frame.pool.install(|| frame.embedding_backward(tokens, self.gradient, probe));
    }
}
