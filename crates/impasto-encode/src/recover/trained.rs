//! Weights while factors on them are trained.

use impasto_core::lattice::power;
use impasto_model::decoder::Decoder;

use super::adam::Adam;
use super::{NormWeights, RowMultipliers};
use crate::error::EncodeError;

/// Multipliers are sent in 64ths of an octave, from -64 to 63 (SPEC 6).
const PER_OCTAVE: f64 = 64.0;

/// The logarithms of factors, and the derivatives of the loss with respect to them.
struct Logarithms {
    values: Vec<f64>,
    gradient: Vec<f64>,
    adam: Adam,
}

impl Logarithms {
    fn new(values: Vec<f64>) -> Logarithms {
        let n = values.len();
        Logarithms { values, gradient: vec![0.0; n], adam: Adam::new(n) }
    }

    fn add(&mut self, gradient: &[f64]) {
        self.gradient.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
    }

    /// Takes a step, and clears the gradient, which is a sum over `tokens`.
    fn step(&mut self, tokens: usize, rate: f64) {
        self.gradient.iter_mut().for_each(|g| *g /= tokens as f64);
        self.adam.step(&mut self.values, &self.gradient, rate);
        self.gradient.fill(0.0);
    }

    fn factors(&self) -> impl Iterator<Item = f32> {
        self.values.iter().map(|x| x.exp() as f32)
    }
}

/// The rows of a linear layer.
pub struct Rows {
    pub rows: RowMultipliers,
    /// What the rows of the weight are multiplied by now.
    applied: Vec<f32>,
    logarithms: Logarithms,
}

impl Rows {
    pub fn new(rows: RowMultipliers) -> Rows {
        let logarithms = rows.values.iter().map(|&m| f64::from(m) / PER_OCTAVE * std::f64::consts::LN_2).collect();
        Rows { applied: vec![1.0; rows.values.len()], logarithms: Logarithms::new(logarithms), rows }
    }

    /// Multiplies the weight so that in all its rows have these factors.
    fn apply(&mut self, student: &mut Decoder, wanted: Vec<f32>) -> Result<(), EncodeError> {
        let factors: Vec<f32> = wanted.iter().zip(&self.applied).map(|(wanted, applied)| wanted / applied).collect();
        self.applied = wanted;
        Ok(student.scale_rows(&self.rows.name, &factors)?)
    }

    /// Applies the multipliers.
    pub fn apply_values(&mut self, student: &mut Decoder) -> Result<(), EncodeError> {
        let wanted = self.rows.values.iter().map(|&m| power(m.into())).collect();
        self.apply(student, wanted)
    }

    /// Adds derivatives; those of rows that are not trained count as 0.
    pub fn add(&mut self, gradient: &[f64]) {
        let is_free = self.rows.is_free.iter();
        let free: Vec<f64> = gradient.iter().zip(is_free).map(|(g, &is_free)| if is_free { *g } else { 0.0 }).collect();
        self.logarithms.add(&free);
    }

    pub fn step(&mut self, student: &mut Decoder, tokens: usize, rate: f64) -> Result<(), EncodeError> {
        self.logarithms.step(tokens, rate);
        let wanted = self.logarithms.factors().collect();
        self.apply(student, wanted)
    }

    /// Rounds what was trained to multipliers.
    pub fn round(&mut self) {
        let multiplier = |x: f64| (x / std::f64::consts::LN_2 * PER_OCTAVE).round().clamp(-64.0, 63.0) as i16;
        let values = self.rows.values.iter_mut().zip(&self.logarithms.values).zip(&self.rows.is_free);
        values.filter(|(_, is_free)| **is_free).for_each(|((value, &x), _)| *value = multiplier(x));
    }
}

/// The weights of a norm.
pub struct Norm {
    pub norm: NormWeights,
    /// What normalized values are multiplied by at the start.
    start: Vec<f32>,
    logarithms: Logarithms,
}

impl Norm {
    pub fn new(norm: NormWeights, student: &Decoder) -> Result<Norm, EncodeError> {
        let start = student.norm(norm.number)?.to_vec();
        let logarithms = Logarithms::new(vec![0.0; start.len()]);
        Ok(Norm { norm, start, logarithms })
    }

    pub fn add(&mut self, gradient: &[f64]) {
        self.logarithms.add(gradient);
    }

    pub fn step(&mut self, student: &mut Decoder, tokens: usize, rate: f64) -> Result<(), EncodeError> {
        self.logarithms.step(tokens, rate);
        Ok(student.set_norm(self.norm.number, &self.trained())?)
    }

    fn trained(&self) -> Vec<f32> {
        self.start.iter().zip(self.logarithms.factors()).map(|(w, factor)| w * factor).collect()
    }

    /// Rounds what was trained to weights of the tensor.
    pub fn round(&mut self) {
        let less = self.norm.less();
        self.norm.values = self.trained().into_iter().map(|w| self.norm.rounded(w - less)).collect();
    }

    /// Goes back to the weights at the start.
    pub fn reset(&mut self) {
        let less = self.norm.less();
        self.norm.values = self.start.iter().map(|w| w - less).collect();
    }

    /// Applies the weights of the tensor.
    pub fn apply_values(&self, student: &mut Decoder) -> Result<(), EncodeError> {
        let weights: Vec<f32> = self.norm.values.iter().map(|w| w + self.norm.less()).collect();
        Ok(student.set_norm(self.norm.number, &weights)?)
    }
}
