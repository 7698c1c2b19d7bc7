//! Calibration: measures the inputs of a model's linear layers on a text, and how much errors of their outputs matter.
//!
//! For each input it computes the mean of `x x^T`, and for each output the diagonal of the Fisher information: the mean
//! square of the gradient of `-log p(y)`, with `y` drawn from the model. An error `e` of the outputs costs about
//! `1/2 sum g^2 e^2` in KL divergence (its second-order expansion at the minimum). Together with the covariance of the
//! inputs, this predicts the cost of a change of the weights.
//!
//! All windows of the text pass through the model together, one block at a time, forward and then backward. Memory
//! holds the embedding and output projection, one block, the residual streams of all windows, the covariances of a
//! sublayer, and the activations of some windows. What the backward pass needs is in a temporary file ([`spill`]).

mod damping;
mod memory;
mod result;
mod spill;
mod sums;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use impasto_checkpoint::{Checkpoint, CheckpointError};
use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Block, Frame, Walk, WalkBack};
use impasto_model::{LinearInfo, ModelError, Probe, WeightSource, add_gram};
use rayon::prelude::*;

use crate::error::{EncodeError, heard};
use crate::statistics::{self, Info};
use memory::memory;
pub(crate) use spill::{Spill, Stretch};
use sums::{Fisher, zeros};
pub(crate) use sums::{Group, Rows, Sums};

/// Seed for drawing the labels `y`.
const SEED: u64 = 1;
/// One in this many windows is held out, to search the dampings on.
const HELD_BACK: usize = 8;

/// How much of a text calibration uses, and its resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibrateOptions {
    /// Most tokens for the covariances.
    pub tokens: usize,
    /// Most tokens for the gradients, taken from the start of these. A token costs three times as much here.
    pub gradient_tokens: usize,
    /// Tokens per window. Each window starts with an empty context.
    pub window: usize,
    /// Number of threads; 0 means one per core. The statistics do not depend on it.
    pub threads: usize,
    /// Approximate limit on memory, in bytes; `None` for no limit.
    pub memory_limit: Option<u64>,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        CalibrateOptions { tokens: 32768, gradient_tokens: 16384, window: 512, threads: 0, memory_limit: None }
    }
}

/// Progress of a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calibrating {
    /// Forward pass through a block: its index, and the number of blocks.
    Forward(usize, usize),
    /// Forward and backward pass through the output projection.
    OutputProjection,
    /// Backward pass through a block: its index, and the number of blocks.
    Backward(usize, usize),
    /// Writing the file of statistics.
    Writing,
}

/// Measures statistics of a model on `tokens` and writes them to `path`.
///
/// Tokens are evaluated in windows; a last, incomplete window is ignored. `weights` must be those of `checkpoint`; each
/// block is loaded twice. `text` is the hash of the text. `watch` is called before each stage and can cancel.
///
/// # Errors
/// If there is no complete window, the model cannot run the text, memory would exceed the limit, the file cannot be
/// written, or `watch` cancels ([`EncodeError::Cancelled`]). What was at `path` then stays.
pub fn calibrate(
    checkpoint: &Checkpoint,
    weights: &dyn WeightSource,
    tokens: &[u32],
    options: &CalibrateOptions,
    text: &blake3::Hash,
    path: &Path,
    watch: &mut dyn FnMut(Calibrating) -> ControlFlow<()>,
) -> Result<Info, EncodeError> {
    let window = options.window;
    let count = tokens.len().min(options.tokens).checked_div(window).unwrap_or(0);
    if count == 0 {
        return Err(EncodeError::ShortText { tokens: tokens.len().min(options.tokens), window });
    }
    let why = "a model cannot be run without it";
    let json = weights.asset("config.json").ok_or(ModelError::MissingAsset { name: "config.json", why })?;
    let config = DecoderConfig::from_json(&json)?;
    let held_back = if count == 1 { 0 } else { (count / HELD_BACK).max(1) };
    let backwards = (options.gradient_tokens / window).clamp(1, count);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { processors() } else { options.threads };
    let needed = memory(&config, window, [count, backwards, held_back], threads);
    if let Some(limit) = options.memory_limit.filter(|&limit| needed > limit) {
        return Err(EncodeError::Memory { needed, least: memory(&config, window, [1, 1, 0], threads), limit });
    }

    let (tokens, gradient_tokens) = (&tokens[..count * window], &tokens[..backwards * window]);
    let frame = Frame::load(weights, config, options.threads)?;
    let (rest, last) = tokens.split_at((count - held_back) * window);
    let mut walks = vec![Walk::new(&frame, rest, window)?];
    if held_back > 0 {
        walks.push(Walk::new(&frame, last, window)?);
    }
    let mut run = Run {
        frame: &frame,
        walks,
        kept: gradient_tokens.len() * frame.config().hidden_size,
        streams: Vec::new(),
        groups: BTreeMap::new(),
        steps: HashMap::new(),
        spill: Spill::beside(path)?,
    };
    run.forward(weights, watch)?;
    heard(watch(Calibrating::OutputProjection))?;
    run.head()?;
    let fisher = run.backward(weights, gradient_tokens, window, watch)?;
    heard(watch(Calibrating::Writing))?;
    let info = Info {
        version: statistics::VERSION,
        model: model_hash(checkpoint)?.to_hex().to_string(),
        text: text.to_hex().to_string(),
        window: window as u64,
        tokens: tokens.len() as u64,
        gradient_tokens: gradient_tokens.len() as u64,
        held_back_tokens: last.len() as u64,
        groups: BTreeMap::new(),
        linears: BTreeMap::new(),
    };
    result::write(path, info, run.groups, &fisher, (frame.embedding(), frame.head().name), &mut run.spill)
}

/// What is known of a group's input once its covariance is in the temporary file.
struct Settled {
    names: Vec<String>,
    inputs: usize,
    tokens: usize,
    covariance: Stretch,
    mean_square: f64,
    damping: f64,
    held_back: Option<f64>,
}

/// A calibration in progress.
struct Run<'a> {
    frame: &'a Frame,
    /// The windows for the covariances and, if there are any, the held-out windows.
    walks: Vec<Walk>,
    /// Number of leading values of the residual streams that the backward pass needs.
    kept: usize,
    /// These values before each sublayer and after the last one.
    streams: Vec<Stretch>,
    /// By the name of the group.
    groups: BTreeMap<String, Settled>,
    /// The last damping step found for each input, by its position in a block; `None` for the input of the output
    /// projection.
    steps: HashMap<Option<usize>, usize>,
    spill: Spill,
}

impl Run<'_> {
    fn forward(
        &mut self,
        weights: &dyn WeightSource,
        watch: &mut dyn FnMut(Calibrating) -> ControlFlow<()>,
    ) -> Result<(), EncodeError> {
        let blocks = self.frame.config().blocks.len();
        for index in 0..blocks {
            heard(watch(Calibrating::Forward(index, blocks)))?;
            let block = self.frame.load_block(weights, index)?;
            let mut inputs = 0;
            for (at, sublayer) in block.sublayers.iter().enumerate() {
                self.keep_streams()?;
                let kinds = (inputs..).map(Some);
                inputs += sublayer.groups().count();
                self.observe(block.linears_of(at), kinds, |frame, walk, probe| {
                    walk.advance(frame, &block, at, Some(probe));
                })?;
            }
        }
        self.keep_streams()
    }

    /// Observes the input of the output projection and frees the residual streams.
    fn head(&mut self) -> Result<(), EncodeError> {
        self.observe([self.frame.head()], [None], |frame, walk, probe| walk.finish(frame, probe))?;
        self.walks.clear();
        Ok(())
    }

    /// Saves what the backward pass needs of the residual streams.
    fn keep_streams(&mut self) -> Result<(), EncodeError> {
        let mut left = self.kept;
        let parts = self.walks.iter().map(|walk| {
            let part = &walk.stream()[..left.min(walk.stream().len())];
            left -= part.len();
            part
        });
        self.streams.push(self.spill.push(parts)?);
        Ok(())
    }

    /// Observes the inputs of `layers` in all windows and settles their covariances. `kinds` are the positions of these
    /// inputs in their block, as in `steps`.
    fn observe<'l>(
        &mut self,
        layers: impl IntoIterator<Item = LinearInfo<'l>>,
        kinds: impl IntoIterator<Item = Option<usize>>,
        mut show: impl FnMut(&Frame, &mut Walk, &mut dyn Probe),
    ) -> Result<(), EncodeError> {
        let (mut sums, mut held) = (Sums::of(layers)?, Rows::default());
        if let Some(walk) = self.walks.first_mut() {
            show(self.frame, walk, &mut sums);
        }
        if let Some(walk) = self.walks.get_mut(1) {
            show(self.frame, walk, &mut held);
        }
        for (kind, group) in kinds.into_iter().zip(sums.0) {
            let held = group.names.first().and_then(|name| held.0.remove(name)).unwrap_or_default();
            let frame = self.frame;
            frame.pool().install(|| self.settle(group, &held, kind))?;
        }
        Ok(())
    }

    /// Finds the damping of a group, adds the held-out inputs to its sum, and writes its covariance to the temporary
    /// file.
    fn settle(&mut self, mut group: Group, held: &[f32], kind: Option<usize>) -> Result<(), EncodeError> {
        let Some(name) = group.names.first().cloned() else { return Ok(()) };
        let n = group.inputs;
        let step = self.steps.entry(kind).or_insert(damping::USUAL);
        let found = match held.is_empty() {
            true => None,
            false => Some(damping::search(&group.sum, group.tokens, held, n, *step)?),
        };
        *step = found.map_or(*step, |found| found.step);
        let damping = damping::damping(*step);
        add_gram(&mut group.sum, held, n);
        group.tokens += held.len() / n;
        let tokens = group.tokens as f32;
        group.sum.iter_mut().for_each(|s| *s /= tokens);
        let triangle = || (0..n).map(|i| &group.sum[i * n..=i * n + i]);
        if triangle().flatten().any(|x| !x.is_finite()) {
            return Err(EncodeError::NotFinite { what: "inputs", name });
        }
        let settled = Settled {
            inputs: n,
            tokens: group.tokens,
            covariance: self.spill.push(triangle())?,
            mean_square: (0..n).map(|i| f64::from(group.sum[i * n + i])).sum::<f64>() / n as f64,
            damping,
            held_back: found.map(|found| found.held_back).filter(|ratio| ratio.is_finite()),
            names: group.names,
        };
        self.groups.insert(name, settled);
        Ok(())
    }

    /// Runs the backward pass over `tokens`, from the output projection to the embedding.
    fn backward(
        &mut self,
        weights: &dyn WeightSource,
        tokens: &[u32],
        window: usize,
        watch: &mut dyn FnMut(Calibrating) -> ControlFlow<()>,
    ) -> Result<Fisher, EncodeError> {
        let (frame, blocks) = (self.frame, self.frame.config().blocks.len());
        let mut fisher = Fisher::new(frame.config().vocab_size);
        let mut stream = zeros(Some(self.kept), "the streams before a sublayer")?;
        let mut streams = std::mem::take(&mut self.streams).into_iter().rev();
        let mut before = |stream: &mut [f32]| streams.next().map_or(Ok(()), |place| self.spill.read(place, stream));
        before(&mut stream)?;
        let mut back = WalkBack::new(frame, &stream, window, SEED, &mut fisher)?;
        for index in (0..blocks).rev() {
            heard(watch(Calibrating::Backward(index, blocks)))?;
            let block: Block = frame.load_block(weights, index)?;
            for sublayer in (0..block.sublayers.len()).rev() {
                before(&mut stream)?;
                back.retreat(frame, &block, sublayer, &stream, &mut fisher);
            }
        }
        back.finish(frame, tokens, &mut fisher);
        Ok(fisher)
    }
}

/// Returns a hash of the names, dtypes, shapes and bytes of all tensors.
///
/// # Errors
/// If a file became shorter.
pub fn model_hash(checkpoint: &Checkpoint) -> Result<blake3::Hash, CheckpointError> {
    let hash = |tensor: &impasto_checkpoint::TensorInfo| {
        let hash = blake3::hash(checkpoint.bytes(tensor));
        checkpoint.release(tensor);
        let type_name = tensor.type_name.as_deref().unwrap_or(tensor.dtype.name());
        format!("{:?} {type_name} {:?} {hash}\n", tensor.name, tensor.shape)
    };
    let lines: Vec<String> = checkpoint.tensors().par_iter().map(hash).collect();
    checkpoint.check()?;
    Ok(blake3::hash(lines.concat().as_bytes()))
}
