//! Many windows back through the network together, block by block.

use super::Labels;
use crate::decoder::walk::{piece_tables, pieces, room};
use crate::decoder::{Block, Frame};
use crate::{GradientProbe, Result};

/// The gradients of the residual streams of a [`Walk`](crate::decoder::Walk), on their way back.
///
/// What the forward walk saw before each sublayer is asked for when the gradients get there: the caller keeps it,
/// in a file or in memory. The results do not depend on the number of threads.
pub struct WalkBack {
    window: usize,
    width: usize,
    gradient: Vec<f32>,
}

impl WalkBack {
    /// Begins behind the last block, with the residual streams `stream` there: tokens x hidden size, whole windows of
    /// `window` tokens. The labels of window i are [`Labels::Sampled`] with the seed `seed + i`. `probe` sees the output
    /// projection, window by window.
    ///
    /// # Errors
    /// [`ModelError::NonFinite`](crate::ModelError::NonFinite) for logits that are not finite; memory refused.
    ///
    /// # Panics
    /// If the streams are not whole windows.
    pub fn new(frame: &Frame, stream: &[f32], window: usize, seed: u64, probe: &mut dyn GradientProbe) -> Result<Self> {
        let width = frame.config.hidden_size;
        assert!(window > 0 && stream.len().is_multiple_of(window * width), "streams of whole windows");
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

    /// Goes back through a sublayer of `block`, given by its number; `stream` is what the residual streams were before it. `probe` sees the
    /// gradients by the outputs of its layers, piece by piece, as in [`GradientProbe::linear_gradient`].
    ///
    /// # Panics
    /// If `stream` is not as long as that given at the beginning, or `block` is not of `frame`
    /// or has no such sublayer.
    pub fn retreat(
        &mut self,
        frame: &Frame,
        block: &Block,
        sublayer: usize,
        stream: &[f32],
        probe: &mut dyn GradientProbe,
    ) {
        assert_eq!(stream.len(), self.gradient.len(), "streams of other windows");
        let tables = piece_tables(frame, self.window);
        frame.pool.install(|| {
            let sublayer = &block.sublayers[sublayer];
            for piece in pieces(self.window, self.width, stream.len()) {
                let (x, gradient) = (&stream[piece.clone()], &mut self.gradient[piece]);
                frame.sublayer_backward(sublayer, &tables, x, self.window, gradient, probe);
            }
        });
    }

    /// Ends before the first block: shows `probe` the gradient by the embeddings of `tokens`, the tokens of all windows.
    pub fn finish(self, frame: &Frame, tokens: &[u32], probe: &mut dyn GradientProbe) {
        frame.pool.install(|| frame.embedding_backward(tokens, self.gradient, probe));
    }
}
