//! `genai_config.json`, by which onnxruntime-genai finds its way in a folder.

use impasto_model::config::DecoderConfig;
use serde_json::{Map, Value, json};

/// The file.
pub const GENAI: &str = "genai_config.json";

/// Returns its bytes.
///
/// - `model`: the file name of the graph
/// - `fields`: those of `config.json`
/// - `ends`: the tokens at which a text ends
/// - `positions`: the most tokens of a text
pub fn text(
    model: &str,
    fields: &Map<String, Value>,
    config: &DecoderConfig,
    ends: &[u32],
    positions: usize,
) -> Vec<u8> {
    let first = ends.first().copied().unwrap_or(0);
    let token = |name: &str, otherwise: u32| fields.get(name).and_then(Value::as_u64).unwrap_or(otherwise.into());
    let ends = if let [end] = ends { json!(end) } else { json!(ends) };
    let decoder = json!({
        "session_options": { "log_id": "onnxruntime-genai", "provider_options": [] },
        "filename": model,
        "head_size": config.head_dim,
        "hidden_size": config.hidden_size,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.blocks.len(),
        "num_key_value_heads": config.num_kv_heads,
    });
    let text = json!({
        "model": {
            "bos_token_id": token("bos_token_id", first),
            "context_length": positions,
            "decoder": decoder,
            "eos_token_id": ends,
            "pad_token_id": token("pad_token_id", first),
            "type": fields.get("model_type").cloned().unwrap_or(Value::Null),
            "vocab_size": config.vocab_size,
        },
        "search": {
            "do_sample": false,
            "max_length": positions,
            "min_length": 0,
            "num_beams": 1,
            "past_present_share_buffer": true,
            "repetition_penalty": 1.0,
        },
    });
    format!("{text:#}\n").into_bytes()
}
