//! Rotary embedding: converts keys and factor tensors to `rope_theta` and `rope_scaling`.
//!
//! Llama 3 scales its frequencies by a formula with four parameters. A GGUF file contains only the result, a tensor of
//! divisors, and the parameters are recovered from it ([`Llama3::fit`]). Other divisors become transformers' `longrope`
//! with the same list for short and long texts and unscaled attention, which also divides the frequencies by the list.

use serde_json::{Value as Json, json};

use super::config::Heads;
use super::keys::{Keys, shortest};
use super::names::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT};
use super::rules::TranslationRule;
use super::{Architecture, Tensors};

type Fields = Vec<(&'static str, Json)>;

/// Default theta, as in llama.cpp.
pub(super) const DEFAULT_THETA: f64 = 10_000.0;

/// Returns the rotary fields of `config.json`.
pub(super) fn read(
    keys: &Keys,
    tensors: &dyn Tensors,
    architecture: Architecture,
    heads: &Heads,
    context: u64,
) -> Result<Fields, TranslationRule> {
    let theta = positive(keys, "rope.freq_base")?.unwrap_or(DEFAULT_THETA);
    let rotated = keys.count("rope.dimension_count", heads.dim)?.unwrap_or(heads.dim);
    let mut fields = vec![("rope_theta", json!(theta))];
    if architecture == Architecture::Gemma3 {
        fields.push(("rope_local_base_freq", json!(positive(keys, "rope.freq_base_swa")?.unwrap_or(DEFAULT_THETA))));
    }
    if rotated != heads.dim {
        // Of the supported architectures, only Phi 3 has heads that are partly rotated.
        if architecture != Architecture::Phi3 {
            let what = format!("{rotated} of {} dimensions of a head rotated", heads.dim);
            return Err(TranslationRule::unsupported(what));
        }
        fields.push(("partial_rotary_factor", json!(rotated as f64 / heads.dim as f64)));
    }
    let original = keys.count("rope.scaling.original_context_length", super::config::MAX_SIZE)?;
    if architecture == Architecture::Phi3 {
        fields.push(("original_max_position_embeddings", json!(original.unwrap_or(context))));
    }
    let by_tensor = match (factors(tensors, ROPE_LONG, rotated)?, factors(tensors, ROPE_SHORT, rotated)?) {
        (Some(long), Some(short)) => Some(longrope(keys, &long, &short, original.unwrap_or(context), context)?),
        (None, None) => factors(tensors, ROPE_FREQS, rotated)?.and_then(|divisors| divided(&divisors, theta, context)),
        _ => {
            return Err(TranslationRule::tensor(
                ROPE_LONG,
                "there are rotary factors for only one of short and long texts",
            ));
        }
    };
    let scaling = match (by_tensor, by_type(keys, original)?) {
        (Some(_), Some(_)) => return Err(TranslationRule::unsupported("rotary factors and a scaling factor at once")),
        (by_tensor, by_type) => by_tensor.or(by_type),
    };
    check_attention(keys, tensors, scaling.as_ref())?;
    fields.extend(scaling.map(|scaling| ("rope_scaling", scaling)));
    Ok(fields)
}

/// Checks that a factor on sines and cosines is one that the scaling reads: of YaRN, or of two lists of divisors.
fn check_attention(keys: &Keys, tensors: &dyn Tensors, scaling: Option<&Json>) -> Result<(), TranslationRule> {
    let read = tensors.shape(ROPE_LONG).is_some() || scaling.is_some_and(|scaling| scaling["rope_type"] == "yarn");
    match positive(keys, ATTENTION)? {
        Some(factor) if factor != 1.0 && !read => {
            let rule = format!("\"{}\" is {factor} without YaRN or LongRoPE", keys.own(ATTENTION));
            Err(TranslationRule::unsupported(rule))
        }
        _ => Ok(()),
    }
}

/// Returns a positive float.
fn positive(keys: &Keys, key: &str) -> Result<Option<f64>, TranslationRule> {
    let key = keys.own(key);
    match keys.f64(&key)? {
        Some(x) if x <= 0.0 => Err(TranslationRule::value(&key, format!("{x} is not positive"))),
        other => Ok(other),
    }
}

/// Returns a tensor of factors, one per pair of rotated dimensions.
fn factors(tensors: &dyn Tensors, name: &str, rotated: u64) -> Result<Option<Vec<f32>>, TranslationRule> {
    let Some(shape) = tensors.shape(name) else { return Ok(None) };
    if shape != [rotated / 2] {
        let rule = format!("shape {shape:?}, {} rotary factors are needed", rotated / 2);
        return Err(TranslationRule::tensor(name, rule));
    }
    let Some(values) = tensors.values(name) else {
        return Err(TranslationRule::tensor(name, "rotary factors must be F32"));
    };
    if values.iter().any(|x| !x.is_finite() || *x <= 0.0) {
        return Err(TranslationRule::tensor(name, "a rotary factor is not a positive number"));
    }
    Ok(Some(values))
}

/// Returns the scaling that the keys alone describe. The default type is linear, as in llama.cpp.
fn by_type(keys: &Keys, original: Option<u64>) -> Result<Option<Json>, TranslationRule> {
    let kind = keys.str(&keys.own("rope.scaling.type"))?.unwrap_or("linear");
    let factor = match positive_or_zero(keys, "rope.scaling.factor")? {
        None => positive_or_zero(keys, "rope.scale_linear")?,
        found => found,
    };
    let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
    match (kind, factor) {
        ("none" | "linear" | "yarn" | "longrope", None) | ("none", Some(_)) => Ok(None),
        ("linear", Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        ("yarn", Some(factor)) => {
            let mut yarn = json!({"rope_type": "yarn", "factor": factor});
            if let Some(original) = original {
                yarn["original_max_position_embeddings"] = json!(original);
            }
            for (key, field) in YARN {
                if let Some(value) = keys.f64(&keys.own(key))? {
                    yarn[field] = json!(value);
                }
            }
            if let Some(attention) = positive(keys, ATTENTION)?.filter(|&attention| attention != 1.0) {
                yarn["attention_factor"] = json!(shortest(f64::from((attention * yarn_attention(factor, 1.0)) as f32)));
            }
            Ok(Some(yarn))
        }
        (kind, _) => Err(TranslationRule::unsupported(format!("rotary scaling of type \"{kind}\""))),
    }
}

/// The key of a factor on sines and cosines. For YaRN, it is one on YaRN's own factor.
pub(super) const ATTENTION: &str = "rope.scaling.attn_factor";

/// Returns YaRN's own factor on sines and cosines (arXiv 2309.00071, section 3.4), for a `scale` that is usually 1.
pub(super) fn yarn_attention(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// Other parameters of YaRN: key in GGUF, field in `rope_scaling`. llama.cpp ignores these keys for most architectures, so
/// they are read but not written.
const YARN: [(&str, &str); 3] = [
    ("rope.scaling.yarn_beta_fast", "beta_fast"),
    ("rope.scaling.yarn_beta_slow", "beta_slow"),
    ("rope.scaling.yarn_attn_factor", "attention_factor"),
];

fn positive_or_zero(keys: &Keys, key: &str) -> Result<Option<f64>, TranslationRule> {
    let key = keys.own(key);
    match keys.f64(&key)? {
        Some(x) if x < 0.0 => Err(TranslationRule::value(&key, format!("{x} is negative"))),
        other => Ok(other),
    }
}

/// Returns the default attention factor of longrope in transformers (`modeling_rope_utils.py`; LongRoPE, arXiv
/// 2402.13753, section 3.3).
pub(super) fn longrope_attention(context: f64, original: f64) -> f64 {
    let scale = context / original;
    if scale <= 1.0 { 1.0 } else { (1.0 + scale.ln() / original.ln()).sqrt() }
}

fn longrope(keys: &Keys, long: &[f32], short: &[f32], original: u64, context: u64) -> Result<Json, TranslationRule> {
    let usual = longrope_attention(context as f64, original as f64);
    let attention = positive(keys, ATTENTION)?.unwrap_or(1.0);
    let mut scaling = longrope_json(long, short, original);
    if (attention - usual).abs() > 1e-6 {
        scaling["attention_factor"] = json!(attention);
    }
    Ok(scaling)
}

fn longrope_json(long: &[f32], short: &[f32], original: u64) -> Json {
    let list = |factors: &[f32]| factors.iter().map(|&x| shortest(x.into())).collect::<Vec<_>>();
    json!({
        "rope_type": "longrope",
        "long_factor": list(long),
        "short_factor": list(short),
        "original_max_position_embeddings": original,
    })
}

/// Converts a tensor of frequency divisors.
fn divided(divisors: &[f32], theta: f64, context: u64) -> Option<Json> {
    if divisors.iter().all(|&x| x == 1.0) {
        return None;
    }
    Some(match Llama3::fit(divisors, theta) {
        Some(llama3) => json!({
            "rope_type": "llama3",
            "factor": llama3.factor,
            "low_freq_factor": llama3.low,
            "high_freq_factor": llama3.high,
            "original_max_position_embeddings": llama3.original as u64,
        }),
        None => {
            let mut scaling = longrope_json(divisors, divisors, context);
            scaling["attention_factor"] = json!(1.0);
            scaling
        }
    })
}

/// The frequency scaling of Llama 3: long wavelengths are stretched by `factor`, short ones are unchanged, and those
/// between are interpolated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Llama3 {
    pub factor: f64,
    /// Wavelengths above `original / low` are long.
    pub low: f64,
    /// Wavelengths below `original / high` are short.
    pub high: f64,
    /// The context length of pretraining, before scaling.
    pub original: f64,
}

impl Llama3 {
    /// Relative tolerance for the divisors that recovered parameters give: a few units in the last place of binary32.
    const TOLERANCE: f64 = 4e-6;

    /// Rounds to a multiple of 1/64, to recover a published parameter from an inexact result.
    fn round(x: f64) -> f64 {
        (x * 64.0).round() / 64.0
    }

    /// Returns the divisor of each frequency `theta^(-i / pairs)`.
    ///
    /// Source: `_compute_llama3_parameters` in transformers' `modeling_rope_utils.py`.
    pub fn divisors(&self, theta: f64, pairs: usize) -> Vec<f64> {
        let divisor = |i: usize| {
            // Number of wavelengths in the original context.
            let waves = self.original * theta.powf(-(i as f64) / pairs as f64) / std::f64::consts::TAU;
            let smooth = ((waves - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        };
        (0..pairs).map(divisor).collect()
    }

    /// Recovers the parameters that give these divisors, if there are any.
    ///
    /// The divisor of the longest wavelength is the factor. Between long and short wavelengths, the reciprocal of the
    /// divisor is linear in the frequency, and two points determine the line. Only the ratios of `low`, `high` and
    /// `original` matter, so `low` is set to 1, as in all Llama models.
    pub fn fit(divisors: &[f32], theta: f64) -> Option<Llama3> {
        let pairs = divisors.len();
        let largest = shortest(f64::from(divisors.iter().copied().fold(1.0, f32::max)));
        if largest <= 1.0 {
            return None;
        }
        let factor = Self::round(largest);
        let factor = if (factor / largest - 1.0).abs() <= Self::TOLERANCE { factor } else { largest };
        let fits = |numbers: &Llama3| {
            let close = |(wanted, got): (&f32, f64)| (f64::from(*wanted) / got - 1.0).abs() <= Self::TOLERANCE;
            divisors.iter().zip(numbers.divisors(theta, pairs)).all(close)
        };
        let published = Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 };
        if fits(&published) {
            return Some(published);
        }
        // (frequency in turns, smooth) for the divisors between 1 and the factor.
        let between: Vec<(f64, f64)> = divisors
            .iter()
            .enumerate()
            .filter(|&(_, &d)| d > 1.0 && f64::from(d) < factor)
            .map(|(i, &d)| {
                let turns = theta.powf(-(i as f64) / pairs as f64) / std::f64::consts::TAU;
                (turns, (1.0 / f64::from(d) - 1.0 / factor) / (1.0 - 1.0 / factor))
            })
            .collect();
        let (first, last) = (between.first()?, between.last()?);
        let slope = (first.1 - last.1) / (first.0 - last.0);
        let start = first.1 - slope * first.0;
        // smooth = (original * turns - low) / (high - low) with low = 1.
        let high = 1.0 - 1.0 / start;
        let (high, original) = (Self::round(high), (slope * (high - 1.0)).round());
        let numbers = Llama3 { factor, low: 1.0, high, original };
        (high.is_finite() && high > 1.0 && original.is_finite() && original >= 1.0 && fits(&numbers)).then_some(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::Llama3;

    fn divisors(numbers: Llama3, theta: f64, pairs: usize) -> Vec<f32> {
        numbers.divisors(theta, pairs).into_iter().map(|x| x as f32).collect()
    }

    #[test]
    fn the_numbers_of_llama_3_come_back_from_its_divisors() {
        // Llama 3.1 8B and 3.2 1B, and two sets of unpublished parameters.
        for (factor, high, original, theta, pairs) in [
            (8.0, 4.0, 8192.0, 5e5, 64),
            (32.0, 4.0, 8192.0, 5e5, 32),
            (16.0, 3.5, 2048.0, 1e4, 64),
            (4.0, 8.0, 512.0, 1e4, 24),
        ] {
            let numbers = Llama3 { factor, low: 1.0, high, original };
            assert_eq!(Llama3::fit(&divisors(numbers, theta, pairs), theta), Some(numbers));
        }
        // A `low` other than 1 gives the same scaling with `low` 1.
        let twice = Llama3 { factor: 8.0, low: 2.0, high: 8.0, original: 16384.0 };
        let once = Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        assert_eq!(Llama3::fit(&divisors(twice, 5e5, 64), 5e5), Some(once));
    }

    #[test]
    fn other_divisors_are_not_taken_for_llama_3() {
        let numbers = Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let mut changed = divisors(numbers, 5e5, 64);
        changed[3] *= 1.001;
        assert_eq!(Llama3::fit(&changed, 5e5), None);
        assert_eq!(Llama3::fit(&[1.5, 1.25, 3.0, 2.0], 5e5), None);
        assert_eq!(Llama3::fit(&[], 5e5), None);
    }
}
