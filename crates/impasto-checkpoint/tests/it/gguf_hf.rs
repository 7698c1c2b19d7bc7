//! Translation between GGUF and Hugging Face folders, tested with tiny models of each architecture that
//! tools/make_gguf_goldens.py created with transformers, tokenizers, sentencepiece and gguf.

use std::path::{Path, PathBuf};

use crate::common::hf::{Table, assert_fields, decoded, ids, tokenizer};
use impasto_checkpoint::gguf::hf::{self, Architecture, Assets, Change, Mapped, NameMap};
use impasto_checkpoint::gguf::{Array, Metadata, Value};
use impasto_checkpoint::{Asset, Checkpoint};
use serde_json::{Value as Json, json};

const GOLDENS: [&str; 5] = ["llama3", "qwen2", "mistral", "phi3", "gemma3"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_hf").join(name)
}

fn json_of(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn opened(name: &str) -> Checkpoint {
    Checkpoint::open(&golden(&format!("{name}.gguf"))).unwrap()
}

/// The assets of the original folder.
fn original(name: &str) -> Vec<Asset> {
    let read = |file: &str| Asset { name: file.into(), bytes: std::fs::read(golden(name).join(file)).unwrap() };
    ["config.json", "tokenizer.json", "tokenizer_config.json"].map(read).into()
}

/// The tensors of the original folder that the translation looks at.
fn hf_tensors(name: &str) -> Table {
    let config = json_of(&golden(name).join("config.json"));
    let mut table = Table::default();
    let size = |key: &str| config[key].as_u64().unwrap();
    table.add("model.embed_tokens.weight", &[size("vocab_size"), size("hidden_size")]);
    table
}

/// The tensors of the GGUF after its metadata is written: those of the golden file, and the factors.
fn gguf_tensors(checkpoint: &Checkpoint, factors: &[(String, Vec<f32>)]) -> Table {
    let mut table = Table::default();
    for tensor in checkpoint.tensors().iter().filter(|tensor| !NameMap::is_in_config(&tensor.name)) {
        table.add(&tensor.name, &tensor.shape);
    }
    factors.iter().for_each(|(name, values)| table.add_values(name, values));
    table
}

/// Asserts that the rebuilt files equal the original ones: the fields of config.json, encoding and decoding of tokens.
fn assert_same(name: &str, made: &Assets) {
    assert_eq!(made.notes(), [""; 0], "{name}");
    let expected = json_of(&golden(name).join("expected.json"));
    let config: Json = serde_json::from_slice(made.get("config.json").unwrap()).unwrap();
    assert_fields(name, &config, &expected["config"]);

    let ours = tokenizer(made.get("tokenizer.json").unwrap());
    for case in expected["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let whole: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(json!(ids(&ours, text, false)), case["plain"], "{name}: {text:?}");
        assert_eq!(ids(&ours, text, true), whole, "{name}: {text:?}");
        assert_eq!(decoded(&ours, &whole), case["decoded"].as_str().unwrap(), "{name}: {text:?}");
    }
    let tokens: Json = serde_json::from_slice(made.get("tokenizer_config.json").unwrap()).unwrap();
    assert_fields(name, &tokens, &json_of(&golden(name).join("tokenizer_config.json")));
    let generation: Json = serde_json::from_slice(made.get("generation_config.json").unwrap()).unwrap();
    assert_eq!(generation["eos_token_id"][0], expected["config"]["eos_token_id"], "{name}");
}

#[test]
fn a_gguf_gives_the_files_of_the_folder_it_was_made_from() {
    for name in GOLDENS {
        let checkpoint = opened(name);
        let made = hf::assets(checkpoint.metadata().unwrap(), &checkpoint);
        assert_eq!(made.assets, checkpoint.assets());
        assert_same(name, &made);
    }
}

#[test]
fn a_folder_gives_metadata_that_give_the_folder_back() {
    for name in GOLDENS {
        let made = hf::metadata(&original(name), &hf_tensors(name), "Tiny", 1).unwrap();
        let tensors = gguf_tensors(&opened(name), &made.factors);
        assert_same(name, &hf::assets(&made.metadata, &tensors));
    }
}

/// Every key that llama.cpp's converter writes must be in our metadata, with the same type and value.
#[test]
fn metadata_are_those_of_the_converter() {
    // Our metadata may have more keys: model names, sizes that llama.cpp infers, and the window of Mistral, which it
    // ignores.
    for name in GOLDENS {
        let checkpoint = opened(name);
        let theirs = checkpoint.metadata().unwrap();
        let made = hf::metadata(&original(name), &hf_tensors(name), &format!("Tiny {name}"), 1).unwrap();
        for (key, value) in theirs.iter() {
            let ours = made.metadata.get(key).unwrap_or_else(|| panic!("{name}: {key}"));
            match (key, value, ours) {
                // Only the order of scores matters; sentencepiece also numbers tokens that cannot be merged.
                ("tokenizer.ggml.scores", Value::Array(Array::F32(theirs)), Value::Array(Array::F32(ours))) => {
                    assert_eq!(ranks(theirs, &made.metadata), ranks(ours, &made.metadata), "{name}");
                }
                (_, Value::F32(theirs), Value::F32(ours)) => {
                    assert!((theirs - ours).abs() <= 1e-6 * theirs, "{name}: {key}")
                }
                _ => assert_eq!(ours, value, "{name}: {key}"),
            }
        }
        for (factor, values) in &made.factors {
            let theirs = hf::Tensors::values(&checkpoint, factor).unwrap();
            assert_eq!(theirs.len(), values.len());
            assert!(theirs.iter().zip(values).all(|(a, b)| (a / b - 1.0).abs() < 4e-6), "{name}: {factor}");
        }
    }
}

/// Returns the normal tokens of several characters, in the order in which scores merge them.
fn ranks(scores: &[f32], metadata: &Metadata) -> Vec<usize> {
    let tokens = metadata.strings("tokenizer.ggml.tokens").unwrap();
    let types = metadata.i32s("tokenizer.ggml.token_type").unwrap();
    let mut order: Vec<usize> = (0..tokens.len()).filter(|&i| types[i] == 1 && tokens[i].chars().count() > 1).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// Architectures without golden files: their configurations survive a round trip. (Their tokenizers are tested with
/// other models.)
#[test]
fn configurations_without_a_golden_go_there_and_back() {
    let ramp: Vec<f64> = (1..17).map(f64::from).collect();
    let common = json!({
        "vocab_size": 388, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "rope_theta": 2e6
    });
    let cases = [
        json!({"model_type": "qwen3", "hidden_act": "silu", "attention_bias": false}),
        json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true}),
        json!({"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
        json!({"model_type": "llama", "rope_scaling": {
            "rope_type": "longrope", "short_factor": vec![1.0; 16], "long_factor": ramp,
            "original_max_position_embeddings": 1024}}),
        json!({"model_type": "llama", "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 0.7}}),
        // A tensor of divisors other than Llama 3's.
        json!({"model_type": "llama", "rope_scaling": {
            "rope_type": "longrope", "short_factor": ramp,
            "long_factor": ramp, "attention_factor": 1.0,
            "original_max_position_embeddings": 4096}}),
        json!({"model_type": "smollm3", "no_rope_layers": [1, 1, 1, 0, 1, 1, 1, 0]}),
        json!({"model_type": "gemma", "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true}),
        json!({"model_type": "gemma2", "tie_word_embeddings": true, "sliding_window": 4096, "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
        json!({"model_type": "gemma3_text", "sliding_window": 512, "query_pre_attn_scalar": 32,
            "rope_local_base_freq": 1e4, "layer_types": ["full_attention", "sliding_attention", "full_attention",
            "sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]}),
    ];
    for case in cases {
        let mut config = common.clone();
        config.as_object_mut().unwrap().extend(case.as_object().unwrap().clone());
        let mut assets = original("llama3");
        assets[0].bytes = config.to_string().into_bytes();
        let made = hf::metadata(&assets, &Table::default(), "Tiny", 1).unwrap();
        let mut tensors = Table::default();
        if config["tie_word_embeddings"] == false {
            tensors.add("output.weight", &[388, 64]);
        }
        if config["attention_bias"] == true {
            for tensor in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
                tensors.add(&format!("blk.0.{tensor}.bias"), &[64]);
            }
        }
        made.factors.iter().for_each(|(name, values)| tensors.add_values(name, values));
        let back = hf::assets(&made.metadata, &tensors);
        assert_eq!(back.notes(), [""; 0], "{case}");
        let back: Json = serde_json::from_slice(back.get("config.json").unwrap()).unwrap();
        assert_fields(&case.to_string(), &back, &config);
    }
}

/// Returns the configuration that a golden's metadata give with these keys in addition, and without rotary factors.
fn config_with(name: &str, keys: &[(&str, Value)]) -> Json {
    let checkpoint = opened(name);
    let mut metadata = checkpoint.metadata().unwrap().clone();
    keys.iter().for_each(|(key, value)| metadata.insert(*key, value.clone()));
    let made = hf::assets(&metadata, &gguf_tensors(&checkpoint, &[]));
    serde_json::from_slice(made.get("config.json").unwrap()).unwrap()
}

#[test]
fn an_attention_factor_multiplies_the_one_of_yarn() {
    let yarn = [("qwen2.rope.scaling.type", Value::from("yarn")), ("qwen2.rope.scaling.factor", 4f32.into())];
    assert_eq!(config_with("qwen2", &yarn)["rope_scaling"]["attention_factor"], json!(null));
    let [kind, factor] = yarn;
    let config = config_with("qwen2", &[kind, factor, ("qwen2.rope.scaling.attn_factor", 0.5f32.into())]);
    // 0.5 (0.1 ln 4 + 1).
    assert_fields("yarn", &config["rope_scaling"], &json!({"factor": 4.0, "attention_factor": 0.569_314_72}));

    // The other way: the factor of a folder, divided by YaRN's own.
    let written = |fields: Json| {
        let mut assets = original("qwen2");
        let mut config: Json = serde_json::from_slice(&assets[0].bytes).unwrap();
        let object = config["rope_parameters"].as_object_mut().unwrap();
        object.extend(fields.as_object().unwrap().clone());
        assets[0].bytes = config.to_string().into_bytes();
        hf::metadata(&assets, &Table::default(), "Tiny", 1).map(|made| {
            let yarn = made.metadata.str("qwen2.rope.scaling.type") == Some("yarn");
            assert!(yarn && made.metadata.iter().all(|(key, _)| !key.contains("yarn_")));
            made.metadata.f64("qwen2.rope.scaling.attn_factor")
        })
    };
    let usual = 0.1 * 4f64.ln() + 1.0;
    for (fields, factor) in [
        (json!({}), None),
        (json!({"beta_fast": 32, "beta_slow": 1.0, "truncate": true, "mscale": 0.5}), None),
        (json!({"attention_factor": 0.7}), Some(0.7 / usual)),
        (json!({"mscale": 1.0, "mscale_all_dim": 0.8}), Some(1.0 / (0.08 * 4f64.ln() + 1.0))),
    ] {
        let found = written(fields.clone()).unwrap();
        let near = found.zip(factor).is_some_and(|(found, factor)| (found - factor).abs() < 1e-7);
        assert!(near || found.is_none() && factor.is_none(), "{fields}: {found:?}");
    }
    for (fields, rule) in [
        (json!({"beta_fast": 8}), "YaRN with \"beta_fast\" 8, where llama.cpp always uses 32"),
        (json!({"beta_slow": 4.5}), "YaRN with \"beta_slow\" 4.5"),
        (json!({"truncate": false}), "YaRN with \"truncate\": false"),
    ] {
        let error = written(fields).unwrap_err().to_string();
        assert!(error.contains(rule), "{error}");
    }
}

/// What a Gemma 2 has if its configuration or metadata do not say otherwise.
#[test]
fn gemma_2_has_soft_caps_and_a_window() {
    let config = |fields: Json| {
        let mut config = json!({
            "model_type": "gemma2", "vocab_size": 388, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 8192
        });
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut assets = original("llama3");
        assets[0].bytes = config.to_string().into_bytes();
        hf::metadata(&assets, &Table::default(), "Tiny", 1)
    };
    let usual = json!({
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096,
        "layer_types": ["sliding_attention", "full_attention"]
    });
    let back = |metadata: &Metadata| -> Json {
        let made = hf::assets(metadata, &Table::default());
        serde_json::from_slice(made.get("config.json").unwrap()).unwrap()
    };
    let mut metadata = config(json!({})).unwrap().metadata;
    assert_eq!(metadata.f64("gemma2.attn_logit_softcapping"), Some(50.0));
    assert_eq!(metadata.f64("gemma2.final_logit_softcapping"), Some(30.0));
    assert_fields("written", &back(&metadata), &usual);
    for key in ["attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"] {
        metadata.remove(&format!("gemma2.{key}")).unwrap();
    }
    assert_fields("absent", &back(&metadata), &usual);

    // No window is one of the whole context; no caps are refused.
    let none = config(json!({"sliding_window": null})).unwrap().metadata;
    assert_eq!(none.u64("gemma2.attention.sliding_window"), Some(8192));
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        let error = config(json!({key: null})).unwrap_err().to_string();
        assert!(error.contains(&format!("\"{key}\": null: GGUF cannot express it")), "{error}");
    }
}

#[test]
fn several_chat_templates_go_there_and_back() {
    let mut assets = original("llama3");
    let list = json!([{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]);
    assets[2].bytes = json!({"chat_template": list}).to_string().into_bytes();
    let made = hf::metadata(&assets, &Table::default(), "Tiny", 1).unwrap();
    assert_eq!(made.metadata.strings("tokenizer.chat_templates"), Some(vec!["tool_use"]));
    let back = hf::assets(&made.metadata, &gguf_tensors(&opened("llama3"), &made.factors));
    let config: Json = serde_json::from_slice(back.get("tokenizer_config.json").unwrap()).unwrap();
    assert_eq!(config["chat_template"], list);
    // A separate file takes precedence.
    assets.push(Asset { name: "chat_template.jinja".into(), bytes: b"three".to_vec() });
    let made = hf::metadata(&assets, &Table::default(), "Tiny", 1).unwrap();
    assert_eq!(made.metadata.str("tokenizer.chat_template"), Some("three"));
}

#[test]
fn a_tokenizer_json_that_a_gguf_holds_is_taken_as_it_is() {
    let checkpoint = opened("phi3");
    let mut metadata = checkpoint.metadata().unwrap().clone();
    let json = String::from_utf8(original("phi3")[1].bytes.clone()).unwrap();
    metadata.insert("tokenizer.huggingface.json", json.as_str());
    assert_eq!(hf::assets(&metadata, &checkpoint).get("tokenizer.json"), Some(json.as_bytes()));
}

#[test]
fn each_row_of_a_head_goes_where_the_two_halves_interleave() {
    // Reshape to heads x 2 x head_dim/2 and swap the last two, for 2 heads of 6 rows.
    let change = Change::HeadRows { head_dim: 6 };
    let gguf: Vec<u64> = (0..12).map(|row| change.hf_row(row)).collect();
    assert_eq!(gguf, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    for (heads, head_dim) in [(1, 2), (3, 64), (9, 10)] {
        let change = Change::HeadRows { head_dim };
        for (head, half, j) in
            (0..heads).flat_map(|h| (0..2).flat_map(move |s| (0..head_dim / 2).map(move |j| (h, s, j))))
        {
            let (hf, gguf) = (head * head_dim + half * (head_dim / 2) + j, head * head_dim + 2 * j + half);
            assert_eq!((change.gguf_row(hf), change.hf_row(gguf)), (gguf, hf));
        }
        let rows = heads * head_dim;
        assert!(change.fits(&[rows, 3]) && !change.fits(&[rows + 1, 3]) && !change.fits(&[rows]));
    }
    // The elements of a vector are reordered like rows.
    let change = Change::HeadElements { head_dim: 6 };
    let mut values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    change.values_to_gguf(&mut values);
    assert_eq!(values, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 9.0, 7.0, 10.0, 8.0, 11.0]);
    change.values_to_hf(&mut values);
    assert!(values.into_iter().eq((0..12).map(|i| i as f32)) && change.gguf_row(7) == 7);
    assert!(change.fits(&[12]) && !change.fits(&[13]) && !change.fits(&[12, 1]));
    let mut values = [0.5, -1.0];
    Change::PlusOne.values_to_gguf(&mut values);
    assert_eq!((values, Change::PlusOne.gguf_row(7)), ([1.5, 0.0], 7));
    Change::PlusOne.values_to_hf(&mut values);
    assert_eq!(values, [0.5, -1.0]);
}

#[test]
fn names_go_both_ways() {
    let (heads, elements) = (Change::HeadRows { head_dim: 8 }, Change::HeadElements { head_dim: 8 });
    let (none, plus) = (Change::None, Change::PlusOne);
    use Architecture::*;
    let cases = [
        (Llama, "token_embd.weight", "model.embed_tokens.weight", none),
        (Llama, "output.weight", "lm_head.weight", none),
        (Llama, "output_norm.weight", "model.norm.weight", none),
        (Llama, "blk.11.attn_q.weight", "model.layers.11.self_attn.q_proj.weight", heads),
        (SmolLm3, "blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", heads),
        (Llama, "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias", elements),
        (Llama, "blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", none),
        (Llama, "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", none),
        (Qwen2, "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", none),
        (Qwen3, "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight", none),
        (Gemma, "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", plus),
        (Gemma2, "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight", plus),
        (Gemma3, "blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight", plus),
        (Gemma3, "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight", plus),
        (Gemma3, "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", plus),
        (Gemma3, "blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight", plus),
        (Gemma3, "output_norm.weight", "model.norm.weight", plus),
        (Gemma3, "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", none),
        (Phi3, "blk.0.attn_qkv.weight", "model.layers.0.self_attn.qkv_proj.weight", none),
        (Phi3, "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight", none),
        (Phi3, "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", none),
    ];
    for (architecture, gguf, hf, change) in cases {
        let map = NameMap::new(architecture, 8).unwrap();
        assert_eq!(map.to_hf(gguf), Some(Mapped { name: hf.into(), change }), "{architecture:?} {gguf}");
        assert_eq!(map.to_gguf(hf), Some(Mapped { name: gguf.into(), change }), "{architecture:?} {hf}");
    }
    // llama.cpp would not load a Gemma 1 or 2 with an output projection.
    let held = [Gemma, Gemma2, Gemma3].map(|a| NameMap::new(a, 8).unwrap().to_gguf("lm_head.weight").is_some());
    assert_eq!(held, [false, false, true]);
    let map = NameMap::new(Llama, 8).unwrap();
    let strange = [
        "rope_freqs.weight",
        "blk.0.attn_qkv.weight",
        "blk.00.attn_q.weight",
        "blk..attn_q.weight",
        "blk.0.attn_q",
        "",
        "blk.0.post_ffw_norm.weight",
        "blk.-1.attn_q.weight",
        "weight",
        ".weight",
        "output.scale",
    ];
    for name in strange {
        assert_eq!(map.to_hf(name), None, "{name}");
    }
    assert_eq!(map.to_gguf("model.layers.0.mlp.gate_up_proj.weight"), None);
    assert_eq!(NameMap::new(Phi3, 8).unwrap().to_gguf("model.layers.0.mlp.up_proj.weight"), None);
    assert!(NameMap::is_in_config("rope_freqs.weight") && !NameMap::is_in_config("output.weight"));
    assert_eq!((NameMap::new(Llama, 0), NameMap::new(Llama, 7)), (None, None));
}

#[test]
fn both_sides_of_a_golden_have_the_same_name_map() {
    for name in GOLDENS {
        let of_gguf = NameMap::of_gguf(opened(name).metadata().unwrap());
        let of_config = NameMap::of_config(&original(name)[0].bytes);
        assert!(of_gguf.is_some() && of_gguf == of_config, "{name}");
    }
}
