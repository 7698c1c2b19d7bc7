//! The original network, as what a quantized one is to imitate on a text.

use impasto_model::WeightSource;
use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Decoder, Frame, Predictions, Walk};

use super::{RecoverOptions, RecoverWatch, Recovering, config};
use crate::calibrate::Rows;
use crate::error::{EncodeError, heard};

/// One in this many windows is held back.
const HELD_BACK: usize = 8;

/// The predictions of the original network on the windows of a text. Windows that are held back are spread over the text.
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
        within(original, &config, count * window, options)?;
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
        window % HELD_BACK.min(count) == HELD_BACK.min(count) - 1
    }

    /// Returns the windows of a step, with about `size` tokens. Steps take the windows that are not held back in order, again
    /// from the first after the last.
    pub(super) fn batch(&self, step: usize, size: usize) -> impl Iterator<Item = Window<'_>> {
        let count = (size / self.window).max(1);
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

/// Checks that recovery stays within the limit on memory: the quantized network in binary32, the embedding and output projection
/// of the original, its predictions, and what the backward pass keeps of a window.
fn within(
    original: &dyn WeightSource,
    config: &DecoderConfig,
    tokens: usize,
    options: &RecoverOptions,
) -> Result<(), EncodeError> {
    let Some(limit) = options.memory_limit else { return Ok(()) };
    let weights = |name: &String| original.shape(name).unwrap_or_default().iter().product::<u64>();
    let weights: u64 = original.tensor_names().iter().map(weights).sum();
    let (width, vocab) = (config.hidden_size as u64, config.vocab_size as u64);
    let ends = 2 * vocab * width;
    let kept = (2 * config.blocks.len() as u64 + 20) * options.window as u64 * width;
    let logits = 3 * (1u64 << 24).max(vocab);
    let floats = weights + ends + kept + logits + tokens as u64 * width;
    let needed = floats.saturating_mul(4);
    if needed > limit { Err(EncodeError::RecoverMemory { needed, limit }) } else { Ok(()) }
}
