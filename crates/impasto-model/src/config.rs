//! `config.json` and `generation_config.json` of Hugging Face checkpoints.
//!
//! [`LlamaConfig`] is the Llama layout in both dialects: the older one with `rope_theta` and `rope_scaling` at the top,
//! and that of transformers 5 with `rope_parameters`. What the runtime does not do is refused by name; nothing is
//! silently ignored that would change the logits.

use serde::Deserialize;
use serde_json::Value;

use crate::{ModelError, Result, WeightSource};

pub(crate) const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// Largest size of any one dimension (2^24): far above any model, low enough that products of three fit a `u128`
/// and, checked, a `u64`.
const MAX_DIMENSION: u64 = 1 << 24;
/// Largest number of transformer blocks.
const MAX_BLOCKS: u64 = 4096;
/// Widest head: the table of rotary angles takes a row of it for each token.
const MAX_HEAD_DIM: u64 = 4096;

/// Sizes and constants of a model of the Llama layout, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of transformer blocks.
    pub num_blocks: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Largest number of tokens in context.
    pub max_position_embeddings: usize,
    /// Whether the output projection is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Token ids that end a text, from `config.json`.
    pub eos_token_ids: Vec<u32>,
}

/// One integer or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
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

#[derive(Deserialize)]
struct RawArchitecture {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawLlama {
    vocab_size: u64,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    max_position_embeddings: Option<u64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    quantization_config: Option<Value>,
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    // The oldest checkpoints say `type`.
    #[serde(alias = "type")]
    rope_type: Option<String>,
    partial_rotary_factor: Option<f64>,
}

fn parse<T: for<'a> Deserialize<'a>>(name: &'static str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|e| ModelError::asset(name, e))
}

/// Checks that `config.json` names the Llama layout with a language-model head.
fn check_architecture(json: &[u8]) -> Result<()> {
    let raw: RawArchitecture = parse(CONFIG, json)?;
    let model_type = raw.model_type.as_deref();
    let architectures = raw.architectures.unwrap_or_default();
    let type_fits = model_type.is_none_or(|t| t == "llama");
    let head_fits = architectures.is_empty() || architectures.iter().any(|a| a == "LlamaForCausalLM");
    let named = model_type.is_some() || !architectures.is_empty();
    if type_fits && head_fits && named {
        return Ok(());
    }
    Err(ModelError::Architecture(match (architectures.first(), model_type) {
        (Some(a), Some(t)) => format!("{a} (model_type {t})"),
        (Some(a), None) => a.clone(),
        (None, Some(t)) => format!("of model_type {t}"),
        (None, None) => "unknown (config.json names neither model_type nor architectures)".into(),
    }))
}

fn unsupported_unless(good: bool, what: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { Err(ModelError::Unsupported(what())) }
}

fn dimension(name: &str, value: u64, max: u64) -> Result<usize> {
    if value == 0 || value > max {
        return Err(ModelError::asset(CONFIG, format!("{name} = {value} is outside 1..={max}")));
    }
    usize::try_from(value).map_err(|_| ModelError::asset(CONFIG, format!("{name} = {value} is too large")))
}

fn positive(name: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(ModelError::asset(CONFIG, format!("{name} = {value} is not a positive number")))
}

impl LlamaConfig {
    /// Reads and validates the bytes of `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for any other model, [`ModelError::Unsupported`] for an option the runtime lacks,
    /// [`ModelError::BadAsset`] for sizes that are missing, out of range or do not divide.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        check_architecture(json)?;
        let raw: RawLlama = parse(CONFIG, json)?;
        unsupported_unless(!raw.attention_bias.unwrap_or(false), || "attention_bias = true".into())?;
        unsupported_unless(!raw.mlp_bias.unwrap_or(false), || "mlp_bias = true".into())?;
        unsupported_unless(raw.quantization_config.is_none(), || "quantization_config".into())?;
        let act = raw.hidden_act.as_deref().unwrap_or("silu");
        unsupported_unless(act == "silu", || format!("hidden_act {act}"))?;
        let rope = raw.rope_parameters.as_ref();
        for part in [rope, raw.rope_scaling.as_ref()].into_iter().flatten() {
            let kind = part.rope_type.as_deref().unwrap_or("default");
            unsupported_unless(kind == "default", || format!("rope_type {kind}"))?;
        }
        let partial = rope.and_then(|r| r.partial_rotary_factor).or(raw.partial_rotary_factor).unwrap_or(1.0);
        unsupported_unless(partial == 1.0, || format!("partial_rotary_factor {partial}"))?;

        let size = |name, value| dimension(name, value, MAX_DIMENSION);
        let hidden_size = size("hidden_size", raw.hidden_size)?;
        let num_heads = size("num_attention_heads", raw.num_attention_heads)?;
        let num_kv_heads = match raw.num_key_value_heads {
            Some(n) => size("num_key_value_heads", n)?,
            None => num_heads,
        };
        if !num_heads.is_multiple_of(num_kv_heads) {
            let reason =
                format!("num_attention_heads = {num_heads} is not a multiple of num_key_value_heads = {num_kv_heads}");
            return Err(ModelError::asset(CONFIG, reason));
        }
        let head_dim = match raw.head_dim {
            Some(d) => dimension("head_dim", d, MAX_HEAD_DIM)?,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                let reason =
                    format!("hidden_size = {hidden_size} is not a multiple of num_attention_heads = {num_heads}");
                return Err(ModelError::asset(CONFIG, reason));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(ModelError::asset(CONFIG, format!("head_dim = {head_dim} is odd; rotary positions pair it")));
        }
        let config = Self {
            vocab_size: size("vocab_size", raw.vocab_size)?,
            hidden_size,
            intermediate_size: size("intermediate_size", raw.intermediate_size)?,
            num_blocks: dimension("num_hidden_layers", raw.num_hidden_layers, MAX_BLOCKS)?,
            num_heads,
            num_kv_heads,
            head_dim,
            rms_norm_eps: positive("rms_norm_eps", raw.rms_norm_eps.unwrap_or(1e-6))? as f32,
            rope_theta: positive("rope_theta", rope.and_then(|r| r.rope_theta).or(raw.rope_theta).unwrap_or(1e4))?,
            max_position_embeddings: size("max_position_embeddings", raw.max_position_embeddings.unwrap_or(2048))?,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            eos_token_ids: raw.eos_token_id.map(Into::into).unwrap_or_default(),
        };
        dimension("num_attention_heads * head_dim", config.num_heads as u64 * config.head_dim as u64, MAX_DIMENSION)?;
        config.weight_bytes().ok_or_else(|| ModelError::asset(CONFIG, "the model's size overflows"))?;
        Ok(config)
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Bytes of all weights in binary32, or `None` when they overflow the address space.
    pub fn weight_bytes(&self) -> Option<usize> {
        let product = |a: usize, b: usize| a.checked_mul(b);
        let attention = product(self.hidden_size, self.query_width().checked_add(self.kv_width())?)?.checked_mul(2)?;
        let mlp = product(self.hidden_size, self.intermediate_size)?.checked_mul(3)?;
        let norms = self.hidden_size.checked_mul(2)?;
        let blocks = attention.checked_add(mlp)?.checked_add(norms)?.checked_mul(self.num_blocks)?;
        let embeddings = product(self.vocab_size, self.hidden_size)?;
        let embeddings = embeddings.checked_mul(if self.tie_word_embeddings { 1 } else { 2 })?;
        blocks.checked_add(embeddings)?.checked_add(self.hidden_size)?.checked_mul(size_of::<f32>())
    }
}

/// Token ids that end a text: those of `generation_config.json` when it names any, else those of `config.json`.
///
/// # Errors
/// [`ModelError::BadAsset`] when either file does not parse.
pub fn eos_token_ids(source: &dyn WeightSource) -> Result<Vec<u32>> {
    #[derive(Deserialize)]
    struct Raw {
        eos_token_id: Option<Ids>,
    }
    for name in [GENERATION, CONFIG] {
        if let Some(json) = source.asset(name) {
            let raw: Raw = parse(name, &json)?;
            if let Some(ids) = raw.eos_token_id {
                return Ok(ids.into());
            }
        }
    }
    Ok(Vec::new())
}
