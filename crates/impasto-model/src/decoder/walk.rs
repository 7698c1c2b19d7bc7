//! The forward pass over many windows together, block by block.

use std::ops::Range;

use rayon::prelude::*;

use super::layer::{Layer, Watch};
use super::pass::{Over, Pass};
use super::{Block, Frame};
use crate::graph::Op;
use crate::network::check_tokens;
use crate::product::Threads;
use crate::{ModelError, Probe, Result};

/// Tokens that run through a sublayer at a time; one window if that is longer. It bounds the working memory. The windows
/// of a piece run in parallel.
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
pub struct Walk {
    window: usize,
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

/// The range of values of each piece of a stream of `values` values, `width` per token.
pub(super) fn pieces(window: usize, width: usize, values: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let size = together(window) * window * width;
    (0..values).step_by(size).map(move |start| start..values.min(start + size))
}

/// The number of threads for each window of a piece of `windows` windows.
pub(super) fn threads_each(frame: &Frame, windows: usize) -> Threads {
    match frame.threads {
        Threads::Rayon(n) if n > windows => Threads::Rayon(n / windows.max(1)),
        _ => Threads::One,
    }
}

/// The inputs of linear layers that a window showed.
#[derive(Default)]
struct Record(Vec<(Vec<String>, Vec<f32>, usize)>);

impl Probe for Record {
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize) {
        self.0.push((names.iter().map(|&name| name.to_owned()).collect(), x.to_vec(), width));
    }
}

impl Record {
    /// Passes the inputs on.
    fn show(&self, probe: &mut dyn Probe) {
        for (names, x, width) in &self.0 {
            probe.linear(&names.iter().map(String::as_str).collect::<Vec<_>>(), x, *width);
        }
    }
}

/// Runs operations on the windows of a piece, in parallel. `probe` receives their inputs, window by window, and then that
/// of the operation `last`.
fn run_piece(
    frame: &Frame,
    (piece, window): (&mut [f32], usize),
    ops: &[Op<Layer, Vec<f32>>],
    last: Option<&Op<Layer, Vec<f32>>>,
    probe: Option<&mut (dyn Probe + '_)>,
) {
    let size = window * frame.config.hidden_size;
    let threads = threads_each(frame, piece.len() / size);
    let tables = frame.rope_tables(0, window, window);
    let is_watched = probe.is_some();
    let records = piece.par_chunks_mut(size).map(|x| {
        let mut record = is_watched.then(Record::default);
        let mut watch = Watch(record.as_mut().map(|record| record as &mut dyn Probe));
        let mut pass = Pass::new(x, Over::Windows(window), &tables, threads, &mut watch);
        pass.run(ops);
        last.into_iter().for_each(|op| pass.show(op));
        record
    });
    let records: Vec<Option<Record>> = records.collect();
    if let Some(probe) = probe {
        records.iter().flatten().for_each(|record| record.show(probe));
    }
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

    /// Passes `probe` the inputs of the linear layers of a sublayer, without advancing. Windows come in order; each shows
    /// all inputs of the sublayer, as in [`Probe::linear`].
    ///
    /// # Panics
    /// If `block` does not belong to `frame` or has no sublayer with this index.
    pub fn observe(&self, frame: &Frame, block: &Block, sublayer: usize, probe: &mut dyn Probe) {
        let sublayer = &block.sublayers[sublayer];
        let Some(last) = sublayer.last_linear() else { return };
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let mut x = self.stream[piece].to_vec();
                let (before, last) = (&sublayer.ops[..last], &sublayer.ops[last]);
                run_piece(frame, (&mut x, self.window), before, Some(last), Some(&mut *probe));
            }
        });
    }

    /// Runs all windows through a sublayer of `block`; `probe` receives its inputs as in [`Walk::observe`].
    ///
    /// # Panics
    /// If `block` does not belong to `frame` or has no sublayer with this index.
    pub fn advance(&mut self, frame: &Frame, block: &Block, sublayer: usize, mut probe: Option<&mut dyn Probe>) {
        let ops = &block.sublayers[sublayer].ops;
        frame.pool.install(|| {
            for piece in pieces(self.window, self.width, self.stream.len()) {
                let probe = probe.as_mut().map(|probe| &mut **probe as &mut dyn Probe);
                run_piece(frame, (&mut self.stream[piece], self.window), ops, None, probe);
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
