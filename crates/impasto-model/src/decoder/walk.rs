//! Many windows through the network together, block by block.

use std::ops::Range;

use super::layer::Watch;
use super::pass::{Over, Pass};
use super::{Block, Frame};
use crate::network::check_tokens;
use crate::{ModelError, Probe, Result};

/// Tokens run through a sublayer at a time, or one window where that is longer. It bounds the working memory, and
/// fixes the order of sums over tokens.
const PIECE: usize = 2048;

/// The residual streams of windows of tokens, on their way through the blocks of a decoder.
///
/// Where [`Decoder::hidden_probed`](super::Decoder::hidden_probed) takes one text through all blocks, this takes all texts
/// through one block: the caller holds one block at a time, and may change its weights before the streams run through it.
/// Every window begins with an empty context.
///
/// ```text
/// let mut walk = Walk::new(&frame, &tokens, 512)?;
/// for index in 0..frame.config().blocks.len() {
///     let mut block = frame.load_block(source, index)?;
///     for sublayer in 0..block.sublayers.len() {
///         walk.observe(&frame, &block, sublayer, probe);    // what its layers see
///         block.set_weights(name, &coded)?;                 // if wanted
///         walk.advance(&frame, &block, sublayer, None);     // on through what it is now
///     }
/// }
/// walk.finish(&frame, probe);                           // what the output projection sees
/// ```
///
/// The results do not depend on the number of threads.
pub struct Walk {
    window: usize,
    width: usize,
    stream: Vec<f32>,
}

/// Memory for `count` values, none of them there yet.
pub(super) fn room(count: Option<usize>, what: &'static str) -> Result<Vec<f32>> {
    let bytes = count.map_or(u64::MAX, |count| (count as u64).saturating_mul(size_of::<f32>() as u64));
    let refused = ModelError::Memory { what, bytes };
    let Some(count) = count else { return Err(refused) };
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| refused)?;
    Ok(values)
}

/// Windows in a piece.
fn together(window: usize) -> usize {
    (PIECE / window).max(1)
}

/// The tables of rotary positions for a piece, every window with positions from 0 on.
pub(super) fn piece_tables(frame: &Frame, window: usize) -> Vec<Vec<(f32, f32)>> {
    let tables = frame.rope_tables(0, window, window);
    tables.into_iter().map(|table| table.repeat(together(window))).collect()
}

/// The values of each piece of a stream `width` wide and `values` long.
pub(super) fn pieces(window: usize, width: usize, values: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let size = together(window) * window * width;
    (0..values).step_by(size).map(move |start| start..values.min(start + size))
}

impl Walk {
    /// Embeds `tokens`, windows of `window` tokens one after another.
    ///
    /// # Errors
    /// No tokens, a last window that is not whole, windows longer than the model's context, a token outside its
    /// vocabulary, memory refused.
    pub fn new(frame: &Frame, tokens: &[u32], window: usize) -> Result<Self> {
        if window == 0 || !tokens.len().is_multiple_of(window) {
            let value = format!("{window} for {} tokens", tokens.len());
            return Err(ModelError::BadOption { name: "window", value, rule: "all windows are whole" });
        }
        let config = &frame.config;
        if window > config.max_position_embeddings {
            return Err(ModelError::ContextOverflow { tokens: window, context: config.max_position_embeddings });
        }
        check_tokens(tokens, config.vocab_size, 0, usize::MAX)?;
        let width = config.hidden_size;
        let mut stream = room(tokens.len().checked_mul(width), "residual streams of all windows")?;
        tokens.chunks(window).for_each(|tokens| stream.extend(frame.embed(tokens)));
        Ok(Self { window, width, stream })
    }

    /// Tokens of all windows.
    pub fn tokens(&self) -> usize {
        self.stream.len() / self.width
    }

    /// The residual streams, tokens x hidden size: the embeddings at first, then what the last sublayer left behind.
    pub fn stream(&self) -> &[f32] {
        &self.stream
    }

    /// Shows `probe` the inputs of a sublayer of `block`, given by its number, and stays before it. Pieces of whole windows
    /// come in order; for each, all inputs of the sublayer, as in [`Probe::linear`].
    ///
    /// # Panics
    /// If `block` is not of `frame` or has no such sublayer.
    pub fn observe(&self, frame: &Frame, block: &Block, sublayer: usize, probe: &mut dyn Probe) {
        let sublayer = &block.sublayers[sublayer];
        let Some(last) = sublayer.last_linear() else { return };
        let tables = piece_tables(frame, self.window);
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let (mut x, mut watch) = (self.stream[piece].to_vec(), Watch(Some(&mut *probe)));
                let mut pass = Pass::new(&mut x, Over::Windows(self.window), &tables, frame.threads, &mut watch);
                pass.run(&sublayer.steps[..last]);
                pass.show(&sublayer.steps[last]);
            }
        });
    }

    /// Runs all windows through a sublayer of `block`; `probe` sees its inputs as in [`Walk::observe`].
    ///
    /// # Panics
    /// If `block` is not of `frame` or has no such sublayer.
    pub fn advance(&mut self, frame: &Frame, block: &Block, sublayer: usize, mut probe: Option<&mut dyn Probe>) {
        let steps = &block.sublayers[sublayer].steps;
        let tables = piece_tables(frame, self.window);
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let watch = &mut Watch(probe.as_mut().map(|probe| &mut **probe as &mut dyn Probe));
                let over = Over::Windows(self.window);
                Pass::new(&mut self.stream[piece], over, &tables, frame.threads, watch).run(steps);
            }
        });
    }

    /// Shows `probe` the input of the output projection, piece by piece. All blocks lie behind.
    pub fn finish(&self, frame: &Frame, probe: &mut dyn Probe) {
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let normed = frame.normed(&self.stream[piece]);
                Watch(Some(&mut *probe)).show(std::slice::from_ref(frame.ends.projection()), &normed);
            }
        });
    }
}
