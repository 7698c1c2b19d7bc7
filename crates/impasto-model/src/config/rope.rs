//! Rotary positions: the frequencies of the variants in transformers, with the same rounding to binary32.

use std::ops::Range;

use super::raw::{CONFIG, RawRope};
use super::{MAX_DIMENSION, dimension, positive, unsupported_unless};
use crate::{ModelError, Result};

/// Rotary position embedding (Su et al., arXiv 2104.09864) of one kind of block.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Number of leading elements of a head that are rotated; even.
    pub dim: usize,
    /// Factor on every sine and cosine.
    pub scale: f32,
    /// How frequencies are scaled for long contexts.
    pub scaling: Scaling,
}

/// How frequencies are scaled for contexts longer than in training.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Unscaled.
    None,
    /// All frequencies divided by a factor (Chen et al., arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Frequencies of long wavelengths divided by a factor, those of short ones unchanged, with a ramp between (Llama
    /// 3.1, arXiv 2407.21783).
    Llama3 {
        /// The divisor for long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are long.
        low: f64,
        /// Wavelengths below `original / high` are unchanged.
        high: f64,
        /// Context length in training.
        original: usize,
    },
    /// A ramp over the frequency index (YaRN: Peng et al., arXiv 2309.00071).
    Yarn {
        /// The divisor after the ramp.
        factor: f64,
        /// Frequency index where the ramp begins; lower indices are unchanged.
        low: f64,
        /// Frequency index where the ramp ends.
        high: f64,
    },
    /// A divisor for each frequency (LongRoPE: Ding et al., arXiv 2402.13753).
    LongRope {
        /// Divisors while the context has at most `original` tokens.
        short: Vec<f32>,
        /// Divisors of all positions in a longer context.
        long: Vec<f32>,
        /// Context length in training.
        original: usize,
    },
}

/// What a configuration says about rotary positions outside the rope object.
pub(super) struct Around {
    pub(super) model_type: &'static str,
    pub(super) head_dim: usize,
    pub(super) max_positions: usize,
    /// `original_max_position_embeddings` at the top level; takes precedence over that of the rope object.
    pub(super) original: Option<u64>,
    pub(super) partial: Option<f64>,
    pub(super) partial_allowed: bool,
}

/// A value that must be present and positive.
fn needed(name: &str, value: Option<f64>) -> Result<f64> {
    positive(name, value.ok_or_else(|| ModelError::asset(CONFIG, format!("rotary positions: {name} is missing")))?)
}

/// Parses one kind of scaling. Each method returns the scaling and the factor on sines and cosines.
struct Reader<'a> {
    raw: &'a RawRope,
    theta: f64,
    dim: usize,
    /// Context length in training.
    original: usize,
    /// Longest context divided by `original`.
    stretch: f64,
}

impl Reader<'_> {
    fn scaling(&self, kind: &str) -> Result<(Scaling, f64)> {
        match kind {
            "default" => Ok((Scaling::None, 1.0)),
            "linear" => Ok((Scaling::Linear { factor: needed("factor", self.raw.factor)? }, 1.0)),
            "llama3" => Ok((self.llama3()?, 1.0)),
            "yarn" => self.yarn(),
            "longrope" => self.longrope(),
            other => Err(ModelError::Unsupported(format!("rope_type {other}"))),
        }
    }

    fn llama3(&self) -> Result<Scaling> {
        let low = needed("low_freq_factor", self.raw.low_freq_factor)?;
        let high = needed("high_freq_factor", self.raw.high_freq_factor)?;
        if high <= low {
            let reason = format!("high_freq_factor = {high} is not above low_freq_factor = {low}");
            return Err(ModelError::asset(CONFIG, reason));
        }
        Ok(Scaling::Llama3 { factor: needed("factor", self.raw.factor)?, low, high, original: self.original })
    }

    fn yarn(&self) -> Result<(Scaling, f64)> {
        let Self { raw, dim, original, .. } = *self;
        let factor = positive("factor", raw.factor.unwrap_or(self.stretch))?;
        let term = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let scale = match (raw.attention_factor, raw.mscale, raw.mscale_all_dim) {
            (Some(given), _, _) => given,
            (None, Some(a), Some(b)) if a != 0.0 && b != 0.0 => {
                term(positive("mscale", a)?) / term(positive("mscale_all_dim", b)?)
            }
            _ => term(1.0),
        };
        // The index of the frequency that makes this many turns over the training context.
        let index = |name, turns: Option<f64>, default| -> Result<f64> {
            let turns = positive(name, turns.filter(|x| *x != 0.0).unwrap_or(default))?;
            let waves = original as f64 / (turns * std::f64::consts::TAU);
            Ok(dim as f64 * waves.ln() / (2.0 * self.theta.ln()))
        };
        let (low, high) = (index("beta_fast", raw.beta_fast, 32.0)?, index("beta_slow", raw.beta_slow, 1.0)?);
        let (low, high) = if raw.truncate.unwrap_or(true) { (low.floor(), high.ceil()) } else { (low, high) };
        Ok((Scaling::Yarn { factor, low: low.max(0.0), high: high.min((dim - 1) as f64) }, scale))
    }

    fn longrope(&self) -> Result<(Scaling, f64)> {
        let Self { raw, dim, original, .. } = *self;
        let factor = positive("factor", raw.factor.unwrap_or(self.stretch))?;
        let own = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
        let divisors = |name: &str, list: &Option<Vec<f64>>| -> Result<Vec<f32>> {
            let list = list.as_deref().unwrap_or_default();
            if list.len() != dim / 2 {
                let reason = format!("{name} has {} values, expected {}", list.len(), dim / 2);
                return Err(ModelError::asset(CONFIG, reason));
            }
            list.iter().map(|&x| Ok(positive(name, x)? as f32)).collect()
        };
        let short = divisors("short_factor", &raw.short_factor)?;
        let long = divisors("long_factor", &raw.long_factor)?;
        Ok((Scaling::LongRope { short, long, original }, raw.attention_factor.unwrap_or_else(own)))
    }
}

impl Rope {
    /// Validates `raw`; `theta` is the base unless `raw` has its own.
    pub(super) fn new(raw: &RawRope, theta: f64, around: &Around) -> Result<Self> {
        let Around { model_type, head_dim, max_positions, .. } = *around;
        unsupported_unless(raw.full_attention.is_none() && raw.sliding_attention.is_none(), || {
            format!("rope_parameters by layer type in {model_type}")
        })?;
        let partial = raw.partial_rotary_factor.or(around.partial).unwrap_or(1.0);
        unsupported_unless(partial == 1.0 || around.partial_allowed, || {
            format!("partial_rotary_factor {partial} in {model_type}")
        })?;
        let dim = (head_dim as f64 * positive("partial_rotary_factor", partial)?) as usize;
        if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
            let reason = format!("{dim} of head_dim = {head_dim} elements rotated; the number must be even");
            return Err(ModelError::asset(CONFIG, reason));
        }
        let theta = positive("rope_theta", raw.rope_theta.unwrap_or(theta))?;
        let original = match around.original.or(raw.original_max_position_embeddings) {
            Some(n) => dimension("original_max_position_embeddings", n, MAX_DIMENSION)?,
            None => max_positions,
        };
        let kind = match raw.rope_type.as_deref().or(raw.old_type.as_deref()).unwrap_or("default") {
            // Early Phi-3 files use these names.
            "su" | "yarn" if model_type == "phi3" => "longrope",
            kind => kind,
        };
        let stretch = max_positions as f64 / original as f64;
        let (scaling, scale) = Reader { raw, theta, dim, original, stretch }.scaling(kind)?;
        let rope = Self { theta, dim, scale: positive("attention_factor", scale)? as f32, scaling };
        let sound = |tokens| rope.frequencies(tokens).iter().all(|f| f.is_finite());
        if !(rope.scale.is_finite() && sound(1) && sound(usize::MAX)) {
            return Err(ModelError::asset(CONFIG, "the frequencies of the rotary positions are not finite"));
        }
        Ok(rope)
    }

    /// Scaled cosine and sine of each rotary angle at `positions`: positions x dim / 2, for the given `frequencies`.
    pub fn angles(&self, frequencies: &[f32], positions: Range<usize>) -> impl Iterator<Item = (f32, f32)> {
        // transformers rounds the angle to binary32 too; at long context the difference is visible.
        let angles = positions.flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        angles.map(|angle| (angle.cos() * self.scale, angle.sin() * self.scale))
    }

    /// Whether LongRoPE uses its long divisors in a context of `tokens` tokens.
    pub fn is_long(&self, tokens: usize) -> bool {
        matches!(self.scaling, Scaling::LongRope { original, .. } if tokens > original)
    }

    /// Angle per position of each pair of elements (dim / 2 of them), in a context of `tokens` tokens.
    pub fn frequencies(&self, tokens: usize) -> Vec<f32> {
        let (theta, dim) = (self.theta as f32, self.dim as f32);
        let wave = |i: usize| theta.powf((2 * i) as f32 / dim);
        let indices = 0..self.dim / 2;
        match &self.scaling {
            Scaling::None => indices.map(|i| 1.0 / wave(i)).collect(),
            Scaling::Linear { factor } => indices.map(|i| 1.0 / wave(i) / *factor as f32).collect(),
            &Scaling::Llama3 { factor, low, high, original } => {
                let (low_wave, high_wave) = (original as f64 / low, original as f64 / high);
                let (factor, low, high) = (factor as f32, low as f32, high as f32);
                let stretch = |f: f32| {
                    let length = std::f32::consts::TAU / f;
                    if f64::from(length) > low_wave {
                        f / factor
                    } else if f64::from(length) < high_wave {
                        f
                    } else {
                        let smooth = (original as f32 / length - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                indices.map(|i| stretch(1.0 / wave(i))).collect()
            }
            &Scaling::Yarn { factor, low, high } => {
                let width = if low == high { 0.001 } else { high - low };
                let kept = |i: usize| 1.0 - ((i as f32 - low as f32) / width as f32).clamp(0.0, 1.0);
                let mix = |i: usize| {
                    let kept = kept(i);
                    1.0 / (factor as f32 * wave(i)) * (1.0 - kept) + 1.0 / wave(i) * kept
                };
                indices.map(mix).collect()
            }
            Scaling::LongRope { short, long, .. } => {
                let divisors = if self.is_long(tokens) { long } else { short };
                indices.zip(divisors).map(|(i, by)| 1.0 / (by * wave(i))).collect()
            }
        }
    }
}
