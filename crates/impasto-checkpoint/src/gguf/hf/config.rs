//! Builds `config.json` from the keys of the architecture.

use serde_json::{Map, Value as Json, json};

use super::Architecture::{self, *};
use super::architecture::MISTRAL;
use super::keys::Keys;
use super::rules::TranslationRule;
use super::tokenizer::Tokenizer;
use super::{Tensors, json, rope};

/// Largest size of a dimension: far above any model, and small enough that a product of two fits 64 bits.
pub(super) const MAX_SIZE: u64 = 1 << 31;
/// Largest number of blocks; bounds the lists with an entry per block.
pub(super) const MAX_BLOCKS: u64 = 1 << 16;

/// Period of Gemma 3's attention pattern, in blocks. The last block of each period is global.
pub(super) const GEMMA3_PERIOD: u64 = 6;
/// The largest Gemma 3 and 2 scale attention scores by hidden size over number of heads instead of the head dimension.
/// GGUF does not store this; llama.cpp recognizes them by their number of blocks.
pub(super) const GEMMA3_27B_BLOCKS: u64 = 62;
pub(super) const GEMMA2_27B_BLOCKS: u64 = 46;

/// The soft caps of Gemma 2 and 3, of attention scores and of logits: the key, which is also the field, and the cap that
/// Gemma 2 has if it is absent, in llama.cpp as in transformers.
pub(super) const SOFTCAPS: [(&str, f64); 2] = [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)];
/// The window of local attention that Gemma 2 has if the key is absent.
const GEMMA2_WINDOW: u64 = 4096;

/// The shape of attention.
pub(super) struct Heads {
    /// Query heads.
    pub count: u64,
    /// Key and value heads.
    pub kv_count: u64,
    /// Width of each head.
    pub dim: u64,
    /// Width of the residual stream.
    pub hidden: u64,
}

impl Heads {
    /// Reads the shape from the keys, with the defaults of llama.cpp.
    pub fn read(keys: &Keys) -> Result<Heads, TranslationRule> {
        let hidden = keys.needed_count("embedding_length", MAX_SIZE)?;
        let count = keys.needed_count("attention.head_count", MAX_SIZE)?;
        let kv_count = keys.count("attention.head_count_kv", MAX_SIZE)?.unwrap_or(count);
        let dim = match keys.count("attention.key_length", MAX_SIZE)? {
            Some(dim) => dim,
            None if hidden.is_multiple_of(count) => hidden / count,
            None => {
                let rule = format!("{hidden} is not a multiple of the head count {count}, and no key_length is given");
                return Err(TranslationRule::value(&keys.own("embedding_length"), rule));
            }
        };
        if !count.is_multiple_of(kv_count) {
            let rule = format!("{kv_count} does not divide the head count {count}");
            return Err(TranslationRule::value(&keys.own("attention.head_count_kv"), rule));
        }
        if keys.count("attention.value_length", MAX_SIZE)?.is_some_and(|values| values != dim) {
            return Err(TranslationRule::unsupported("keys and values of different widths"));
        }
        Ok(Heads { count, kv_count, dim, hidden })
    }
}

/// Builds the bytes of `config.json`.
pub(super) fn config(
    keys: &Keys,
    tensors: &dyn Tensors,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<Vec<u8>>, TranslationRule> {
    let architecture = keys.architecture()?;
    if keys.u64(&keys.own("expert_count"))?.is_some_and(|experts| experts > 0) {
        return Err(TranslationRule::unsupported("a mixture of experts"));
    }
    if keys.bool(&keys.own("attention.causal"))? == Some(false) {
        return Err(TranslationRule::unsupported("attention that is not causal (an encoder)"));
    }
    let heads = Heads::read(keys)?;
    let blocks = keys.needed_count("block_count", MAX_BLOCKS)?;
    let context = keys.needed_count("context_length", MAX_SIZE)?;
    let eps_key = keys.own("attention.layer_norm_rms_epsilon");
    let eps = keys.required(&eps_key, keys.f64(&eps_key)?)?;
    if eps <= 0.0 {
        return Err(TranslationRule::value(&eps_key, format!("{eps} is not positive")));
    }

    let names = match architecture {
        Llama if window(keys, architecture)?.is_some() => MISTRAL,
        _ => architecture.hf_names(),
    };
    let mut config = Map::new();
    let mut set = |key: &str, value: Json| drop(config.insert(key.to_owned(), value));
    set("architectures", json!([names.1]));
    set("model_type", json!(names.0));
    set("vocab_size", json!(vocab_size(keys, tensors, tokenizer)?));
    set("hidden_size", json!(heads.hidden));
    set("intermediate_size", json!(keys.needed_count("feed_forward_length", MAX_SIZE)?));
    set("num_hidden_layers", json!(blocks));
    set("num_attention_heads", json!(heads.count));
    set("num_key_value_heads", json!(heads.kv_count));
    set("head_dim", json!(heads.dim));
    if architecture.is_gemma() {
        set("hidden_act", json!("gelu_pytorch_tanh"));
        set("hidden_activation", json!("gelu_pytorch_tanh"));
    } else {
        set("hidden_act", json!("silu"));
    }
    set("max_position_embeddings", json!(context));
    set("rms_norm_eps", json!(eps));
    rope::read(keys, tensors, architecture, &heads, context)?.into_iter().for_each(|(key, value)| set(key, value));
    set("tie_word_embeddings", json!(tensors.shape("output.weight").is_none()));
    own_fields(keys, tensors, architecture, &heads, blocks)?.into_iter().for_each(|(key, value)| set(key, value));
    if let Some(tokenizer) = tokenizer {
        tokenizer.special().config().into_iter().for_each(|(key, value)| set(key, value));
    }
    json::pretty(&Json::Object(config)).map(Some)
}

/// Returns the fields that only some architectures have.
fn own_fields(
    keys: &Keys,
    tensors: &dyn Tensors,
    architecture: Architecture,
    heads: &Heads,
    blocks: u64,
) -> Result<Vec<(&'static str, Json)>, TranslationRule> {
    let window = window(keys, architecture)?;
    let attention = || has_biases(tensors, &["attn_q", "attn_k", "attn_v", "attn_output"]);
    let mlp = || has_biases(tensors, &["ffn_gate", "ffn_up", "ffn_down"]);
    Ok(match architecture {
        Llama => {
            let (attention, mlp) = (attention()?, mlp()?);
            if window.is_some() && (attention || mlp) {
                return Err(TranslationRule::unsupported("a Mistral with biases"));
            }
            let mut fields = vec![("attention_bias", json!(attention)), ("mlp_bias", json!(mlp))];
            fields.extend(window.map(|window| ("sliding_window", json!(window))));
            fields
        }
        SmolLm3 => vec![
            ("attention_bias", json!(attention()?)),
            ("mlp_bias", json!(mlp()?)),
            ("use_sliding_window", json!(false)),
            ("no_rope_layers", json!(positioned_blocks(blocks))),
        ],
        Qwen2 => {
            let biased = has_biases(tensors, &["attn_q", "attn_k", "attn_v"])?;
            if !biased && tensors.shape("blk.0.attn_q.weight").is_some() {
                return Err(TranslationRule::unsupported("a Qwen 2 without biases"));
            }
            vec![("use_sliding_window", json!(false))]
        }
        Qwen3 => vec![("attention_bias", json!(attention()?)), ("use_sliding_window", json!(false))],
        Phi3 => vec![("sliding_window", json!(window))],
        Gemma => vec![("attention_bias", json!(false))],
        Gemma2 | Gemma3 => gemma(keys, architecture, heads, blocks, window)?,
    })
}

/// Returns the window of local attention; 0 means none.
fn window(keys: &Keys, architecture: Architecture) -> Result<Option<u64>, TranslationRule> {
    let usual = (architecture == Gemma2).then_some(GEMMA2_WINDOW);
    Ok(keys.u64(&keys.own("attention.sliding_window"))?.or(usual).filter(|&window| window > 0))
}

/// Returns, for each block of SmolLM 3, 1 if it has rotary positions, else 0: in every fourth block, which llama.cpp
/// hard-codes.
pub(super) fn positioned_blocks(blocks: u64) -> Vec<u8> {
    (1..=blocks).map(|block| u8::from(block % 4 != 0)).collect()
}

/// Returns the rows of the embedding, or the size in the keys if that tensor is absent.
fn vocab_size(keys: &Keys, tensors: &dyn Tensors, tokenizer: Option<&Tokenizer>) -> Result<u64, TranslationRule> {
    if let Some(rows) = tensors.shape("token_embd.weight").and_then(|shape| shape.first().copied()) {
        return Ok(rows);
    }
    let stated = keys.count("vocab_size", MAX_SIZE)?;
    let size = stated.or_else(|| tokenizer.map(|t| t.token_count() as u64));
    keys.required(&keys.own("vocab_size"), size)
}

/// Returns whether the matrices of the first block have biases, which must be all of them or none.
fn has_biases(tensors: &dyn Tensors, names: &[&str]) -> Result<bool, TranslationRule> {
    let there = names.iter().filter(|name| tensors.shape(&format!("blk.0.{name}.bias")).is_some()).count();
    if there == 0 || there == names.len() {
        return Ok(there > 0);
    }
    Err(TranslationRule::unsupported(format!(
        "biases for {there} of the {} matrices {}",
        names.len(),
        names.join(", ")
    )))
}

/// Returns the additional fields of Gemma 2 and 3: scale of the scores, soft caps, local and global attention.
fn gemma(
    keys: &Keys,
    architecture: Architecture,
    heads: &Heads,
    blocks: u64,
    window: Option<u64>,
) -> Result<Vec<(&'static str, Json)>, TranslationRule> {
    let (large, period) =
        if architecture == Gemma3 { (GEMMA3_27B_BLOCKS, GEMMA3_PERIOD) } else { (GEMMA2_27B_BLOCKS, 2) };
    let scale = if blocks == large { heads.hidden / heads.count } else { heads.dim };
    let local = local_blocks(keys, blocks, window, period)?;
    let kind = |&local: &bool| if local { "sliding_attention" } else { "full_attention" };
    let mut fields = vec![
        ("attention_bias", json!(false)),
        ("query_pre_attn_scalar", json!(scale)),
        ("sliding_window", json!(window)),
        ("layer_types", json!(local.iter().map(kind).collect::<Vec<_>>())),
    ];
    for (key, usual) in SOFTCAPS {
        let usual = (architecture == Gemma2).then_some(usual);
        fields.push((key, json!(keys.f64(&keys.own(key))?.or(usual))));
    }
    Ok(fields)
}

/// Returns which blocks have local attention. The key `attention.sliding_window_pattern` is either a list or a period
/// whose last block is global.
fn local_blocks(keys: &Keys, blocks: u64, window: Option<u64>, period: u64) -> Result<Vec<bool>, TranslationRule> {
    let key = keys.own("attention.sliding_window_pattern");
    if window.is_none() {
        return Ok(vec![false; blocks as usize]);
    }
    if let Some(list) = keys.bools(&key) {
        if list.len() as u64 != blocks {
            let rule = format!("{} entries for {blocks} blocks", list.len());
            return Err(TranslationRule::value(&key, rule));
        }
        return Ok(list.to_vec());
    }
    let period = match keys.u64(&key)? {
        Some(0) => return Err(TranslationRule::value(&key, "a period of 0")),
        Some(period) => period,
        None => period,
    };
    Ok((1..=blocks).map(|block| block % period != 0).collect())
}
