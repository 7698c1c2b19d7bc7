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
//!
//! Sums over tokens are those of *parts*, some windows each, added in the order of the text. So several machines can share the
//! parts, and their sums are those of one machine ([`shards`]).

mod damping;
mod memory;
mod result;
mod shards;
mod spill;
mod sums;

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::path::Path;

use impasto_checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Block, Frame, Walk, WalkBack};
use impasto_model::{LinearInfo, ModelError, Probe, WeightSource, add_gram};
use rayon::prelude::*;

use crate::error::{EncodeError, heard};
use crate::portion::Portion;
use crate::statistics::{self, Info};
use memory::memory;
use shards::{PortionSums, Recorded};
pub use shards::{fuzz_sums, is_calibration, merge_statistics};
pub(crate) use spill::{Spill, Stretch};
use sums::{Fisher, zeros};
pub(crate) use sums::{Group, Rows, Sums};

/// Seed for drawing the labels `y`.
const SEED: u64 = 1;
/// One in this many windows is held out, to search the dampings on.
const HELD_BACK: usize = 8;
/// Windows of a part.
const TOGETHER: usize = 8;

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
    let plan = Plan::new(weights, tokens, options)?;
    let parts: Vec<&Part> = plan.parts.iter().collect();
    plan.check_memory(&parts, options)?;
    let frame = Frame::load(weights, plan.config.clone(), options.threads)?;
    let mut run = Run::new(&frame, &plan, parts, path)?;
    run.forward(weights, watch)?;
    let fisher = run.backward(weights, watch)?;
    heard(watch(Calibrating::Writing))?;
    let info = plan.info(checkpoint, text)?;
    let fisher = Fisher::sum(frame.config().vocab_size, fisher.iter().map(|(_, fisher)| fisher));
    result::write(path, info, run.groups, &fisher, (frame.embedding(), frame.head().name), &mut run.spill)
}

/// Measures a portion of what [`calibrate`] does: its part of the windows, for a file at `path`, next to which the result is. Once all
/// portions are there, [`merge_statistics`] makes the statistics of them.
///
/// # Errors
/// As for [`calibrate`].
pub fn calibrate_portion(
    checkpoint: &Checkpoint,
    weights: &dyn WeightSource,
    tokens: &[u32],
    options: &CalibrateOptions,
    text: &blake3::Hash,
    (path, portion): (&Path, Portion),
    watch: &mut dyn FnMut(Calibrating) -> ControlFlow<()>,
) -> Result<(), EncodeError> {
    let plan = Plan::new(weights, tokens, options)?;
    let info = plan.info(checkpoint, text)?;
    let sums = PortionSums::new(path, portion, info, plan.parts.len());
    if sums.is_there() {
        return Ok(());
    }
    let own: Vec<&Part> = plan.parts.iter().filter(|part| part.number % portion.of() == portion.number() - 1).collect();
    plan.check_memory(&own, options)?;
    let frame = Frame::load(weights, plan.config.clone(), options.threads)?;
    let mut run = Run::new(&frame, &plan, own, path)?;
    run.recorded = Some(vec![]);
    run.forward(weights, watch)?;
    let fisher = run.backward(weights, watch)?;
    heard(watch(Calibrating::Writing))?;
    let ends = (frame.embedding(), frame.head().name);
    sums.write(run.recorded.unwrap_or_default(), &fisher, ends, &mut run.spill)
}

/// What calibration does with which tokens.
struct Plan<'a> {
    config: DecoderConfig,
    window: usize,
    /// Those of whole windows.
    tokens: &'a [u32],
    /// Number of windows for the gradients, and of those that are held out.
    backwards: usize,
    held_back: usize,
    parts: Vec<Part>,
}

/// Some windows, in the order of the text.
struct Part {
    number: usize,
    windows: Range<usize>,
    is_held_back: bool,
}

impl<'a> Plan<'a> {
    fn new(weights: &dyn WeightSource, tokens: &'a [u32], options: &CalibrateOptions) -> Result<Plan<'a>, EncodeError> {
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
        let rest = count - held_back;
        let of_rest = (0..rest).step_by(TOGETHER).map(|first| first..rest.min(first + TOGETHER));
        let all = of_rest.chain((held_back > 0).then_some(rest..count)).enumerate();
        let part =
            |(number, windows): (usize, Range<usize>)| Part { number, is_held_back: windows.start == rest, windows };
        Ok(Plan {
            config,
            window,
            tokens: &tokens[..count * window],
            backwards,
            held_back,
            parts: all.map(part).collect(),
        })
    }

    /// Returns the windows of a part that gradients are computed on.
    fn backwards_of(&self, part: &Part) -> Range<usize> {
        part.windows.start..part.windows.end.min(self.backwards).max(part.windows.start)
    }

    /// Checks that the memory for some parts is within the limit.
    fn check_memory(&self, parts: &[&Part], options: &CalibrateOptions) -> Result<(), EncodeError> {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if options.threads == 0 { processors() } else { options.threads };
        let all = parts.iter().map(|part| part.windows.len()).sum();
        let backwards = parts.iter().map(|part| self.backwards_of(part).len()).sum();
        let held_back = parts.iter().filter(|part| part.is_held_back).map(|part| part.windows.len()).sum();
        let needed = memory(&self.config, self.window, [all, backwards, held_back], threads);
        match options.memory_limit.filter(|&limit| needed > limit) {
            None => Ok(()),
            Some(limit) => {
                let least = memory(&self.config, self.window, [1, 1, 0], threads);
                Err(EncodeError::Memory { needed, least, limit })
            }
        }
    }

    /// Returns the origin of the statistics.
    fn info(&self, checkpoint: &Checkpoint, text: &blake3::Hash) -> Result<Info, EncodeError> {
        Ok(Info {
            version: statistics::VERSION,
            model: model_hash(checkpoint)?.to_hex().to_string(),
            text: text.to_hex().to_string(),
            window: self.window as u64,
            tokens: self.tokens.len() as u64,
            gradient_tokens: (self.backwards * self.window) as u64,
            held_back_tokens: (self.held_back * self.window) as u64,
            groups: BTreeMap::new(),
            linears: BTreeMap::new(),
        })
    }

    /// Returns the tokens of some windows.
    fn tokens(&self, windows: Range<usize>) -> &'a [u32] {
        &self.tokens[windows.start * self.window..windows.end * self.window]
    }
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

/// Held-out inputs of a group: those that dampings are searched on, the sum of `x x^T` over all of them, and their number.
struct HeldBack {
    rows: Vec<f32>,
    sum: Vec<f32>,
    tokens: usize,
}

/// The last damping step found for each input, by its position in a block; `None` for the input of the output projection.
type Steps = HashMap<Option<usize>, usize>;

/// A calibration in progress.
struct Run<'a> {
    frame: &'a Frame,
    plan: &'a Plan<'a>,
    /// Those parts that are evaluated here.
    parts: Vec<&'a Part>,
    /// Their windows; empty once the forward pass is over.
    walks: Vec<Walk>,
    /// What the backward pass needs of the residual streams before each sublayer and after the last one: those of leading windows.
    streams: Vec<Stretch>,
    /// By the name of the group.
    groups: BTreeMap<String, Settled>,
    steps: Steps,
    spill: Spill,
    /// The sums of each part, if others have other parts.
    recorded: Option<Vec<Recorded>>,
}

impl<'a> Run<'a> {
    fn new(frame: &'a Frame, plan: &'a Plan, parts: Vec<&'a Part>, path: &Path) -> Result<Run<'a>, EncodeError> {
        let walk = |part: &&Part| Walk::new(frame, plan.tokens(part.windows.clone()), plan.window);
        let walks = parts.iter().map(walk).collect::<Result<_, _>>()?;
        let (streams, groups, steps) = (vec![], BTreeMap::new(), HashMap::new());
        Ok(Run { frame, plan, parts, walks, streams, groups, steps, spill: Spill::beside(path)?, recorded: None })
    }

    /// Returns the windows of each part that gradients are computed on.
    fn backwards(&self) -> Vec<Range<usize>> {
        self.parts.iter().map(|part| self.plan.backwards_of(part)).collect()
    }

    /// Returns the number of values of the residual streams of so many windows.
    fn values(&self, windows: usize) -> usize {
        windows * self.plan.window * self.frame.config().hidden_size
    }
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
        self.keep_streams()?;
        heard(watch(Calibrating::OutputProjection))?;
        self.head()
    }

    /// Observes the input of the output projection and frees the residual streams.
    fn head(&mut self) -> Result<(), EncodeError> {
        self.observe([self.frame.head()], [None], |frame, walk, probe| walk.finish(frame, probe))?;
        self.walks.clear();
        Ok(())
    }

    /// Saves what the backward pass needs of the residual streams.
    fn keep_streams(&mut self) -> Result<(), EncodeError> {
        let kept = self.backwards().into_iter().map(|windows| self.values(windows.len()));
        let parts = self.walks.iter().zip(kept.collect::<Vec<_>>()).map(|(walk, kept)| &walk.stream()[..kept]);
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
        let mut sums = Sums::of(layers)?;
        let (mut of_part, mut held) = (sums.alike()?, Rows::default());
        let mut recorded: Vec<Recorded> = sums.0.iter().map(Recorded::of).collect();
        for (part, walk) in self.parts.iter().zip(&mut self.walks) {
            if part.is_held_back {
                show(self.frame, walk, &mut held);
                continue;
            }
            of_part.clear();
            show(self.frame, walk, &mut of_part);
            if self.recorded.is_none() {
                sums.add(&of_part);
                continue;
            }
            for (recorded, group) in recorded.iter_mut().zip(&of_part.0) {
                let sum = self.spill.push(triangle(&group.sum, group.inputs))?;
                recorded.parts.push((part.number, group.tokens, sum));
            }
        }
        for (((kind, group), of_part), mut recorded) in kinds.into_iter().zip(sums.0).zip(of_part.0).zip(recorded) {
            let rows = group.names.first().and_then(|name| held.0.remove(name)).unwrap_or_default();
            let held = self.frame.pool().install(|| HeldBack::new(rows, of_part));
            if let Some(all) = &mut self.recorded {
                recorded.kind = kind;
                recorded.held = held.map(|held| held.record(group.inputs, &mut self.spill)).transpose()?;
                all.push(recorded);
                continue;
            }
            let step = self.steps.entry(kind).or_insert(damping::USUAL);
            let settled = self.frame.pool().install(|| settle(group, held, step, &mut self.spill))?;
            self.groups.extend(settled);
        }
        Ok(())
    }

    /// Runs the backward pass, from the output projection to the embedding. Returns the sums of each part.
    fn backward(
        &mut self,
        weights: &dyn WeightSource,
        watch: &mut dyn FnMut(Calibrating) -> ControlFlow<()>,
    ) -> Result<Vec<(usize, Fisher)>, EncodeError> {
        let (frame, blocks) = (self.frame, self.frame.config().blocks.len());
        let windows = self.backwards();
        let values: Vec<usize> = windows.iter().map(|windows| self.values(windows.len())).collect();
        let mut stream = zeros(Some(values.iter().sum()), "the streams before a sublayer")?;
        let mut streams = std::mem::take(&mut self.streams).into_iter().rev();
        let mut before = |stream: &mut [f32]| streams.next().map_or(Ok(()), |place| self.spill.read(place, stream));
        before(&mut stream)?;
        let (mut backs, mut start) = (vec![], 0);
        for ((part, windows), values) in self.parts.iter().zip(&windows).zip(values).filter(|(_, values)| *values > 0) {
            let (mut fisher, place) = (Fisher::new(frame.config().vocab_size), start..start + values);
            let seed = SEED + windows.start as u64;
            let back = WalkBack::new(frame, &stream[place.clone()], self.plan.window, seed, &mut fisher)?;
            start = place.end;
            backs.push((part.number, windows.clone(), place, back, fisher));
        }
        for index in (0..blocks).rev() {
            heard(watch(Calibrating::Backward(index, blocks)))?;
            let block: Block = frame.load_block(weights, index)?;
            for sublayer in (0..block.sublayers.len()).rev() {
                before(&mut stream)?;
                for (_, _, place, back, fisher) in &mut backs {
                    back.retreat(frame, &block, sublayer, &stream[place.clone()], fisher);
                }
            }
        }
        let finished = backs.into_iter().map(|(number, windows, _, back, mut fisher)| {
            back.finish(frame, self.plan.tokens(windows), &mut fisher);
            (number, fisher)
        });
        Ok(finished.collect())
    }
}

/// Returns the rows of the lower triangle of a matrix.
fn triangle(sum: &[f32], n: usize) -> impl Iterator<Item = &[f32]> {
    (0..n).map(move |i| &sum[i * n..=i * n + i])
}

impl HeldBack {
    /// Sums held-out inputs; `None` if there are none. `room` is a sum of another part that is not needed any more.
    fn new(rows: Vec<f32>, room: Group) -> Option<HeldBack> {
        let (n, mut sum) = (room.inputs, room.sum);
        if rows.is_empty() {
            return None;
        }
        sum.fill(0.0);
        add_gram(&mut sum, &rows, n);
        Some(HeldBack { tokens: rows.len() / n.max(1), rows, sum })
    }
}

/// Finds the damping of a group, starting at `step`, adds the held-out inputs to its sum, and writes its covariance to the temporary
/// file. Returns it with its name.
fn settle(
    mut group: Group,
    held: Option<HeldBack>,
    step: &mut usize,
    spill: &mut Spill,
) -> Result<Option<(String, Settled)>, EncodeError> {
    let Some(name) = group.names.first().cloned() else { return Ok(None) };
    let n = group.inputs;
    let search = |held: &HeldBack| damping::search(&group.sum, group.tokens, &held.rows, n, *step);
    let found = held.as_ref().map(search).transpose()?;
    *step = found.map_or(*step, |found| found.step);
    if let Some(held) = held {
        group.add(&held.sum, held.tokens);
    }
    let tokens = group.tokens as f32;
    group.sum.iter_mut().for_each(|s| *s /= tokens);
    if triangle(&group.sum, n).flatten().any(|x| !x.is_finite()) {
        return Err(EncodeError::NotFinite { what: "inputs", name });
    }
    let settled = Settled {
        inputs: n,
        tokens: group.tokens,
        covariance: spill.push(triangle(&group.sum, n))?,
        mean_square: (0..n).map(|i| f64::from(group.sum[i * n + i])).sum::<f64>() / n as f64,
        damping: damping::damping(*step),
        held_back: found.map(|found| found.held_back).filter(|ratio| ratio.is_finite()),
        names: group.names,
    };
    Ok(Some((name, settled)))
}

/// Returns a hash of the names, dtypes, shapes and bytes of all tensors.
///
/// # Errors
/// If a file became shorter.
pub fn model_hash(checkpoint: &Checkpoint) -> Result<blake3::Hash, CheckpointError> {
    let hashes: Vec<blake3::Hash> =
        checkpoint.tensors().par_iter().map(|tensor| tensor_hash(checkpoint, tensor)).collect();
    checkpoint.check()?;
    Ok(hash_of(checkpoint, &hashes))
}

/// Returns the hash of the bytes of a tensor.
pub fn tensor_hash(checkpoint: &Checkpoint, tensor: &TensorInfo) -> blake3::Hash {
    let hash = blake3::hash(checkpoint.bytes(tensor));
    checkpoint.release(tensor);
    hash
}

/// Returns [`model_hash`], given the hash of each tensor of the checkpoint.
pub fn hash_of(checkpoint: &Checkpoint, hashes: &[blake3::Hash]) -> blake3::Hash {
    let line = |(tensor, hash): (&TensorInfo, &blake3::Hash)| {
        let type_name = tensor.type_name.as_deref().unwrap_or(tensor.dtype.name());
        format!("{:?} {type_name} {:?} {hash}\n", tensor.name, tensor.shape)
    };
    let lines: Vec<String> = checkpoint.tensors().iter().zip(hashes).map(line).collect();
    blake3::hash(lines.concat().as_bytes())
}
