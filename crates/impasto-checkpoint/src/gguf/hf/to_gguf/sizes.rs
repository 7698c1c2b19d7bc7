//! Converts sizes and constants of `config.json` to keys of the architecture.

use crate::gguf::hf::Architecture::{self, *};
use crate::gguf::hf::Tensors;
use crate::gguf::hf::config::{
    GEMMA2_27B_BLOCKS, GEMMA3_27B_BLOCKS, GEMMA3_PERIOD, MAX_BLOCKS, SOFTCAPS, positioned_blocks,
};
use crate::gguf::hf::json::Object;
use crate::gguf::hf::rules::TranslationRule;

use super::FromAssets;

const EMBEDDING: &str = "model.embed_tokens.weight";

/// Returns the architecture of a `config.json`.
pub(super) fn architecture(config: &Object) -> Result<Architecture, TranslationRule> {
    let model_type = config.needed("model_type", config.str("model_type")?)?;
    if config.get("quantization_config").is_some() {
        return Err(TranslationRule::unsupported("a checkpoint with a quantization_config"));
    }
    let unknown = || TranslationRule::unsupported(format!("model_type \"{model_type}\" has no known GGUF form"));
    Architecture::from_model_type(model_type).ok_or_else(unknown)
}

/// The shape of attention.
pub(super) struct Heads {
    pub count: u32,
    pub kv_count: u32,
    pub dim: u32,
    pub hidden: u32,
}

impl Heads {
    pub fn read(config: &Object, architecture: Architecture) -> Result<Heads, TranslationRule> {
        let hidden = count(config, "hidden_size")?;
        let heads = count(config, "num_attention_heads")?;
        let kv_count = match config.u32("num_key_value_heads")? {
            Some(0) => return Err(config.broken("num_key_value_heads", "is 0")),
            other => other.unwrap_or(heads),
        };
        // Defaults of the configuration classes in transformers.
        let usual = match architecture {
            Gemma | Gemma2 | Gemma3 => Some(256),
            Qwen3 => Some(128),
            Llama | SmolLm3 | Qwen2 | Phi3 => None,
        };
        let dim = match config.u32("head_dim")?.or(usual) {
            Some(0) => return Err(config.broken("head_dim", "is 0")),
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(config.broken("hidden_size", format!("is {hidden}, not a multiple of {heads} heads"))),
        };
        Ok(Heads { count: heads, kv_count, dim, hidden })
    }
}

/// Writes the keys. Returns the number of rows of the embedding.
pub(super) fn write(
    config: &Object,
    architecture: Architecture,
    tensors: &dyn Tensors,
    made: &mut FromAssets,
) -> Result<u32, TranslationRule> {
    let heads = Heads::read(config, architecture)?;
    let blocks = count(config, "num_hidden_layers")?;
    let rows = match tensors.shape(EMBEDDING).and_then(|shape| shape.first().copied()) {
        Some(rows) => u32::try_from(rows)
            .map_err(|_| TranslationRule::tensor(EMBEDDING, format!("{rows} rows exceed a 32-bit count of tokens")))?,
        None => count(config, "vocab_size")?,
    };
    if u64::from(blocks) > MAX_BLOCKS {
        return Err(config.broken("num_hidden_layers", format!("is {blocks}, more than {MAX_BLOCKS}")));
    }
    check_activation(config, architecture)?;
    check_llama_cpp(config, architecture, &heads)?;
    let eps = config.f64("rms_norm_eps")?.unwrap_or(if architecture == Phi3 { 1e-5 } else { 1e-6 });

    let mut set = |key: &str, value: u32| made.set(architecture, key, value);
    set("block_count", blocks);
    set("context_length", count(config, "max_position_embeddings")?);
    set("embedding_length", heads.hidden);
    set("feed_forward_length", count(config, "intermediate_size")?);
    set("attention.head_count", heads.count);
    set("attention.head_count_kv", heads.kv_count);
    set("attention.key_length", heads.dim);
    set("attention.value_length", heads.dim);
    set("vocab_size", rows);
    made.set_f32(architecture, "attention.layer_norm_rms_epsilon", eps)?;

    let window = window(config)?;
    match architecture {
        Llama => {
            if let Some(window) = window {
                made.set(architecture, "attention.sliding_window", window);
                made.notes.push(ignored(window));
            }
        }
        Qwen2 | Qwen3 => no_window(config)?,
        SmolLm3 => smollm3(config, blocks)?,
        Phi3 => {
            // llama.cpp's converter writes 0 for no window.
            made.set(architecture, "attention.sliding_window", window.unwrap_or(0));
            made.notes.extend(window.map(ignored));
        }
        Gemma => {}
        Gemma2 | Gemma3 => gemma(config, architecture, &heads, blocks, window, made)?,
    }
    Ok(rows)
}

/// Checks what llama.cpp takes for granted: the tensors of an architecture and their shapes.
fn check_llama_cpp(config: &Object, architecture: Architecture, heads: &Heads) -> Result<(), TranslationRule> {
    let name = architecture.gguf_name();
    for key in ["attention_bias", "mlp_bias"] {
        // Qwen 2 always has biases of queries, keys and values, whatever its configuration says.
        let is_ignored = architecture == Qwen2 && key == "attention_bias";
        if architecture != Llama && !is_ignored && config.bool(key)? == Some(true) {
            let what = format!("\"{key}\": true, which llama.cpp does not support for {name}");
            return Err(TranslationRule::unsupported(what));
        }
    }
    if matches!(architecture, Gemma | Gemma2) && config.bool("tie_word_embeddings")? == Some(false) {
        let what =
            format!("\"tie_word_embeddings\": false, since llama.cpp has no separate output projection for {name}");
        return Err(TranslationRule::unsupported(what));
    }
    let Heads { count, dim, hidden, .. } = *heads;
    if matches!(architecture, Qwen2 | Phi3) && u64::from(count) * u64::from(dim) != u64::from(hidden) {
        let what = format!(
            "\"num_attention_heads\" {count} times \"head_dim\" {dim} is not \"hidden_size\" {hidden}, as llama.cpp \
             requires for {name}"
        );
        return Err(TranslationRule::unsupported(what));
    }
    Ok(())
}

/// Returns the window of local attention; if absent, the default of the configuration class in transformers, which
/// ignores the key for Llama.
fn window(config: &Object) -> Result<Option<u32>, TranslationRule> {
    let usual = match config.str("model_type")? {
        Some("llama") => return Ok(None),
        Some("mistral" | "gemma2" | "gemma3_text") if !config.says("sliding_window") => Some(4096),
        _ => None,
    };
    Ok(config.u32("sliding_window")?.or(usual).filter(|&window| window > 0))
}

/// Returns the note for a window that only other programs use.
fn ignored(window: u32) -> String {
    format!("llama.cpp ignores the \"sliding_window\" of {window} tokens")
}

fn no_window(config: &Object) -> Result<(), TranslationRule> {
    if config.bool("use_sliding_window")?.unwrap_or(false) {
        let what = "\"use_sliding_window\": true, which GGUF cannot express for this architecture";
        return Err(TranslationRule::unsupported(what));
    }
    Ok(())
}

/// Checks that rotary positions are omitted in every fourth block and no other, which llama.cpp hard-codes.
fn smollm3(config: &Object, blocks: u32) -> Result<(), TranslationRule> {
    no_window(config)?;
    let interval = config.u32("no_rope_layer_interval")?.unwrap_or(4);
    let fixed = || serde_json::json!(positioned_blocks(blocks.into()));
    let (key, fits) = match config.get("no_rope_layers") {
        Some(list) => ("no_rope_layers", *list == fixed()),
        None => ("no_rope_layer_interval", interval == 4),
    };
    if fits {
        return Ok(());
    }
    let what = format!("\"{key}\": llama.cpp omits rotary positions in every fourth block and in no other");
    Err(TranslationRule::unsupported(what))
}

/// Returns a required count, which must not be 0.
fn count(config: &Object, key: &str) -> Result<u32, TranslationRule> {
    match config.needed(key, config.u32(key)?)? {
        0 => Err(config.broken(key, "is 0")),
        count => Ok(count),
    }
}

/// Checks the activation: GGUF does not store it, since each architecture has its own.
fn check_activation(config: &Object, architecture: Architecture) -> Result<(), TranslationRule> {
    let (key, activation) = match config.str("hidden_activation")? {
        Some(activation) => ("hidden_activation", Some(activation)),
        None => ("hidden_act", config.str("hidden_act")?),
    };
    // Gemma's first configurations say gelu but mean the tanh approximation.
    let usual: &[&str] = if architecture.is_gemma() { &["gelu_pytorch_tanh", "gelu"] } else { &["silu"] };
    match activation {
        Some(activation) if !usual.contains(&activation) => {
            let what = format!("\"{key}\": \"{activation}\", where llama.cpp always uses {}", usual[0]);
            Err(TranslationRule::unsupported(what))
        }
        _ => Ok(()),
    }
}

/// Writes the additional keys of Gemma 2 and 3.
fn gemma(
    config: &Object,
    architecture: Architecture,
    heads: &Heads,
    blocks: u32,
    window: Option<u32>,
    made: &mut FromAssets,
) -> Result<(), TranslationRule> {
    let large = if architecture == Gemma3 { GEMMA3_27B_BLOCKS } else { GEMMA2_27B_BLOCKS };
    let implied = if u64::from(blocks) == large { heads.hidden / heads.count } else { heads.dim };
    let scale = config.f64("query_pre_attn_scalar")?.unwrap_or(256.0);
    if scale != f64::from(implied) {
        let what = format!(
            "\"query_pre_attn_scalar\" {scale}: GGUF cannot store it, and llama.cpp uses {implied}, which follows from \
             \"head_dim\" or \"hidden_size\""
        );
        return Err(TranslationRule::unsupported(what));
    }
    if config.bool("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(TranslationRule::unsupported("bidirectional attention"));
    }
    softcaps(config, architecture, made)?;
    let period = if architecture == Gemma3 { GEMMA3_PERIOD } else { 2 };
    let local = local_blocks(config, blocks, period)?;
    if architecture == Gemma2 && !local.contains(&true) {
        let what = "\"layer_types\" without sliding attention, which llama.cpp does not accept for gemma2";
        return Err(TranslationRule::unsupported(what));
    }
    let window = match window.filter(|_| local.contains(&true)) {
        Some(window) => window,
        // Without the key, llama.cpp uses a window for Gemma 2; one as long as the context has no effect.
        None if architecture == Gemma2 => count(config, "max_position_embeddings")?,
        // Without the key, all blocks of Gemma 3 are global.
        None => return Ok(()),
    };
    made.set(architecture, "attention.sliding_window", window);
    let usual = (1..=u64::from(blocks)).map(|block| block % period != 0);
    if !usual.eq(local.iter().copied()) {
        made.set(architecture, "attention.sliding_window_pattern", local);
    }
    Ok(())
}

/// Writes the soft caps of Gemma 2 and 3.
fn softcaps(config: &Object, architecture: Architecture, made: &mut FromAssets) -> Result<(), TranslationRule> {
    for (key, usual) in SOFTCAPS {
        match config.f64(key)? {
            Some(_) if architecture == Gemma3 && key.starts_with("attn") => {
                return Err(TranslationRule::unsupported(
                    "attn_logit_softcapping, which llama.cpp does not support for Gemma 3",
                ));
            }
            Some(cap) => made.set_f32(architecture, key, cap)?,
            None if architecture == Gemma3 => {}
            None if config.says(key) => {
                let what = format!("\"{key}\": null: GGUF cannot express it, and llama.cpp would use {usual}");
                return Err(TranslationRule::unsupported(what));
            }
            None => made.set_f32(architecture, key, usual)?,
        }
    }
    Ok(())
}

/// Returns which blocks are local: `layer_types` or, in older files, a period.
fn local_blocks(config: &Object, blocks: u32, period: u64) -> Result<Vec<bool>, TranslationRule> {
    let Some(types) = config.get("layer_types") else {
        let period = match config.u32("sliding_window_pattern")? {
            Some(0) => return Err(config.broken("sliding_window_pattern", "is 0")),
            Some(stated) => stated.into(),
            None => period,
        };
        return Ok((1..=u64::from(blocks)).map(|block| block % period != 0).collect());
    };
    let types = types.as_array().filter(|types| types.len() == blocks as usize);
    let types = types.ok_or_else(|| config.broken("layer_types", "does not have an entry for each block"))?;
    let local = |kind: &serde_json::Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(config.broken("layer_types", format!("has an entry {kind}"))),
    };
    types.iter().map(local).collect()
}
