//! The forward pass over many windows together, block by block.

use std::ops::Range;

use super::layer::Watch;
use super::pass::{Over, Pass};
use super::{Block, Frame};
use crate::network::check_tokens;
use crate::{ModelError, Probe, Result};

/// Tokens that run through a sublayer at a time; one window if that is longer. It bounds the working memory and fixes
/// the order of sums over tokens.
const PIECE: usize = 2048;

/// The residual streams of many windows, which run through a decoder one sublayer at a time.
///
/// [`Decoder::hidden_probed`](super::Decoder::hidden_probed) takes one text through all blocks; a `Walk` takes all
/// texts through one block. The caller therefore holds one block at a time, and may change its weights before the
/// streams run through it. Every window starts with an empty context.
///
/// ```text
/// let mut walk = Walk::new(&frame, &tokens, 512)?;
/// for index in 0..frame.config().blocks.len() {
///     let mut block = frame.load_block(source, index)?;
///     for sublayer in 0..block.sublayers.len() {
///         walk.observe(&frame, &block, sublayer, probe);    // the inputs of its linear layers
///         block.set_weights(name, &coded)?;                 // optional
///         walk.advance(&frame, &block, sublayer, None);     // runs it with its current weights
///     }
/// }
/// walk.finish(&frame, probe);                           // the input of the output projection
/// ```
///
/// The results do not depend on the number of threads.
#[derive(Clone)]
pub struct Walk {
    pub(super) window: usize,
    width: usize,
    stream: Vec<f32>,
}

/// Allocates memory for `count` values, without adding any.
pub(super) fn room(count: Option<usize>, what: &'static str) -> Result<Vec<f32>> {
    let bytes = count.map_or(u64::MAX, |count| (count as u64).saturating_mul(size_of::<f32>() as u64));
    let refused = ModelError::Memory { what, bytes };
    let Some(count) = count else { return Err(refused) };
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| refused)?;
    Ok(values)
}

/// Windows per piece.
fn together(window: usize) -> usize {
    (PIECE / window).max(1)
}

/// The tables of rotary positions for a piece; every window starts at position 0.
pub(super) fn piece_tables(frame: &Frame, window: usize) -> Vec<Vec<(f32, f32)>> {
    let tables = frame.rope_tables(0, window, window);
    tables.into_iter().map(|table| table.repeat(together(window))).collect()
}

/// The range of values of each piece of a stream of `values` values, `width` per token.
pub(super) fn pieces(window: usize, width: usize, values: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let size = together(window) * window * width;
    (0..values).step_by(size).map(move |start| start..values.min(start + size))
}

impl Walk {
    /// Embeds `tokens`, consecutive windows of `window` tokens.
    ///
    /// # Errors
    /// No tokens, an incomplete last window, windows longer than the model's context, a token outside the vocabulary,
    /// or not enough memory.
    pub fn new(frame: &Frame, tokens: &[u32], window: usize) -> Result<Self> {
        if window == 0 || !tokens.len().is_multiple_of(window) {
            let value = format!("{window} for {} tokens", tokens.len());
            return Err(ModelError::BadOption { name: "window", value, rule: "must divide the number of tokens" });
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

    /// Number of tokens in all windows.
    pub fn tokens(&self) -> usize {
        self.stream.len() / self.width
    }

    /// The residual streams, tokens x hidden size: at first the embeddings, then the output of the last sublayer.
    pub fn stream(&self) -> &[f32] {
        &self.stream
    }

    /// Passes `probe` the inputs of the linear layers of a sublayer, without advancing. Pieces of whole windows come in
    /// order; each piece shows all inputs of the sublayer, as in [`Probe::linear`].
    ///
    /// # Panics
    /// If `block` does not belong to `frame` or has no sublayer with this index.
    pub fn observe(&self, frame: &Frame, block: &Block, sublayer: usize, probe: &mut dyn Probe) {
        let sublayer = &block.sublayers[sublayer];
        let Some(last) = sublayer.last_linear() else { return };
        let tables = piece_tables(frame, self.window);
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let (mut x, mut watch) = (self.stream[piece].to_vec(), Watch(Some(&mut *probe)));
                let mut pass = Pass::new(&mut x, Over::Windows(self.window), &tables, frame.threads, &mut watch);
                pass.run(&sublayer.ops[..last]);
                pass.show(&sublayer.ops[last]);
            }
        });
    }

    /// Runs all windows through a sublayer of `block`; `probe` receives its inputs as in [`Walk::observe`].
    ///
    /// # Panics
    /// If `block` does not belong to `frame` or has no sublayer with this index.
    pub fn advance(&mut self, frame: &Frame, block: &Block, sublayer: usize, mut probe: Option<&mut dyn Probe>) {
        let ops = &block.sublayers[sublayer].ops;
        let tables = piece_tables(frame, self.window);
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let watch = &mut Watch(probe.as_mut().map(|probe| &mut **probe as &mut dyn Probe));
                let over = Over::Windows(self.window);
                Pass::new(&mut self.stream[piece], over, &tables, frame.threads, watch).run(ops);
            }
        });
    }

    /// Passes `probe` the input of the output projection, piece by piece. Call it after the last block.
    pub fn finish(&self, frame: &Frame, probe: &mut dyn Probe) {
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let normed = frame.normed(&self.stream[piece]);
                Watch(Some(&mut *probe)).show(std::slice::from_ref(frame.ends.projection()), &normed);
            }
        });
    }
}
