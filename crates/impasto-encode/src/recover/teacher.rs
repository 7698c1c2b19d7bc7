//! The original network, as what a quantized one is to imitate on a text.

use impasto_model::WeightSource;
use impasto_model::decoder::{Decoder, Frame, Predictions, Walk};
use impasto_model::graph::{Sublayer, describe_source};

use super::{BATCH, RecoverOptions, RecoverWatch, Recovering, config};
use crate::calibrate::Rows;
use crate::error::{EncodeError, heard};

/// One in this many windows is held back, and at most so many.
const HELD_BACK: usize = 8;
const MOST_HELD_BACK: usize = 8;
/// Logits in memory at once, about.
const LOGITS: u64 = 1 << 24;

/// Returns how many windows are held back beside so many that are trained on.
pub(super) fn held_back_of(windows: usize) -> usize {
    windows.div_ceil(HELD_BACK - 1).clamp(1, MOST_HELD_BACK)
}

/// The predictions of the original network on the windows of a text. Windows that are held back are the last, so that few are of
/// an article that is trained on.
pub struct Teacher {
    frame: Frame,
    window: usize,
    tokens: Vec<u32>,
    /// The inputs of the output projection, tokens x hidden size.
    inputs: Vec<f32>,
}

/// A window, and what the original predicts in it.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    pub tokens: &'a [u32],
    pub predictions: Predictions<'a>,
}

impl Teacher {
    /// Runs `original` over the windows of `tokens`, one block at a time. The last window is left out if it is not complete.
    ///
    /// # Errors
    /// Fewer than two windows, a model that cannot be run, not enough memory, or `watch` cancels.
    pub fn new(
        original: &dyn WeightSource,
        tokens: &[u32],
        options: &RecoverOptions,
        watch: RecoverWatch<'_>,
    ) -> Result<Teacher, EncodeError> {
        let window = options.window;
        let count = tokens.len().checked_div(window).unwrap_or(0);
        if count < 2 {
            return Err(EncodeError::ShortText { tokens: tokens.len(), window });
        }
        let config = config(original)?;
        check_memory(original, count * window, options)?;
        let tokens = tokens[..count * window].to_vec();
        let frame = Frame::load(original, config, options.threads)?;
        let mut walk = Walk::new(&frame, &tokens, window)?;
        let blocks = frame.config().blocks.len();
        for index in 0..blocks {
            heard(watch(Recovering::Original(index, blocks)))?;
            let block = frame.load_block(original, index)?;
            (0..block.sublayers.len()).for_each(|sublayer| walk.advance(&frame, &block, sublayer, None));
        }
        let mut rows = Rows::default();
        walk.finish(&frame, &mut rows);
        let inputs = rows.0.into_values().next().unwrap_or_default();
        Ok(Teacher { frame, window, tokens, inputs })
    }

    fn windows(&self) -> impl Iterator<Item = Window<'_>> {
        let width = self.frame.config().hidden_size;
        let inputs = self.inputs.chunks_exact(self.window * width);
        let window = |(tokens, inputs)| Window { tokens, predictions: Predictions { frame: &self.frame, inputs } };
        self.tokens.chunks_exact(self.window).zip(inputs).map(window)
    }

    fn is_held_back(&self, window: usize) -> bool {
        let count = self.tokens.len() / self.window;
        window >= count - (count / HELD_BACK).clamp(1, MOST_HELD_BACK)
    }

    /// Returns the windows of a step. Steps take the windows that are not held back in order, again
    /// from the first after the last.
    pub(super) fn batch(&self, step: usize) -> impl Iterator<Item = Window<'_>> {
        let count = (BATCH / self.window).max(1);
        let free: Vec<Window> =
            self.windows().enumerate().filter(|(at, _)| !self.is_held_back(*at)).map(|(_, window)| window).collect();
        let (first, all) = (step * count, free.len().max(1));
        (first..first + count).filter_map(move |at| free.get(at % all).copied())
    }

    /// Returns the mean KL divergence of `student` from the original on the windows that are held back, in nats per token.
    pub(super) fn held_back(&self, student: &Decoder) -> Result<f64, EncodeError> {
        let (mut nats, mut tokens) = (0.0, 0);
        for (_, window) in self.windows().enumerate().filter(|(at, _)| self.is_held_back(*at)) {
            nats += student.divergence(window.tokens, &window.predictions)?;
            tokens += window.tokens.len();
        }
        Ok(nats / tokens.max(1) as f64)
    }

    /// Number of tokens that are trained on and held back.
    pub fn tokens(&self) -> [usize; 2] {
        let count = self.tokens.len() / self.window;
        let held_back = (0..count).filter(|&at| self.is_held_back(at)).count();
        [(count - held_back) * self.window, held_back * self.window]
    }
}

/// Checks that recovery of a network stays within the limit on memory: the quantized network in binary32, the embedding and output
/// projection of the original, its predictions for `tokens`, and the values and logits of a window.
///
/// # Errors
/// [`EncodeError::RecoverMemory`], or a network that cannot be described.
pub fn check_memory(original: &dyn WeightSource, tokens: usize, options: &RecoverOptions) -> Result<(), EncodeError> {
    let Some(limit) = options.memory_limit else { return Ok(()) };
    let mut config = config(original)?;
    let network = describe_source(original, &mut config)?;
    let (width, vocab) = (config.hidden_size as u64, config.vocab_size as u64);
    let values = network.blocks.iter().flat_map(|block| &block.sublayers).map(Sublayer::values_per_token);
    let kept = values.sum::<usize>() as u64 * options.window as u64;
    let logits = 3 * LOGITS.max(vocab);
    let weights = u64::try_from(network.len()).unwrap_or(u64::MAX);
    let floats = [weights, 2 * vocab * width, kept, logits, tokens as u64 * width];
    let needed = floats.into_iter().fold(0, u64::saturating_add).saturating_mul(4);
    if needed > limit { Err(EncodeError::RecoverMemory { needed, limit }) } else { Ok(()) }
}
