//! Errors in a source are reported by name, before anything runs.

use crate::support::{Family, Folder, Table, decoder};
use impasto_model::config::{DecoderConfig, eos_token_ids};
use impasto_model::decoder::Decoder;
use impasto_model::{CausalLm, ModelError, Want};
use serde_json::{Value, json};

fn load(table: &Table) -> Result<Decoder, ModelError> {
    decoder(table, 1)
}

fn refusal(table: &Table) -> String {
    let error = load(table).err().expect("must be refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn config(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value =
        serde_json::from_slice(&Folder::golden("random-untied").table().assets["config.json"]).unwrap();
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn tensors() {
    let good = Folder::golden("random-untied").table();
    assert!(load(&good).is_ok());
    for name in good.tensors.keys() {
        let mut table = good.clone();
        table.tensors.remove(name);
        assert!(refusal(&table).contains(&format!("tensor {name}: missing")), "{name}");
        let mut table = good.clone();
        table.tensors.get_mut(name).unwrap().0.push(1);
        assert!(refusal(&table).contains(&format!("tensor {name}: shape")), "{name}");
        let mut table = good.clone();
        table.tensors.get_mut(name).unwrap().1.pop();
        let error = refusal(&table);
        assert!(error.contains(&format!("tensor {name}: ")) && error.contains("values for shape"), "{error}");
    }
}

/// Without its scales, a quantized weight has another value.
#[test]
fn tensors_that_no_layer_uses() {
    let good = Folder::golden("random-untied").table();
    let with = |names: &[&str]| {
        let mut table = good.clone();
        table.tensors.extend(names.iter().map(|name| (name.to_string(), (vec![1], vec![0.5]))));
        table
    };
    let layer = |part: &str| format!("model.layers.0.self_attn.q_proj.{part}");
    for part in
        ["weight_scale", "weight_scale_inv", "input_scale", "scales", "qzeros", "weight.absmax", "lora_A.weight"]
    {
        let name = layer(part);
        assert!(refusal(&with(&[&name])).contains(&format!("no layer uses the tensors {name},")), "{name}");
    }
    assert!(refusal(&with(&["lm_head.weight_scale"])).contains("lm_head.weight_scale"));
    let many: Vec<String> = ["a", "b", "c", "d", "e"].map(layer).into();
    let error = refusal(&with(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    assert!(error.contains("q_proj.c and 2 more,") && !error.contains("q_proj.d"), "{error}");
    // These change nothing in transformers either.
    for name in [&layer("bias"), "model.layers.0.self_attn.rotary_emb.inv_freq", "model.mtp.weight_scale"] {
        assert!(load(&with(&[name])).is_ok(), "{name}");
    }
}

#[test]
fn configurations() {
    let table = Folder::golden("random-untied").table();
    let refused = |key: &str, value: Value| {
        let mut table = table.clone();
        table.assets.insert("config.json".into(), config(|c| c[key] = value));
        refusal(&table)
    };
    for (key, value, words) in [
        ("model_type", json!("whisper"), "cannot run architecture LlamaForCausalLM (model_type whisper), only llama, "),
        (
            "architectures",
            json!(["BertModel"]),
            "cannot run architecture BertModel (model_type llama), only llama, mistral, qwen2, qwen3, smollm3, phi3, \
             gemma, gemma2, gemma3_text, gemma3; encode, decode and verify work",
        ),
        ("attention_bias", json!(true), "layers.0.self_attn.q_proj.bias: missing; expected shape [48]"),
        ("mlp_bias", json!(true), "layers.0.mlp.gate_proj.bias: missing; expected shape [80]"),
        ("hidden_act", json!("gelu"), "hidden_act gelu"),
        ("quantization_config", json!({"bits": 4}), "quantization_config"),
        ("rope_parameters", json!({"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}), "rope_type dynamic"),
        ("rope_parameters", json!({"rope_type": "linear"}), "factor is missing"),
        ("rope_parameters", json!({"rope_type": "linear", "factor": 0.0}), "factor = 0"),
        ("rope_parameters", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor is missing"),
        (
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            "high_freq_factor = 4 is not above",
        ),
        ("rope_parameters", json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": -1.0}), "beta_fast = -1"),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 1e-60}), "are not finite"),
        ("rope_parameters", json!({"rope_type": "longrope", "short_factor": [1, 1, 1, 1]}), "long_factor has 0 values"),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 5.0}}), "rope_parameters by layer type in llama"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling and rope_parameters that differ"),
        ("layer_types", json!(["sliding_attention", "full_attention", "full_attention"]), "layer_types in llama"),
        ("layer_types", json!(["full_attention"]), "layer_types has 1 entries for 3 blocks"),
        ("final_logit_softcapping", json!(30.0), "final_logit_softcapping in llama"),
        ("use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor 0.5 in llama"),
        ("num_key_value_heads", json!(4), "num_key_value_heads = 4"),
        ("num_key_value_heads", json!(0), "num_key_value_heads = 0"),
        ("head_dim", json!(7), "7 of head_dim = 7 elements rotated"),
        ("hidden_size", json!(1u64 << 60), "hidden_size"),
        ("hidden_size", json!(-4), "config.json"),
        ("hidden_size", json!(1 << 24), "requires [160, 16777216]"),
        ("num_hidden_layers", json!(0), "num_hidden_layers = 0"),
        ("num_hidden_layers", json!(1_000_000), "num_hidden_layers"),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps"),
        ("rope_parameters", json!({"rope_theta": 0.0}), "rope_theta"),
        ("vocab_size", Value::Null, "config.json"),
        ("tie_word_embeddings", json!("yes"), "config.json"),
    ] {
        let error = refused(key, value.clone());
        assert!(error.contains(words), "{key} = {value}: {error}");
    }
    let mut none = table.clone();
    for broken in [&b""[..], b"{", b"[]", b"{}", &[0xff; 9], &b"[".repeat(100_000)] {
        none.assets.insert("config.json".into(), broken.to_vec());
        refusal(&none);
    }
}

/// Options that one family supports and another does not, or differently.
#[test]
fn options_of_families() {
    for (name, key, value, words) in [
        ("mistral", "attention_bias", json!(true), "attention_bias = true in mistral"),
        ("mistral", "mlp_bias", json!(true), "mlp_bias = true in mistral"),
        ("mistral", "sliding_window", json!(0), "sliding_window = 0"),
        ("qwen2", "use_sliding_window", json!(false), "no sliding_window in use"),
        (
            "qwen2",
            "layer_types",
            json!(["chunked_attention", "full_attention", "full_attention"]),
            "layer type chunked_attention",
        ),
        ("smollm3", "no_rope_layers", json!([1, 0]), "no_rope_layers has 2 entries for 4 blocks"),
        ("smollm3", "no_rope_layer_interval", json!(0), ""),
        ("gemma", "hidden_act", json!("relu"), "hidden_act relu"),
        ("gemma2", "sliding_window", json!(null), "no sliding_window in use"),
        ("gemma2", "attn_logit_softcapping", json!(-1.0), "attn_logit_softcapping = -1"),
        ("gemma2", "query_pre_attn_scalar", json!(0), "query_pre_attn_scalar = 0"),
        ("gemma3", "attn_logit_softcapping", json!(50.0), "attn_logit_softcapping in gemma3_text"),
        ("gemma3", "rope_parameters", json!({"rope_theta": 1e4}), "rope_parameters without layer types"),
        ("phi3-longrope", "partial_rotary_factor", json!(0.1), ""),
        ("phi3-longrope", "original_max_position_embeddings", json!(1), "attention_factor = inf"),
    ] {
        let family = Family::open(name);
        let result = load(&family.with_config(|config| config[key] = value.clone()));
        match words {
            // These take precedence over the key.
            "" => assert!(result.is_ok(), "{name}: {key} = {value}"),
            words => {
                let error = result.err().unwrap_or_else(|| panic!("{name}: {key} = {value} runs")).to_string();
                assert!(error.contains(words), "{name}: {key} = {value}: {error}");
            }
        }
    }
}

/// Every tensor of every family is required, under its own name and with its own shape.
#[test]
fn tensors_of_families() {
    for family in Family::all() {
        for name in family.table.tensors.keys() {
            let mut table = family.table.clone();
            table.tensors.remove(name);
            assert!(refusal(&table).contains(&format!("tensor {name}: missing")), "{}: {name}", family.name);
            let mut table = family.table.clone();
            table.tensors.get_mut(name).unwrap().0[0] += 1;
            assert!(refusal(&table).contains(&format!("tensor {name}: shape")), "{}: {name}", family.name);
        }
    }
}

#[test]
fn both_dialects_say_the_same() {
    let new = DecoderConfig::from_json(&config(|_| ())).unwrap();
    let old = config(|c| {
        let c = c.as_object_mut().unwrap();
        c.remove("rope_parameters");
        c.insert("rope_theta".into(), json!(10000.0));
        c.insert("rope_scaling".into(), Value::Null);
    });
    assert_eq!(DecoderConfig::from_json(&old).unwrap(), new);
    assert_eq!(new.eos_token_ids, [1, 2]);
    let inferred = config(|c| {
        let c = c.as_object_mut().unwrap();
        c.remove("head_dim");
        c.remove("num_key_value_heads");
        c["eos_token_id"] = json!(2);
    });
    let inferred = DecoderConfig::from_json(&inferred).unwrap();
    assert_eq!((inferred.head_dim, inferred.num_kv_heads, inferred.eos_token_ids), (8, 6, vec![2]));
}

#[test]
fn end_of_text_tokens() {
    let mut table = Folder::golden("random-tied").table();
    assert_eq!(eos_token_ids(&table).unwrap(), [1, 2]);
    table.assets.insert("generation_config.json".into(), br#"{"eos_token_id": 7}"#.to_vec());
    assert_eq!(eos_token_ids(&table).unwrap(), [7]);
    table.assets.insert("generation_config.json".into(), br#"{"eos_token_id": null}"#.to_vec());
    assert_eq!(eos_token_ids(&table).unwrap(), [1, 2]);
    table.assets.insert("generation_config.json".into(), b"{".to_vec());
    assert!(eos_token_ids(&table).unwrap_err().to_string().contains("generation_config.json"));
}

#[test]
fn tokens_and_caches() {
    let mut net = load(&Folder::golden("random-tied").table()).unwrap();
    let other = load(&Folder::golden("random-untied").table()).unwrap();
    let mut cache = net.new_cache(8).unwrap();
    let mut run = |tokens: &[u32]| net.forward(&mut cache, tokens, Want::LastOnly).map(|l| l.len());
    assert!(matches!(run(&[]), Err(ModelError::EmptyPrompt)));
    assert!(matches!(run(&[3, 160]), Err(ModelError::TokenId { id: 160, position: 1, vocab: 160 })));
    assert!(matches!(run(&[3; 65]), Err(ModelError::ContextOverflow { tokens: 65, context: 64 })));
    assert_eq!(run(&[3; 64]).unwrap(), 160);
    assert!(matches!(run(&[3]), Err(ModelError::ContextOverflow { tokens: 65, context: 64 })));
    assert!(matches!(other.forward(&mut cache, &[1], Want::All), Err(ModelError::ForeignCache)));
    cache.clear();
    let hidden = net.hidden(&mut cache, &[1, 2], Want::All).unwrap();
    assert!(matches!(net.logits(&hidden, 1..3), Err(ModelError::Rows { .. })));
    net.limit_context(4);
    assert_eq!(net.max_context(), 4);
    let bytes: usize = Folder::golden("random-tied").table().tensors.values().map(|t| t.1.len() * 4).sum();
    assert_eq!((net.memory_bytes(), net.config().weight_bytes()), (bytes, Some(bytes)));
}
