//! Recovery: multipliers of the rows of quantized weights, trained so that the network predicts what the original does.
//!
//! The loss is KL(original || quantized) over the whole vocabulary, at every position of a text (Hinton et al., arXiv
//! 1503.02531). Integers stay. The derivative with respect to the logarithm of a row's multiplier is the sum over tokens of
//! the output's gradient times the output, so no gradient of a weight is needed. What is learned counts only if it survives
//! rounding and lowers the divergence on text that was held back.

mod adam;
mod teacher;

use std::ops::ControlFlow;

use impasto_codec::IndexArray;
use impasto_core::lattice::power;
use impasto_model::decoder::Decoder;
use impasto_model::{GradientProbe, Probe, WeightSource, config::DecoderConfig};

use crate::error::{EncodeError, heard};
use adam::Adam;
pub use teacher::Teacher;

/// Tokens per step, about: as many windows as have so many.
const BATCH: usize = 1024;
/// Multipliers are sent in 64ths of an octave, from -64 to 63 (SPEC 6).
const PER_OCTAVE: f64 = 64.0;

/// How much recovery trains, and its resources.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecoverOptions {
    /// Number of steps.
    pub steps: usize,
    /// Largest rate of learning: about how much the logarithm of a multiplier changes in a step.
    pub rate: f64,
    /// Tokens per window. Each window starts with an empty context.
    pub window: usize,
    /// Most bytes for the multipliers of all layers that are trained together; those nearest to 0 become 0 until they fit. `None`
    /// for no limit.
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

/// What recovery did to a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// The multipliers, in the order in which they were given.
    pub rows: Vec<RowMultipliers>,
    /// Mean KL divergence on the held-back text in nats per token, with the multipliers at the start.
    pub before: f64,
    /// The same with the trained multipliers, rounded.
    pub after: f64,
}

impl Recovered {
    /// Returns whether the trained multipliers are better than those at the start.
    pub fn is_better(&self) -> bool {
        self.after < self.before && self.trained() > 0
    }

    /// Number of trained rows whose multiplier is not 0.
    pub fn trained(&self) -> usize {
        let of = |rows: &RowMultipliers| {
            rows.values.iter().zip(&rows.is_free).filter(|(value, is_free)| **is_free && **value != 0).count()
        };
        self.rows.iter().map(of).sum()
    }
}

/// The rows of a layer while they are trained.
struct Trained {
    rows: RowMultipliers,
    /// What the rows of the weight are multiplied by now.
    applied: Vec<f32>,
    /// The trained logarithms, and the derivatives of the loss with respect to them.
    logarithms: Vec<f64>,
    gradient: Vec<f64>,
    adam: Adam,
}

impl Trained {
    fn new(rows: RowMultipliers) -> Trained {
        let n = rows.values.len();
        let logarithms = rows.values.iter().map(|&m| f64::from(m) / PER_OCTAVE * std::f64::consts::LN_2).collect();
        Trained { applied: vec![1.0; n], logarithms, gradient: vec![0.0; n], adam: Adam::new(n), rows }
    }

    /// Multiplies the weight so that in all its rows have these multipliers.
    fn apply(&mut self, student: &mut Decoder, wanted: impl Iterator<Item = f32>) -> Result<(), EncodeError> {
        let wanted: Vec<f32> = wanted.collect();
        let factors: Vec<f32> = wanted.iter().zip(&self.applied).map(|(wanted, applied)| wanted / applied).collect();
        self.applied = wanted;
        Ok(student.scale_rows(&self.rows.name, &factors)?)
    }

    fn apply_values(&mut self, student: &mut Decoder) -> Result<(), EncodeError> {
        let wanted: Vec<f32> = self.rows.values.iter().map(|&m| power(m.into())).collect();
        self.apply(student, wanted.into_iter())
    }

    /// Takes a step, and clears the gradient.
    fn step(&mut self, student: &mut Decoder, tokens: usize, rate: f64) -> Result<(), EncodeError> {
        let is_free = &self.rows.is_free;
        self.gradient
            .iter_mut()
            .zip(is_free)
            .for_each(|(g, &is_free)| *g *= f64::from(u8::from(is_free)) / tokens as f64);
        self.adam.step(&mut self.logarithms, &self.gradient, rate);
        self.gradient.fill(0.0);
        let wanted: Vec<f32> = self.logarithms.iter().map(|x| x.exp() as f32).collect();
        self.apply(student, wanted.into_iter())
    }

    fn round(&mut self) {
        let multiplier = |x: f64| (x / std::f64::consts::LN_2 * PER_OCTAVE).round().clamp(-64.0, 63.0) as i16;
        let values = self.rows.values.iter_mut().zip(&self.logarithms).zip(&self.rows.is_free);
        values.filter(|(_, is_free)| **is_free).for_each(|((value, &x), _)| *value = multiplier(x));
    }
}

/// Adds the derivatives of the layers that are trained.
struct Gradients<'a>(&'a mut [Trained]);

impl Probe for Gradients<'_> {
    fn linear(&mut self, _: &[&str], _: &[f32], _: usize) {}
}

impl GradientProbe for Gradients<'_> {
    fn head(&mut self, _: &str, _: &[f32], _: usize) {}

    fn linear_gradient(&mut self, _: &str, _: &[f32], _: usize) {}

    fn embedding_gradient(&mut self, _: &[u32], _: &[f32], _: usize) {}

    fn wants_rows(&self) -> bool {
        true
    }

    fn row_gradient(&mut self, name: &str, gradient: &[f64]) {
        if let Some(layer) = self.0.iter_mut().find(|layer| layer.rows.name == name) {
            layer.gradient.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
    }
}

/// Trains multipliers of rows of `student`, whose weights are those without any, toward `teacher`.
///
/// # Errors
/// A model that cannot be run or has no layer of a given name, logits that are not finite, not enough memory, or `watch` cancels
/// ([`EncodeError::Cancelled`]).
pub fn recover(
    teacher: &Teacher,
    student: &dyn WeightSource,
    rows: Vec<RowMultipliers>,
    options: &RecoverOptions,
    watch: RecoverWatch<'_>,
) -> Result<Recovered, EncodeError> {
    let mut student = Decoder::load(student, config(student)?, options.threads)?;
    let mut layers: Vec<Trained> = rows.into_iter().map(Trained::new).collect();
    layers.iter_mut().try_for_each(|layer| layer.apply_values(&mut student))?;
    heard(watch(Recovering::Measuring))?;
    let before = teacher.held_back(&student)?;
    for step in 0..options.steps {
        heard(watch(Recovering::Step(step, options.steps)))?;
        let mut tokens = 0;
        for window in teacher.batch(step, BATCH) {
            student.distill(window.tokens, &window.predictions, &mut Gradients(&mut layers))?;
            tokens += window.tokens.len();
        }
        let rate = options.rate * adam::schedule(step, options.steps);
        layers.iter_mut().try_for_each(|layer| layer.step(&mut student, tokens, rate))?;
    }
    layers.iter_mut().for_each(Trained::round);
    fit(&mut layers, options.bytes);
    layers.iter_mut().try_for_each(|layer| layer.apply_values(&mut student))?;
    heard(watch(Recovering::Measuring))?;
    let after = teacher.held_back(&student)?;
    Ok(Recovered { rows: layers.into_iter().map(|layer| layer.rows).collect(), before, after })
}

/// Most bytes that the padding of a unit takes.
const PADDING: u64 = 15;

/// Makes multipliers 0 until their arrays take at most so many bytes: first those nearest to 0.
fn fit(layers: &mut [Trained], bytes: Option<u64>) {
    let Some(most) = bytes else { return };
    let length = |layer: &Trained| {
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
