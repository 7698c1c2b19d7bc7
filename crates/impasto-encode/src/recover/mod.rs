//! Recovery: multipliers of the rows of quantized weights and the weights of norms, trained so that the network predicts what
//! the original does.
//!
//! The loss is KL(original || quantized) over the whole vocabulary, at every position of a text (Hinton et al., arXiv
//! 1503.02531). Integers stay. The derivative with respect to the logarithm of a factor on a row, or on the weight of a norm,
//! is the sum over tokens of the output's gradient times the output, so no gradient of a matrix is needed. What is learned
//! counts only if it survives rounding and lowers the divergence on text that was held back.

mod adam;
mod teacher;
mod trained;

use std::ops::ControlFlow;

use impasto_codec::IndexArray;
use impasto_codec::tile::encode_bytes;
use impasto_core::{DType, Mode, lattice};
use impasto_model::decoder::Decoder;
use impasto_model::{GradientProbe, Probe, WeightSource, config::DecoderConfig};

use crate::error::{EncodeError, heard};
pub use teacher::{Teacher, check_memory};
use trained::{Norm, Rows};

/// Tokens per step, about: as many windows as have so many.
const BATCH: usize = 1024;
/// Zstandard level for norms.
const NORM_LEVEL: i32 = 18;

/// How much recovery trains, and its resources.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecoverOptions {
    /// Number of steps.
    pub steps: usize,
    /// Largest rate of learning: about how much the logarithm of a multiplier changes in a step.
    pub rate: f64,
    /// Tokens per window. Each window starts with an empty context.
    pub window: usize,
    /// Most bytes for the multipliers of all layers that are trained together, and by which the units of norms become longer;
    /// multipliers nearest to 0 become 0 until they fit. `None` for no limit.
    pub bytes: Option<u64>,
    /// Number of threads; 0 means one per core.
    pub threads: usize,
    /// Approximate limit on memory, in bytes; `None` for no limit.
    pub memory_limit: Option<u64>,
}

impl Default for RecoverOptions {
    fn default() -> RecoverOptions {
        RecoverOptions { steps: 60, rate: 3e-3, window: 512, bytes: None, threads: 0, memory_limit: None }
    }
}

impl RecoverOptions {
    /// Returns the number of tokens with which each step has new ones, and some are held back.
    pub fn tokens(&self) -> usize {
        let windows = self.steps * (BATCH / self.window.max(1)).max(1);
        (windows + teacher::held_back_of(windows)) * self.window
    }
}

/// Progress of a recovery.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recovering {
    /// Running the original: index of the block, and number of blocks.
    Original(usize, usize),
    /// Measuring on text that was held back.
    Measuring,
    /// A step: its number from 0, and the number of steps.
    Step(usize, usize),
}

/// A callback that is called before each stage; it cancels by returning `Break`.
pub type RecoverWatch<'a> = &'a mut dyn FnMut(Recovering) -> ControlFlow<()>;

/// The multipliers of a linear layer's rows, in 64ths of an octave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMultipliers {
    /// Name of the weight.
    pub name: String,
    /// One for each row: at the start and, once trained, in the end.
    pub values: Vec<i16>,
    /// Whether each row is trained.
    pub is_free: Vec<bool>,
}

/// The weights of a norm.
#[derive(Clone, Debug, PartialEq)]
pub struct NormWeights {
    /// Its number in [`Decoder::norm`].
    pub number: usize,
    /// Whether the norm multiplies by these values plus one.
    pub plus_one: bool,
    /// The dtype of the tensor: BF16, F16 or F32.
    pub dtype: DType,
    /// The bytes that its elements take in the file at the start.
    pub bytes: u64,
    /// The elements of the tensor: at the start and, once trained, in the end.
    pub values: Vec<f32>,
}

impl NormWeights {
    /// What elements are less than weights.
    fn less(&self) -> f32 {
        f32::from(u8::from(self.plus_one))
    }

    /// Rounds an element that was trained. More bits than BF16 has would cost more than they are worth.
    fn rounded(&self, w: f32) -> f32 {
        lattice::round(if self.dtype == DType::F32 { DType::Bf16 } else { self.dtype }, w)
    }

    /// Codes the elements as the one tile of their tensor. Returns its mode and its unit.
    ///
    /// # Errors
    /// If Zstandard fails.
    pub fn code(&self) -> Result<(Mode, Vec<u8>), EncodeError> {
        let mut bytes = vec![0; self.values.len() * self.dtype.size()];
        lattice::write_weights(self.dtype, self.values.iter().copied(), &mut bytes);
        let coded = encode_bytes(&bytes, self.dtype, NORM_LEVEL);
        coded.map_err(|error| EncodeError::Codec { tensor: format!("norm {}", self.number), error })
    }
}

/// What recovery did to a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// The multipliers, in the order in which they were given.
    pub rows: Vec<RowMultipliers>,
    /// The norms, in the order in which they were given.
    pub norms: Vec<NormWeights>,
    /// Mean KL divergence on the held-back text in nats per token, with the multipliers at the start.
    pub before: f64,
    /// The same with the trained multipliers, rounded.
    pub after: f64,
}

impl Recovered {
    /// Returns whether the trained multipliers are better than those at the start.
    pub fn is_better(&self) -> bool {
        self.after < self.before && (self.trained() > 0 || !self.norms.is_empty())
    }

    /// Number of trained rows whose multiplier is not 0.
    pub fn trained(&self) -> usize {
        let of = |rows: &RowMultipliers| {
            rows.values.iter().zip(&rows.is_free).filter(|(value, is_free)| **is_free && **value != 0).count()
        };
        self.rows.iter().map(of).sum()
    }
}

/// What is trained.
struct Trained {
    rows: Vec<Rows>,
    norms: Vec<Norm>,
}

impl Trained {
    fn apply_values(&mut self, student: &mut Decoder) -> Result<(), EncodeError> {
        self.rows.iter_mut().try_for_each(|rows| rows.apply_values(student))?;
        self.norms.iter().try_for_each(|norm| norm.apply_values(student))
    }

    fn step(&mut self, student: &mut Decoder, tokens: usize, rate: f64) -> Result<(), EncodeError> {
        self.rows.iter_mut().try_for_each(|rows| rows.step(student, tokens, rate))?;
        self.norms.iter_mut().try_for_each(|norm| norm.step(student, tokens, rate))
    }

    /// Rounds what was trained to what a file can have, in about so many bytes more than before.
    fn round(&mut self, bytes: Option<u64>) -> Result<(), EncodeError> {
        self.rows.iter_mut().for_each(Rows::round);
        self.norms.iter_mut().for_each(Norm::round);
        let Some(most) = bytes else { return Ok(()) };
        let (mut old, mut new) = (0, 0);
        for Norm { norm, .. } in &self.norms {
            (old, new) = (old + norm.bytes, new + norm.code()?.1.len() as u64 + PADDING);
        }
        if new > old + most {
            self.norms.iter_mut().for_each(Norm::reset);
            (old, new) = (0, 0);
        }
        fit(&mut self.rows, most.saturating_add(old) - new);
        Ok(())
    }
}

impl Probe for Trained {
    fn linear(&mut self, _: &[&str], _: &[f32], _: usize) {}
}

impl GradientProbe for Trained {
    fn head(&mut self, _: &str, _: &[f32], _: usize) {}

    fn linear_gradient(&mut self, _: &str, _: &[f32], _: usize) {}

    fn embedding_gradient(&mut self, _: &[u32], _: &[f32], _: usize) {}

    fn row_gradient(&mut self, name: &str, gradient: &[f64]) {
        self.rows.iter_mut().filter(|rows| rows.rows.name == name).for_each(|rows| rows.add(gradient));
    }

    fn norm_gradient(&mut self, number: usize, gradient: &[f64]) {
        self.norms.iter_mut().filter(|norm| norm.norm.number == number).for_each(|norm| norm.add(gradient));
    }
}

/// Trains multipliers of rows of `student`, whose weights are those without any, and weights of its norms, toward `teacher`.
///
/// # Errors
/// A model that cannot be run or has no layer of a given name, logits that are not finite, not enough memory, or `watch` cancels
/// ([`EncodeError::Cancelled`]).
pub fn recover(
    teacher: &Teacher,
    student: &dyn WeightSource,
    rows: Vec<RowMultipliers>,
    norms: Vec<NormWeights>,
    options: &RecoverOptions,
    watch: RecoverWatch<'_>,
) -> Result<Recovered, EncodeError> {
    let mut student = Decoder::load(student, config(student)?, options.threads)?;
    let norms = norms.into_iter().map(|norm| Norm::new(norm, &student)).collect::<Result<_, _>>()?;
    let mut trained = Trained { rows: rows.into_iter().map(Rows::new).collect(), norms };
    trained.apply_values(&mut student)?;
    heard(watch(Recovering::Measuring))?;
    let before = teacher.held_back(&student)?;
    for step in 0..options.steps {
        heard(watch(Recovering::Step(step, options.steps)))?;
        let mut tokens = 0;
        for window in teacher.batch(step) {
            student.distill(window.tokens, &window.predictions, &mut trained)?;
            tokens += window.tokens.len();
        }
        trained.step(&mut student, tokens, options.rate * adam::schedule(step, options.steps))?;
    }
    trained.round(options.bytes)?;
    trained.apply_values(&mut student)?;
    heard(watch(Recovering::Measuring))?;
    let after = teacher.held_back(&student)?;
    let Trained { rows, norms } = trained;
    let (rows, norms) = (rows.into_iter().map(|rows| rows.rows), norms.into_iter().map(|norm| norm.norm));
    Ok(Recovered { rows: rows.collect(), norms: norms.collect(), before, after })
}

/// Most bytes that the padding of a unit takes.
const PADDING: u64 = 15;

/// Makes multipliers 0 until their arrays take at most so many bytes: first those nearest to 0.
fn fit(layers: &mut [Rows], most: u64) {
    let length = |layer: &Rows| {
        let mut out = Vec::new();
        IndexArray::new(layer.rows.values.clone()).write(&mut out);
        // A tensor header may be padded.
        out.len() as u64 + PADDING
    };
    for least in 1.. {
        if least > 64 || layers.iter().map(length).sum::<u64>() <= most {
            return;
        }
        for layer in &mut *layers {
            let values = layer.rows.values.iter_mut().zip(&layer.rows.is_free);
            let small = values.filter(|(value, is_free)| **is_free && value.abs() <= least);
            small.for_each(|(value, _)| *value = 0);
        }
    }
}

/// Returns the configuration of a model.
fn config(source: &dyn WeightSource) -> Result<DecoderConfig, EncodeError> {
    let why = "a model cannot be run without it";
    let missing = impasto_model::ModelError::MissingAsset { name: "config.json", why };
    Ok(DecoderConfig::from_json(&source.asset("config.json").ok_or(missing)?)?)
}
