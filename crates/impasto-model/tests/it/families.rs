//! Tiny models of every family against transformers: logits of tests/golden/families, made by tools/make_goldens.py.
//!
//! The error of a position is its largest absolute difference divided by its largest absolute logit.

use crate::support::transformers::{TOLERANCE, error_of, one_token_at_a_time};
use crate::support::{Family, Table, decoder};
use impasto_model::config::{Activation, DecoderConfig, eos_token_ids};
use impasto_model::decoder::Decoder;
use impasto_model::{CausalLm, Want};
use serde_json::{Value, json};

fn load(table: &Table, threads: usize) -> Decoder {
    decoder(table, threads).unwrap()
}

#[test]
fn equal_transformers() {
    let families = Family::all();
    assert_eq!(families.len(), 11);
    for family in families {
        for threads in [1, 2] {
            let worst = error_of(&family, &load(&family.table, threads));
            println!("{}, {threads} threads: largest error {worst:.1e}", family.name);
            assert!(worst < TOLERANCE, "{}: {worst:.1e}", family.name);
        }
    }
}

#[test]
fn tokens_one_at_a_time() {
    for family in Family::all() {
        let net = load(&family.table, 2);
        one_token_at_a_time(&family, &net, net.config());
    }
}

/// A checkpoint that was saved from the base class has names without a prefix.
#[test]
fn names_without_a_prefix() {
    for (name, prefix) in [("llama3", "model."), ("gemma2", "model."), ("gemma3", "model.")] {
        let mut family = Family::open(name);
        let bare = |(name, tensor): (String, _)| (name.strip_prefix(prefix).unwrap_or(&name).to_owned(), tensor);
        family.table.tensors = std::mem::take(&mut family.table.tensors).into_iter().map(bare).collect();
        assert!(!family.table.tensors.keys().any(|name| name.starts_with(prefix)));
        let worst = error_of(&family, &load(&family.table, 1));
        assert!(worst < TOLERANCE, "{name}: {worst:.1e}");
    }
}

/// An output projection beside a tied embedding is used if it differs, as in transformers 5.
#[test]
fn a_tied_model_with_an_output_projection_of_its_own() {
    let family = Family::open("llama-linear");
    let (head, embedding) = ("lm_head.weight", &family.table.tensors["model.embed_tokens.weight"]);
    let with_head = |tied: bool, values: Vec<f32>| {
        let mut table = family.with_config(|config| config["tie_word_embeddings"] = tied.into());
        table.tensors.insert(head.into(), (embedding.0.clone(), values));
        load(&table, 1)
    };
    let logits = |model: &Decoder| {
        let mut cache = model.new_cache(0).unwrap();
        model.forward(&mut cache, &family.tokens, Want::All).unwrap()
    };
    let same = with_head(true, embedding.1.clone());
    assert!(same.config().tie_word_embeddings && logits(&same) == logits(&load(&family.table, 1)));
    let reversed: Vec<f32> = embedding.1.iter().rev().copied().collect();
    let (own, untied) = (with_head(true, reversed.clone()), with_head(false, reversed));
    assert!(!own.config().tie_word_embeddings && own.linears().last().unwrap().name == head);
    assert!(logits(&own) == logits(&untied) && logits(&own) != logits(&same));
}

/// The memory limit uses the size from the configuration.
#[test]
fn sizes() {
    for family in Family::all() {
        let bytes: usize = family.table.tensors.values().map(|(_, values)| values.len() * 4).sum();
        let model = load(&family.table, 1);
        assert_eq!(model.config().weight_bytes(), Some(bytes), "{}", family.name);
        assert_eq!(model.memory_bytes(), bytes, "{}", family.name);
    }
}

/// Each option of a configuration affects the logits: changing it changes them.
#[test]
fn options_matter() {
    for (name, pointer, value) in [
        ("llama3", "/rope_parameters/factor", json!(7.0)),
        ("llama3", "/rope_parameters/low_freq_factor", json!(1.5)),
        ("llama3", "/rope_parameters/high_freq_factor", json!(3.5)),
        ("llama3", "/rope_parameters/original_max_position_embeddings", json!(20)),
        ("llama3", "/attention_bias", json!(false)),
        ("llama3", "/mlp_bias", json!(false)),
        ("llama3", "/rms_norm_eps", json!(1e-2)),
        ("llama-linear", "/rope_parameters/factor", json!(2.0)),
        ("llama-linear", "/rope_parameters/rope_theta", json!(900.0)),
        ("mistral", "/sliding_window", json!(6)),
        ("mistral", "/sliding_window", json!(8)),
        ("mistral", "/sliding_window", json!(null)),
        ("qwen2", "/sliding_window", json!(10)),
        ("qwen2", "/layer_types/2", json!("full_attention")),
        ("qwen2", "/rope_parameters/factor", json!(3.0)),
        ("qwen2", "/rope_parameters/original_max_position_embeddings", json!(32)),
        ("qwen3", "/rope_parameters/truncate", json!(true)),
        ("qwen3", "/rope_parameters/attention_factor", json!(1.2)),
        ("qwen3", "/rope_parameters/beta_fast", json!(0.9)),
        ("qwen3", "/rope_parameters/beta_slow", json!(0.3)),
        ("smollm3", "/no_rope_layers/1", json!(1)),
        ("smollm3", "/layer_types/3", json!("full_attention")),
        ("gemma", "/hidden_act", json!("silu")),
        ("gemma2", "/query_pre_attn_scalar", json!(11)),
        ("gemma2", "/attn_logit_softcapping", json!(null)),
        ("gemma2", "/final_logit_softcapping", json!(null)),
        ("gemma3", "/sliding_window", json!(7)),
        ("gemma3", "/layer_types/2", json!("sliding_attention")),
        ("gemma3", "/rope_parameters/full_attention/factor", json!(3.0)),
        ("gemma3", "/rope_parameters/sliding_attention/rope_theta", json!(60.0)),
        ("phi3", "/sliding_window", json!(11)),
        ("phi3-longrope", "/rope_parameters/short_factor/3", json!(1.5)),
        ("phi3-longrope", "/rope_parameters/long_factor/3", json!(4.5)),
        ("phi3-longrope", "/original_max_position_embeddings", json!(25)),
        ("phi3-longrope", "/max_position_embeddings", json!(64)),
    ] {
        let family = Family::open(name);
        let table = family.with_config(|config| {
            *config.pointer_mut(pointer).unwrap_or_else(|| panic!("{name}: no {pointer}")) = value.clone();
        });
        let worst = error_of(&family, &load(&table, 1));
        assert!(worst > 50.0 * TOLERANCE, "{name}{pointer} = {value}: {worst:.1e}");
    }
}

fn parsed(table: &Table) -> DecoderConfig {
    DecoderConfig::from_json(&table.assets["config.json"]).unwrap()
}

/// Configurations in the dialect of transformers 4, and with optional values left out.
#[test]
fn older_dialects() {
    fn flat(config: &mut Value) {
        let config = config.as_object_mut().unwrap();
        config.remove("layer_types");
        let Some(Value::Object(mut rope)) = config.remove("rope_parameters") else { panic!("rope_parameters") };
        if let Some(theta) = rope.remove("rope_theta") {
            config.insert("rope_theta".into(), theta);
        }
        // Files that were saved again have both names of the type.
        rope.insert("type".into(), rope["rope_type"].clone());
        config.insert("rope_scaling".into(), Value::Object(rope));
    }
    for name in ["llama3", "llama-linear", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "phi3"] {
        let family = Family::open(name);
        assert_eq!(parsed(&family.with_config(flat)), parsed(&family.table), "{name}");
    }
    let family = Family::open("phi3-longrope");
    for kind in ["longrope", "su", "yarn"] {
        let old = family.with_config(|config| {
            flat(config);
            let rope = config["rope_scaling"].as_object_mut().unwrap();
            let partial = rope.remove("partial_rotary_factor").unwrap();
            rope.remove("original_max_position_embeddings");
            rope.remove("rope_type");
            rope.insert("type".into(), json!(kind));
            config["partial_rotary_factor"] = partial;
        });
        assert_eq!(parsed(&old), parsed(&family.table), "{kind}");
    }
    let family = Family::open("gemma3");
    let old = family.with_config(|config| {
        let config = config.as_object_mut().unwrap();
        for key in ["layer_types", "rope_parameters", "tie_word_embeddings", "use_bidirectional_attention"] {
            config.remove(key);
        }
        config.insert("rope_theta".into(), json!(5000.0));
        config.insert("rope_local_base_freq".into(), json!(50.0));
        config.insert("rope_scaling".into(), json!({"rope_type": "linear", "factor": 4.0}));
    });
    assert_eq!(parsed(&old), parsed(&family.table));
    let smollm3 = Family::open("smollm3");
    let old = smollm3.with_config(|config| {
        let config = config.as_object_mut().unwrap();
        for key in ["layer_types", "no_rope_layers", "rope_parameters", "tie_word_embeddings"] {
            config.remove(key);
        }
    });
    assert_eq!(parsed(&old), parsed(&smollm3.table));
}

/// A multimodal Gemma 3: sizes in `text_config`, other tensor names.
#[test]
fn text_of_a_multimodal_model() {
    let family = Family::open("gemma3");
    for prefix in ["language_model.model.", "model.language_model."] {
        let mut table = family.with_config(|config| {
            let text = config.take();
            *config = json!({
                "model_type": "gemma3",
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": text,
                "vision_config": {"hidden_size": 16, "num_hidden_layers": 2},
                "eos_token_id": [1, 7],
            });
        });
        table.tensors = family
            .table
            .tensors
            .iter()
            .map(|(name, tensor)| (name.replacen("model.", prefix, 1), tensor.clone()))
            .collect();
        assert!(error_of(&family, &load(&table, 1)) < TOLERANCE);
        assert_eq!(eos_token_ids(&table).unwrap(), [1, 7]);
        let mut config: Value = serde_json::from_slice(&table.assets["config.json"]).unwrap();
        config.as_object_mut().unwrap().remove("eos_token_id");
        table.assets.insert("config.json".into(), serde_json::to_vec(&config).unwrap());
        assert_eq!((eos_token_ids(&table).unwrap(), parsed(&table).eos_token_ids), (vec![1], vec![1]));
    }
    // Values that the files of the 4b and 12b models leave out.
    let short = json!({
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
    });
    let config = DecoderConfig::from_json(&serde_json::to_vec(&short).unwrap()).unwrap();
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size), (8, 4, 256, 262_208));
    assert_eq!((config.ropes[0].theta, config.ropes[1].theta), (1e6, 1e4));
    assert_eq!((config.blocks[4].window, config.blocks[5].window), (Some(1024), None));
    assert_eq!((config.attention_scale, config.max_position_embeddings), (1.0 / 16.0, 131_072));
    assert!(config.tie_word_embeddings);
}

/// Options of published files in the dialect of transformers 4, where they differ from those of the tiny models.
#[test]
fn published_configurations() {
    fn read(config: Value) -> DecoderConfig {
        DecoderConfig::from_json(&serde_json::to_vec(&config).unwrap()).unwrap()
    }
    let windows = |config: &DecoderConfig| config.blocks.iter().filter(|b| b.window.is_some()).count();

    let mistral = read(json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": false, "vocab_size": 32000, "head_dim": null,
    }));
    assert_eq!((windows(&mistral), mistral.blocks[0].window, mistral.head_dim), (32, Some(4096), 128));

    let qwen = read(json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rope_theta": 1000000.0,
        "max_position_embeddings": 32768, "max_window_layers": 21, "sliding_window": 32768,
        "use_sliding_window": false, "tie_word_embeddings": true, "vocab_size": 151936,
    }));
    assert_eq!((windows(&qwen), qwen.biases.qkv, qwen.biases.output), (0, true, false));

    let gemma = read(json!({
        "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu", "head_dim": 256,
        "hidden_size": 2048, "intermediate_size": 16384, "num_attention_heads": 8, "num_hidden_layers": 18,
        "num_key_value_heads": 1, "vocab_size": 256000, "rope_scaling": null,
    }));
    assert_eq!((gemma.activation, gemma.tie_word_embeddings), (Activation::GeluTanh, true));
    assert_eq!(gemma.embedding_scale(), Some(2048f32.sqrt()));

    let gemma2 = read(json!({
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "hidden_size": 2304, "intermediate_size": 9216,
        "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
        "sliding_window": 4096, "vocab_size": 256000,
    }));
    assert_eq!((gemma2.attention_softcap, gemma2.logit_softcap), (Some(50.0), Some(30.0)));
    assert_eq!((gemma2.blocks[0].window, gemma2.blocks[1].window), (Some(4096), None));

    let phi = read(json!({
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
        "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8, "partial_rotary_factor": 0.75,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "sliding_window": 262144,
        "rope_scaling": {"type": "longrope", "short_factor": vec![1.0; 48], "long_factor": vec![2.0; 48]},
        "mlp_bias": false, "attention_bias": false, "tie_word_embeddings": true, "vocab_size": 200064,
    }));
    assert_eq!((phi.ropes[0].dim, phi.head_dim), (96, 128));
    assert!((phi.ropes[0].scale - 1.190_238_1).abs() < 1e-6, "sqrt(1 + ln 32 / ln 4096)");
    assert!(phi.ropes[0].is_long(4097) && !phi.ropes[0].is_long(4096));
}
