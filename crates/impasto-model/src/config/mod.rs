//! `config.json` and `generation_config.json` of Hugging Face checkpoints.
//!
//! [`DecoderConfig`] describes a model of any family; the table in `family` has the differences between families. Both
//! dialects are supported: the older one with `rope_theta` and `rope_scaling` at the top level, and that of
//! transformers 5 with `rope_parameters`. An unsupported option that would change the logits is an error that names the
//! option.

mod blocks;
mod family;
mod raw;
mod rope;

use serde::Deserialize;

use crate::{ModelError, Result, WeightSource, graph};
use family::{AttentionBias, Cap, Family};
use raw::{Ids, Raw};

pub use raw::CONFIG;

pub use family::Structure;
pub use rope::{Rope, Scaling};

const GENERATION: &str = "generation_config.json";

/// Upper bound of any one dimension (2^24): far above any model, and low enough that products of three fit a `u128`.
const MAX_DIMENSION: u64 = 1 << 24;
/// Largest number of transformer blocks.
const MAX_BLOCKS: u64 = 4096;
/// Largest head width. The table of rotary angles has a row of half this many pairs for each token.
const MAX_HEAD_DIM: u64 = 4096;

/// The activation function of the MLP's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x / (1 + exp(-x)).
    Silu,
    /// The tanh approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415).
    GeluTanh,
}

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output projection of attention.
    pub output: bool,
    /// Gate, up and down.
    pub mlp: bool,
}

/// The configuration of one block, where blocks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// Size of the sliding window in tokens, including the query's own; `None` for full attention.
    pub window: Option<usize>,
    /// Index into [`DecoderConfig::ropes`]; `None` for no rotary positions.
    pub rope: Option<usize>,
}

/// A validated configuration of a decoder-only transformer: sizes, constants and block structure.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The structure of the family's blocks.
    pub structure: Structure,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP's hidden layer.
    pub intermediate_size: usize,
    /// Number of query heads.
    pub num_heads: usize,
    /// Number of key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of an attention head.
    pub head_dim: usize,
    /// The transformer blocks.
    pub blocks: Vec<BlockConfig>,
    /// The sets of rotary positions that blocks refer to.
    pub ropes: Vec<Rope>,
    /// Which projections have a bias.
    pub biases: Biases,
    /// The activation function of the MLP.
    pub activation: Activation,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Factor on the products of queries and keys.
    pub attention_scale: f32,
    /// Soft cap c on attention scores: c tanh(x / c).
    pub attention_softcap: Option<f32>,
    /// Soft cap c on the logits.
    pub logit_softcap: Option<f32>,
    /// Largest context, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the embedding matrix is also the output projection.
    pub tie_word_embeddings: bool,
    /// Candidate pairs of tensor name prefix and output projection name; a checkpoint uses one of them.
    pub names: &'static [(&'static str, &'static str)],
    /// End-of-sequence token ids from `config.json`.
    pub eos_token_ids: Vec<u32>,
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

/// A size that must be in the file unless the family has a default.
fn size(name: &str, value: Option<u64>, default: Option<u64>, max: u64) -> Result<usize> {
    let value = value.or(default).ok_or_else(|| ModelError::asset(CONFIG, format!("{name} is missing")))?;
    dimension(name, value, max)
}

fn biases(family: &Family, raw: &Raw) -> Result<Biases> {
    let (attention, mlp) = (raw.attention_bias.unwrap_or(false), raw.mlp_bias.unwrap_or(false));
    let unknown = |name: &str| format!("{name} = true in {}", family.model_type);
    unsupported_unless(family.mlp_bias || !mlp, || unknown("mlp_bias"))?;
    let (qkv, output) = match family.attention_bias {
        AttentionBias::Never => {
            unsupported_unless(!attention, || unknown("attention_bias"))?;
            (false, false)
        }
        AttentionBias::Qkv => (true, false),
        AttentionBias::Configured => (attention, attention),
    };
    Ok(Biases { qkv, output, mlp })
}

fn activation(family: &Family, raw: &Raw) -> Result<Activation> {
    // Later Gemmas have the name under `hidden_activation` and leave an outdated `hidden_act`.
    let gated_gelu = family.defaults.activation == Activation::GeluTanh;
    let newer = raw.hidden_activation.as_deref().filter(|_| gated_gelu);
    match newer.or(raw.hidden_act.as_deref()) {
        None => Ok(family.defaults.activation),
        Some("silu") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        // The first Gemma configurations say "gelu" but mean the tanh approximation.
        Some("gelu") if gated_gelu => Ok(Activation::GeluTanh),
        Some(other) => Err(ModelError::Unsupported(format!("hidden_act {other}"))),
    }
}

fn softcap(family: &Family, name: &str, rule: Cap, value: Option<Option<f64>>) -> Result<Option<f32>> {
    let cap = match rule {
        Cap::Configured(default) => value.unwrap_or(default),
        Cap::Never => {
            let unknown = || format!("{name} in {}", family.model_type);
            unsupported_unless(value.flatten().is_none(), unknown)?;
            None
        }
    };
    cap.map(|c| Ok(positive(name, c)? as f32)).transpose()
}

impl DecoderConfig {
    /// Parses and validates the bytes of `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] for an unsupported family, [`ModelError::Unsupported`] for an unsupported option,
    /// [`ModelError::BadAsset`] for sizes that are missing, out of range or not divisible.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let (family, raw) = raw::read(json)?;
        let defaults = &family.defaults;
        unsupported_unless(raw.quantization_config.is_none(), || "quantization_config".into())?;
        unsupported_unless(!raw.use_bidirectional_attention.unwrap_or(false), || {
            "use_bidirectional_attention = true".into()
        })?;

        let hidden_size = size("hidden_size", raw.hidden_size, None, MAX_DIMENSION)?;
        let num_heads = size("num_attention_heads", raw.num_attention_heads, defaults.num_heads, MAX_DIMENSION)?;
        let same = Some(num_heads as u64);
        let num_kv_heads =
            size("num_key_value_heads", raw.num_key_value_heads, defaults.num_kv_heads.or(same), MAX_DIMENSION)?;
        if !num_heads.is_multiple_of(num_kv_heads) {
            let reason =
                format!("num_attention_heads = {num_heads} is not a multiple of num_key_value_heads = {num_kv_heads}");
            return Err(ModelError::asset(CONFIG, reason));
        }
        let head_dim = match raw.head_dim.or(defaults.head_dim) {
            Some(d) => dimension("head_dim", d, MAX_HEAD_DIM)?,
            None if hidden_size.is_multiple_of(num_heads) => {
                dimension("hidden_size / num_attention_heads", (hidden_size / num_heads) as u64, MAX_HEAD_DIM)?
            }
            None => {
                let reason =
                    format!("hidden_size = {hidden_size} is not a multiple of num_attention_heads = {num_heads}");
                return Err(ModelError::asset(CONFIG, reason));
            }
        };
        dimension("num_attention_heads * head_dim", num_heads as u64 * head_dim as u64, MAX_DIMENSION)?;
        let count = size("num_hidden_layers", raw.num_hidden_layers, None, MAX_BLOCKS)?;
        let positions =
            size("max_position_embeddings", raw.max_position_embeddings, Some(defaults.positions), MAX_DIMENSION)?;
        let (blocks, ropes) = blocks::blocks(family, &raw, count, head_dim, positions)?;
        let scalar = match family.query_scalar {
            Some(default) => positive("query_pre_attn_scalar", raw.query_pre_attn_scalar.unwrap_or(default))? as f32,
            None => head_dim as f32,
        };
        let config = Self {
            structure: family.structure,
            vocab_size: size("vocab_size", raw.vocab_size, defaults.vocab_size, MAX_DIMENSION)?,
            hidden_size,
            intermediate_size: size("intermediate_size", raw.intermediate_size, None, MAX_DIMENSION)?,
            num_heads,
            num_kv_heads,
            head_dim,
            blocks,
            ropes,
            biases: biases(family, &raw)?,
            activation: activation(family, &raw)?,
            rms_norm_eps: positive("rms_norm_eps", raw.rms_norm_eps.unwrap_or(defaults.rms_norm_eps))? as f32,
            attention_scale: 1.0 / scalar.sqrt(),
            attention_softcap: softcap(
                family,
                "attn_logit_softcapping",
                family.attention_softcap,
                raw.attn_logit_softcapping,
            )?,
            logit_softcap: softcap(
                family,
                "final_logit_softcapping",
                family.logit_softcap,
                raw.final_logit_softcapping,
            )?,
            max_position_embeddings: positions,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(defaults.tied),
            names: family.names,
            eos_token_ids: raw.eos_token_id.map(Into::into).unwrap_or_default(),
        };
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

    /// Factor on the embeddings, rounded to binary32 as in transformers.
    pub fn embedding_scale(&self) -> Option<f32> {
        self.structure.scaled_embedding.then(|| (self.hidden_size as f64).sqrt() as f32)
    }

    /// Bytes of all weights in binary32, or `None` if they exceed `usize`.
    pub fn weight_bytes(&self) -> Option<usize> {
        let numbers = graph::describe(self, self.names.first().copied()?).len();
        usize::try_from(numbers.checked_mul(size_of::<f32>() as u128)?).ok()
    }
}

/// Returns the end-of-sequence token ids of `generation_config.json`, or if it has none, those of `config.json` (top
/// level or `text_config`).
///
/// # Errors
/// [`ModelError::BadAsset`] when either file does not parse.
pub fn eos_token_ids(source: &dyn WeightSource) -> Result<Vec<u32>> {
    #[derive(Deserialize)]
    struct Eos {
        eos_token_id: Option<Ids>,
        text_config: Option<Box<Eos>>,
    }
    for name in [GENERATION, CONFIG] {
        if let Some(json) = source.asset(name) {
            let eos: Eos = raw::parse(name, &json)?;
            let text = eos.text_config.and_then(|text| text.eos_token_id);
            if let Some(ids) = eos.eos_token_id.or(text) {
                return Ok(ids.into());
            }
        }
    }
    Ok(Vec::new())
}
