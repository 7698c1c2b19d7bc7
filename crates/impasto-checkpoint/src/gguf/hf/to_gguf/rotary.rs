//! Rotary embedding: converts `rope_theta`, `rope_scaling` or `rope_parameters` to keys and factor tensors.

use crate::gguf::hf::Architecture::{self, *};
use crate::gguf::hf::json::Object;
use crate::gguf::hf::names::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT};
use crate::gguf::hf::rope::{ATTENTION, DEFAULT_THETA, Llama3, longrope_attention, yarn_attention};
use crate::gguf::hf::rules::TranslationRule;

use super::FromAssets;
use super::sizes::Heads;

/// Default theta of Gemma 3's global blocks and of SmolLM 3, as in transformers.
const GEMMA3_THETA: f64 = 1e6;
const SMOLLM3_THETA: f64 = 2e6;
/// Default context length of Phi 3 in training.
const PHI3_ORIGINAL: u32 = 4096;

/// The rotary part of `config.json`, in either form: fields at the top level (`rope_theta`, `rope_scaling`), or
/// `rope_parameters`, which for Gemma 3 has a part for each kind of attention.
struct Rotary<'a> {
    theta: f64,
    local_theta: f64,
    /// Frequency scaling, if any.
    scaling: Option<Object<'a>>,
}

impl<'a> Rotary<'a> {
    fn read(
        config: &'a Object,
        parameters: Option<&'a Object>,
        architecture: Architecture,
    ) -> Result<Rotary<'a>, TranslationRule> {
        let part = |name: &str| parameters.map_or(Ok(None), |parameters| parameters.object(name));
        let (global, local) = (part("full_attention")?, part("sliding_attention")?);
        let parameters = global.or(parameters.map(Object::borrowed));
        let usual = match architecture {
            Gemma3 => GEMMA3_THETA,
            SmolLm3 => SMOLLM3_THETA,
            _ => DEFAULT_THETA,
        };
        let theta_of = |part: Option<&Object>, old: &str, usual| match part.map_or(Ok(None), |p| p.f64("rope_theta"))? {
            Some(theta) => Ok(theta),
            None => config.f64(old).map(|theta| theta.unwrap_or(usual)),
        };
        let theta = theta_of(parameters.as_ref(), "rope_theta", usual)?;
        let local_theta = theta_of(local.as_ref(), "rope_local_base_freq", DEFAULT_THETA)?;
        if !(theta > 0.0 && local_theta > 0.0) {
            return Err(config.broken("rope_theta", "is not positive"));
        }
        let scaling = match config.object("rope_scaling")? {
            Some(scaling) => Some(scaling),
            None => parameters,
        };
        Ok(Rotary { theta, local_theta, scaling })
    }
}

/// Writes the rotary keys and factors.
pub(super) fn write(config: &Object, architecture: Architecture, made: &mut FromAssets) -> Result<(), TranslationRule> {
    let heads = Heads::read(config, architecture)?;
    let parameters = config.object("rope_parameters")?;
    let rotary = Rotary::read(config, parameters.as_ref(), architecture)?;
    let partial = match rotary.scaling.as_ref().map_or(Ok(None), |s| s.f64("partial_rotary_factor"))? {
        Some(factor) => factor,
        None => config.f64("partial_rotary_factor")?.unwrap_or(1.0),
    };
    if partial != 1.0 && architecture != Phi3 || !(partial > 0.0 && partial <= 1.0) {
        return Err(TranslationRule::unsupported(format!("partial_rotary_factor {partial}")));
    }
    let rotated = (partial * f64::from(heads.dim)) as u32;
    made.set_f32(architecture, "rope.freq_base", rotary.theta)?;
    if matches!(architecture, Llama | SmolLm3 | Phi3) {
        made.set(architecture, "rope.dimension_count", rotated);
    }
    if architecture == Gemma3 {
        made.set_f32(architecture, "rope.freq_base_swa", rotary.local_theta)?;
    }
    let context = config.u32("max_position_embeddings")?;
    let context = config.needed("max_position_embeddings", context)?;
    // As in transformers, whose class for Phi 3 always has the field at the top level.
    let usual = (architecture == Phi3).then_some(PHI3_ORIGINAL);
    let original = match config.u32("original_max_position_embeddings")?.or(usual) {
        Some(original) => Some(original),
        None => rotary.scaling.as_ref().map_or(Ok(None), |s| s.u32("original_max_position_embeddings"))?,
    };
    if architecture == Phi3 {
        made.set(architecture, "rope.scaling.original_context_length", original.unwrap_or(context));
    }
    let Some(scaling) = rotary.scaling else { return Ok(()) };
    let kind = match scaling.str("rope_type")? {
        Some(kind) => kind,
        None => scaling.str("type")?.unwrap_or("default"),
    };
    let factor = || scaling.needed("factor", scaling.f64("factor")?);
    let pairs = rotated as usize / 2;
    match kind {
        "default" => {}
        "linear" => {
            made.set(architecture, "rope.scaling.type", "linear");
            made.set_f32(architecture, "rope.scaling.factor", factor()?)?;
        }
        "llama3" if architecture == Llama => {
            let number = |key: &str, usual: f64| Ok::<_, TranslationRule>(scaling.f64(key)?.unwrap_or(usual));
            let llama3 = Llama3 {
                factor: factor()?,
                low: number("low_freq_factor", 1.0)?,
                high: number("high_freq_factor", 4.0)?,
                original: f64::from(original.unwrap_or(8192)),
            };
            let divisors: Vec<f32> = llama3.divisors(rotary.theta, pairs).into_iter().map(|x| x as f32).collect();
            if divisors.iter().any(|x| !x.is_finite() || *x <= 0.0) {
                return Err(scaling.broken("factor", "gives no finite frequencies with the other parameters"));
            }
            made.factors.push((ROPE_FREQS.to_owned(), divisors));
        }
        "longrope" | "su" if matches!(architecture, Llama | Phi3) => {
            longrope(&scaling, architecture, pairs, context, original, made)?;
        }
        // The first Phi 3 configurations use this name for longrope.
        "yarn" if architecture == Phi3 => longrope(&scaling, architecture, pairs, context, original, made)?,
        "yarn" => {
            made.set(architecture, "rope.scaling.original_context_length", original.unwrap_or(context));
            yarn(&scaling, architecture, factor()?, made)?;
        }
        other => {
            let what = format!("\"rope_type\": \"{other}\" for the architecture {}", architecture.gguf_name());
            return Err(TranslationRule::unsupported(what));
        }
    }
    Ok(())
}

/// Writes the type and factors of YaRN. Its other parameters must be those that llama.cpp has for all models.
fn yarn(
    scaling: &Object,
    architecture: Architecture,
    factor: f64,
    made: &mut FromAssets,
) -> Result<(), TranslationRule> {
    for (field, usual) in [("beta_fast", 32.0), ("beta_slow", 1.0)] {
        // transformers takes 0 for absent.
        if let Some(other) = scaling.f64(field)?.filter(|&beta| beta != usual && beta != 0.0) {
            let what = format!("YaRN with \"{field}\" {other}, where llama.cpp always uses {usual}");
            return Err(TranslationRule::unsupported(what));
        }
    }
    if scaling.bool("truncate")? == Some(false) {
        return Err(TranslationRule::unsupported("YaRN with \"truncate\": false, which llama.cpp does not support"));
    }
    let scale = |field| Ok::<_, TranslationRule>(scaling.f64(field)?.filter(|&scale| scale != 0.0));
    let usual = yarn_attention(factor, 1.0);
    let attention = match (scaling.f64("attention_factor")?, scale("mscale")?, scale("mscale_all_dim")?) {
        (Some(given), _, _) => given,
        (None, Some(scale), Some(all)) => yarn_attention(factor, scale) / yarn_attention(factor, all),
        _ => usual,
    };
    made.set(architecture, "rope.scaling.type", "yarn");
    made.set_f32(architecture, "rope.scaling.factor", factor)?;
    if attention != usual {
        if architecture == Gemma3 {
            let what =
                "YaRN with an \"attention_factor\" or \"mscale\", which llama.cpp would also apply to local attention";
            return Err(TranslationRule::unsupported(what));
        }
        made.set_f32(architecture, ATTENTION, attention / usual)?;
    }
    Ok(())
}

/// Writes two lists of divisors, for short and for long texts; or one tensor if they are equal.
fn longrope(
    scaling: &Object,
    architecture: Architecture,
    pairs: usize,
    context: u32,
    original: Option<u32>,
    made: &mut FromAssets,
) -> Result<(), TranslationRule> {
    let list = |key: &str| {
        let list = scaling.needed(key, scaling.f32s(key)?)?;
        if list.len() != pairs {
            return Err(scaling.broken(key, format!("has {} entries, {pairs} are needed", list.len())));
        }
        if list.iter().any(|x| !x.is_finite() || *x <= 0.0) {
            return Err(scaling.broken(key, "has a factor that is not a positive number"));
        }
        Ok(list)
    };
    let (long, short) = (list("long_factor")?, list("short_factor")?);
    let original = original.unwrap_or(context);
    let attention = match scaling.f64("attention_factor")? {
        Some(attention) => attention,
        None => longrope_attention(context.into(), original.into()),
    };
    if architecture == Llama && long == short && attention == 1.0 {
        made.factors.push((ROPE_FREQS.to_owned(), long));
        return Ok(());
    }
    made.set(architecture, "rope.scaling.type", "longrope");
    made.set(architecture, "rope.scaling.original_context_length", original);
    made.set_f32(architecture, ATTENTION, attention)?;
    made.factors.push((ROPE_LONG.to_owned(), long));
    made.factors.push((ROPE_SHORT.to_owned(), short));
    Ok(())
}
