//! The unvalidated contents of `config.json`, and the family that it names.

use impasto_core::json;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::family::{FAMILIES, Family};
use crate::{ModelError, Result};

/// File name of a model's configuration.
pub const CONFIG: &str = "config.json";

/// One integer or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl From<Ids> for Vec<u32> {
    fn from(ids: Ids) -> Self {
        match ids {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        }
    }
}

/// The values of all families. In `Option<Option<_>>`, `None` means absent and `Some(None)` means null.
#[derive(Deserialize)]
pub(super) struct Raw {
    pub(super) vocab_size: Option<u64>,
    pub(super) hidden_size: Option<u64>,
    pub(super) intermediate_size: Option<u64>,
    pub(super) num_hidden_layers: Option<u64>,
    pub(super) num_attention_heads: Option<u64>,
    pub(super) num_key_value_heads: Option<u64>,
    pub(super) head_dim: Option<u64>,
    pub(super) hidden_act: Option<String>,
    pub(super) hidden_activation: Option<String>,
    pub(super) rms_norm_eps: Option<f64>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_local_base_freq: Option<f64>,
    pub(super) rope_scaling: Option<RawRope>,
    pub(super) rope_parameters: Option<RawRope>,
    pub(super) partial_rotary_factor: Option<f64>,
    pub(super) no_rope_layers: Option<Vec<u64>>,
    pub(super) no_rope_layer_interval: Option<u64>,
    pub(super) max_position_embeddings: Option<u64>,
    pub(super) original_max_position_embeddings: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    pub(super) sliding_window: Option<Option<u64>>,
    pub(super) use_sliding_window: Option<bool>,
    pub(super) max_window_layers: Option<u64>,
    pub(super) sliding_window_pattern: Option<u64>,
    pub(super) layer_types: Option<Vec<String>>,
    pub(super) query_pre_attn_scalar: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    pub(super) attn_logit_softcapping: Option<Option<f64>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) final_logit_softcapping: Option<Option<f64>>,
    pub(super) use_bidirectional_attention: Option<bool>,
    pub(super) tie_word_embeddings: Option<bool>,
    pub(super) attention_bias: Option<bool>,
    pub(super) mlp_bias: Option<bool>,
    pub(super) quantization_config: Option<Value>,
    pub(super) eos_token_id: Option<Ids>,
}

/// Rotary positions in either dialect. Old files have `type`, some both `type` and `rope_type`.
#[derive(Default, Deserialize)]
pub(super) struct RawRope {
    pub(super) rope_type: Option<String>,
    #[serde(rename = "type")]
    pub(super) old_type: Option<String>,
    pub(super) rope_theta: Option<f64>,
    pub(super) partial_rotary_factor: Option<f64>,
    pub(super) original_max_position_embeddings: Option<u64>,
    pub(super) factor: Option<f64>,
    pub(super) attention_factor: Option<f64>,
    pub(super) low_freq_factor: Option<f64>,
    pub(super) high_freq_factor: Option<f64>,
    pub(super) beta_fast: Option<f64>,
    pub(super) beta_slow: Option<f64>,
    pub(super) mscale: Option<f64>,
    pub(super) mscale_all_dim: Option<f64>,
    pub(super) truncate: Option<bool>,
    pub(super) short_factor: Option<Vec<f64>>,
    pub(super) long_factor: Option<Vec<f64>>,
    pub(super) full_attention: Option<Box<RawRope>>,
    pub(super) sliding_attention: Option<Box<RawRope>>,
}

/// The fields at the top level, for all families.
#[derive(Deserialize)]
struct Top {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    text_config: Option<Value>,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<Value>,
    eos_token_id: Option<Ids>,
}

fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

pub(super) fn parse<T: for<'a> Deserialize<'a>>(name: &'static str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(&json::finite(bytes)).map_err(|e| ModelError::asset(name, e))
}

/// Finds the family that matches both `model_type` and `architectures`. One of them may be absent.
fn family(top: &Top) -> Result<&'static Family> {
    let model_type = top.model_type.as_deref();
    let architectures = top.architectures.as_deref().unwrap_or_default();
    let fits = |f: &&Family| {
        let named = model_type.is_some() || !architectures.is_empty();
        let head = architectures.is_empty() || architectures.iter().any(|a| a == f.architecture);
        named && head && model_type.is_none_or(|t| t == f.model_type)
    };
    FAMILIES.iter().find(fits).ok_or_else(|| ModelError::Architecture {
        name: match (architectures.first(), model_type) {
            (Some(a), Some(t)) => format!("{a} (model_type {t})"),
            (Some(a), None) => a.clone(),
            (None, Some(t)) => format!("of model_type {t}"),
            (None, None) => "unknown (config.json names neither model_type nor architectures)".into(),
        },
        known: FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", "),
    })
}

/// Reads config.json and returns the family and its values, from `text_config` for a multimodal model.
pub(super) fn read(json: &[u8]) -> Result<(&'static Family, Raw)> {
    let top: Top = parse(CONFIG, json)?;
    let family = family(&top)?;
    if !family.multimodal {
        return Ok((family, parse(CONFIG, json)?));
    }
    let text = top.text_config.ok_or_else(|| ModelError::asset(CONFIG, "text_config is missing"))?;
    let mut raw: Raw =
        serde_json::from_value(text).map_err(|e| ModelError::asset(CONFIG, format!("text_config: {e}")))?;
    raw.tie_word_embeddings = top.tie_word_embeddings.or(raw.tie_word_embeddings);
    raw.quantization_config = top.quantization_config.or(raw.quantization_config);
    raw.eos_token_id = top.eos_token_id.or(raw.eos_token_id);
    Ok((family, raw))
}
