//! Every key of `config.json` that a family reads, in a folder, in its `.impasto` file and in its GGUF: the three must be
//! one model, or the export must be refused by an error that names the key.
//!
//! With `IMPASTO_MATRIX=DIR`, the GGUF files and their logits are written there, for `tools/config_matrix.py`, which
//! compares them with llama.cpp.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, fs};

use crate::support::{Model, Tensor, encode_to, open};
use impasto::encode::Target;
use impasto::export::{Form, GgufType, export};
use impasto::{Checkpoint, CheckpointWeights, FileWeights};
use impasto_core::DType;
use impasto_model::config::{DecoderConfig, eos_token_ids};
use impasto_model::{Want, WeightSource, graph};
use impasto_runtime::RunOptions;
use serde_json::{Map, Value, json};

/// The families, with the fields that they need in addition to those of [`config`].
pub fn families() -> [(&'static str, &'static str, Value); 9] {
    let window = json!({"sliding_window": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": true});
    [
        ("llama", "LlamaForCausalLM", json!({})),
        ("mistral", "MistralForCausalLM", json!({"sliding_window": null})),
        ("qwen2", "Qwen2ForCausalLM", json!({})),
        ("qwen3", "Qwen3ForCausalLM", json!({})),
        ("smollm3", "SmolLM3ForCausalLM", json!({})),
        ("phi3", "Phi3ForCausalLM", json!({"sliding_window": null})),
        ("gemma", "GemmaForCausalLM", json!({"tie_word_embeddings": true})),
        ("gemma2", "Gemma2ForCausalLM", window.clone()),
        ("gemma3_text", "Gemma3ForCausalLM", window),
    ]
}

/// Number of tokens of the vocabulary: two special ones, and the printable characters of ASCII.
const VOCABULARY: usize = 96;
/// Number of tokens that the models read: more than every window and every context before scaling.
pub const TOKENS: u32 = 48;

pub fn config((model_type, class, own): &(&str, &str, Value)) -> Map<String, Value> {
    let mut config = json!({
        "model_type": model_type, "architectures": [class], "vocab_size": VOCABULARY, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 1
    });
    let config = config.as_object_mut().expect("an object");
    config.extend(own.as_object().expect("an object").clone());
    std::mem::take(config)
}

/// A tokenizer that knows the printable characters of ASCII.
fn tokenizer() -> Value {
    let special = |(id, content): (u32, &str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let added = [(0, "<s>"), (1, "</s>")].map(special);
    let characters = (b'!'..=b'~').zip(2u32..).map(|(c, id)| (char::from(c).to_string(), json!(id)));
    let vocabulary: Map<String, Value> =
        [("<s>".into(), json!(0)), ("</s>".into(), json!(1))].into_iter().chain(characters).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added, "pre_tokenizer": bytes, "post_processor": bytes,
        "decoder": bytes, "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": []}
    })
}

/// Writes a model with the tensors that its configuration asks for.
pub fn folder(config: &Map<String, Value>) -> Result<Model, String> {
    let json = serde_json::to_vec(config).expect("JSON");
    let decoder = DecoderConfig::from_json(&json).map_err(|error| error.to_string())?;
    let network = graph::describe(&decoder, decoder.names[0]);
    let mut tensors = Vec::new();
    let mut add = |name: &str, shape: &[u64], mean: f32| {
        let mut state = name.bytes().fold(7u32, |seed, b| seed.wrapping_mul(31).wrapping_add(b.into()));
        // Uniform noise, with a mean square of 4 / columns for matrices and of 0.04 for vectors.
        let spread = if shape.len() == 2 { 3.46 / (shape[1] as f32).sqrt() } else { 0.35 };
        let noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            mean + spread * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        let values: Vec<f32> = std::iter::repeat_with(noise).take(shape.iter().product::<u64>() as usize).collect();
        tensors.push(Tensor::floats(name, DType::F32, shape, values));
    };
    let ends = network.ends.layers();
    for layer in network.blocks.iter().flat_map(|block| block.layers()).chain(ends) {
        add(&layer.name, &[layer.outputs as u64, layer.inputs as u64], 0.0);
        if layer.bias {
            add(&layer.bias_name(), &[layer.outputs as u64], 0.0);
        }
    }
    for vector in network.blocks.iter().flat_map(|block| block.vectors()).chain([&network.ends.norm]) {
        add(&vector.name, &[vector.width as u64], if vector.plus_one { 0.0 } else { 1.0 });
    }
    let model = Model::single(tensors);
    fs::write(model.path.join("config.json"), json).expect("a file");
    fs::write(model.path.join("tokenizer.json"), tokenizer().to_string()).expect("a file");
    fs::remove_file(model.path.join("generation_config.json")).expect("a file");
    Ok(model)
}

/// The logits of a model, and its end-of-sequence tokens.
fn logits(source: &dyn WeightSource) -> Result<(Vec<f32>, Vec<u32>), String> {
    let logits = logits_of(source, &tokens().collect::<Vec<u32>>())?;
    let mut ends = eos_token_ids(source).map_err(|error| error.to_string())?;
    ends.sort_unstable();
    Ok((logits, ends))
}

/// The logits of a model at all of `tokens`, in binary32.
pub fn logits_of(source: &dyn WeightSource, tokens: &[u32]) -> Result<Vec<f32>, String> {
    let model = impasto_runtime::Model::load(source, &RunOptions::float()).map_err(|error| error.to_string())?;
    let mut cache = model.network().new_cache(tokens.len()).map_err(|error| error.to_string())?;
    model.network().forward(&mut cache, tokens, Want::All).map_err(|error| error.to_string())
}

pub fn tokens() -> impl Iterator<Item = u32> {
    (0..TOKENS).map(|i| i * 37 % (VOCABULARY as u32 - 2) + 2)
}

/// Largest difference, relative to the largest logit.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |worst, (x, y)| worst.max((x - y).abs())) / largest
}

/// Values to try for each key. `"absent"` removes the key. Other keys that a value needs follow it.
fn values() -> Vec<(&'static str, Value, Value)> {
    let plain = |key, list: &[Value]| list.iter().map(|v| (key, v.clone(), json!({}))).collect::<Vec<_>>();
    let absent = || json!("absent");
    let scalings = [
        json!({"rope_type": "default"}),
        json!({"rope_type": "linear", "factor": 2.5}),
        json!({"type": "linear", "factor": 2.5}),
        json!({"rope_type": "dynamic", "factor": 2.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.25}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 0.7,
            "mscale_all_dim": 0.9}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_slow": 0.5}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": false}),
        json!({"rope_type": "longrope", "original_max_position_embeddings": 16, "short_factor": [1.0, 1.1, 1.2, 1.5],
            "long_factor": [1.0, 2.0, 3.0, 5.0]}),
        json!({"rope_type": "longrope", "original_max_position_embeddings": 16, "short_factor": [1.0, 1.1, 1.2, 1.5],
            "long_factor": [1.0, 2.0, 3.0, 5.0], "attention_factor": 1.5}),
    ];
    let with_theta = scalings.iter().map(|scaling| {
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(500.0);
        parameters
    });
    let yarn =
        |original: Value| json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": original});
    let types = |list: [&str; 4]| json!(list.map(|kind| format!("{kind}_attention")));
    let mut all = vec![
        ("rope_scaling", yarn(json!(16)), json!({"original_max_position_embeddings": 32})),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), json!({"original_max_position_embeddings": 32})),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 2.0}),
            json!({"rope_parameters": {"rope_theta": 500.0}}),
        ),
        ("rope_parameters", json!({"rope_theta": 500.0, "rope_type": "default"}), json!({"rope_theta": 77.0})),
        (
            "rope_parameters",
            json!({"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}),
            json!({}),
        ),
        ("partial_rotary_factor", json!(0.5), json!({})),
        ("rope_parameters", json!({"rope_type": "default", "partial_rotary_factor": 0.5}), json!({})),
        ("use_sliding_window", json!(true), json!({"sliding_window": 6, "max_window_layers": 1})),
        ("max_window_layers", json!(2), json!({"sliding_window": 6, "use_sliding_window": true})),
        ("use_sliding_window", json!(false), json!({"sliding_window": 6})),
        ("sliding_window_pattern", json!(3), json!({"sliding_window": 6})),
        ("layer_types", types(["sliding", "full", "full", "sliding"]), json!({"sliding_window": 6})),
        ("layer_types", types(["full"; 4]), json!({"sliding_window": 6})),
        ("tie_word_embeddings", absent(), json!({})),
        ("tie_word_embeddings", json!(true), json!({})),
        ("tie_word_embeddings", json!(false), json!({})),
    ];
    all.extend(scalings.iter().map(|scaling| ("rope_scaling", scaling.clone(), json!({}))));
    all.extend(with_theta.map(|parameters| ("rope_parameters", parameters, json!({}))));
    for (key, list) in [
        ("hidden_size", vec![json!(64)]),
        ("intermediate_size", vec![json!(96)]),
        ("num_hidden_layers", vec![json!(3), json!(5)]),
        ("num_attention_heads", vec![json!(2), absent()]),
        ("num_key_value_heads", vec![json!(1), json!(4), absent()]),
        ("head_dim", vec![json!(16), absent()]),
        ("hidden_act", vec![json!("silu"), json!("gelu_pytorch_tanh"), json!("gelu"), json!("relu")]),
        ("hidden_activation", vec![json!("gelu_pytorch_tanh"), json!("silu")]),
        ("rms_norm_eps", vec![json!(0.1), absent()]),
        ("rope_theta", vec![json!(500.0), absent()]),
        ("rope_local_base_freq", vec![json!(100.0)]),
        ("original_max_position_embeddings", vec![json!(16)]),
        ("max_position_embeddings", vec![json!(64), absent()]),
        ("sliding_window", vec![json!(6), json!(null), absent()]),
        ("no_rope_layers", vec![json!([1, 0, 1, 0]), json!([1, 1, 1, 0]), json!([1, 1, 1, 1])]),
        ("no_rope_layer_interval", vec![json!(2), json!(4)]),
        ("query_pre_attn_scalar", vec![json!(10), absent()]),
        ("attn_logit_softcapping", vec![json!(2.0), json!(null), absent()]),
        ("final_logit_softcapping", vec![json!(3.0), json!(null), absent()]),
        ("use_bidirectional_attention", vec![json!(true), json!(false)]),
        ("attention_bias", vec![json!(true), json!(false)]),
        ("mlp_bias", vec![json!(true), json!(false)]),
        ("quantization_config", vec![json!({"quant_method": "gptq"})]),
        ("eos_token_id", vec![json!(5), json!([1, 5]), json!([5, 1]), absent()]),
        ("vocab_size", vec![json!(96)]),
    ] {
        all.extend(plain(key, &list));
    }
    all
}

/// Writes the GGUF of a case, its tokens and its logits.
fn hand_out(case: &str, gguf: &std::path::Path, logits: &[f32]) {
    let Some(folder) = env::var_os("IMPASTO_MATRIX").map(PathBuf::from) else { return };
    fs::create_dir_all(&folder).expect("a folder");
    let name = case.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.', "-");
    let name: String = name.chars().take(150).collect();
    fs::copy(gguf, folder.join(format!("{name}.gguf"))).expect("a file");
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(folder.join(format!("{name}.f32")), bytes).expect("a file");
    fs::write(folder.join("tokens"), tokens().map(|t| format!("{t}\n")).collect::<String>()).expect("a file");
}

/// Returns what is wrong with a case, or else how it ended. An error must name one of `keys`.
fn check(case: &str, keys: &[&str], config: &Map<String, Value>) -> Result<&'static str, String> {
    let names_key = |message: &str| keys.iter().any(|key| message.contains(key));
    let model = match folder(config) {
        Ok(model) => model,
        Err(message) if names_key(&message) => return Ok("refused"),
        Err(message) => return Err(format!("is refused without the key: {message}")),
    };
    let checkpoint = Checkpoint::open(&model.path).map_err(|error| error.to_string())?;
    let wanted = match logits(&CheckpointWeights::new(&checkpoint)) {
        Ok(wanted) => wanted,
        Err(message) if names_key(&message) => return Ok("refused"),
        Err(message) => return Err(format!("does not run, without the key: {message}")),
    };
    let path = model.file("x.impasto");
    encode_to(&model.path, &path, Target::Lossless, 1).map_err(|error| error.to_string())?;
    let of_file = logits(&FileWeights::new(open(&path)).map_err(|error| error.to_string())?)?;
    if of_file != wanted {
        return Err(format!("file: difference {}, ends {:?}", difference(&wanted.0, &of_file.0), of_file.1));
    }
    let form = Form::Gguf(Some(GgufType::F32));
    let exported = match export(&open(&path), model.folder.path(), Some("x.gguf"), form, true, &|_| ()) {
        Ok(exported) => exported,
        Err(error) if names_key(&error.to_string()) => return Ok("refused as GGUF"),
        Err(error) => return Err(format!("the export is refused without the key: {error}")),
    };
    let gguf = model.file("x.gguf");
    let checkpoint = Checkpoint::open(&gguf).map_err(|error| error.to_string())?;
    let of_gguf = logits(&CheckpointWeights::new(&checkpoint)).map_err(|error| format!("GGUF: {error}"))?;
    let difference = difference(&wanted.0, &of_gguf.0);
    let noted = exported.notes.iter().any(|note| names_key(note));
    if !(difference < 1e-5 || noted) || of_gguf.1 != wanted.1 {
        let notes = exported.notes.join("; ");
        return Err(format!("GGUF: difference {difference}, ends {:?} not {:?} ({notes})", of_gguf.1, wanted.1));
    }
    if noted {
        return Ok("noted");
    }
    hand_out(case, &gguf, &wanted.0);
    Ok("one model")
}

#[test]
fn folder_file_and_gguf_are_one_model() {
    let (mut wrong, mut counts, mut tried) = (Vec::new(), std::collections::BTreeMap::new(), BTreeSet::new());
    for family in families() {
        for (key, value, with) in values() {
            let mut config = config(&family);
            config.extend(with.as_object().expect("an object").clone());
            match value == "absent" {
                true => config.remove(key),
                false => config.insert(key.to_owned(), value.clone()),
            };
            tried.insert(key);
            // A field inside of the value may be what is refused, or one that the value needs.
            let inner = [&value, &with].into_iter().filter_map(Value::as_object).flat_map(|object| object.keys());
            let keys: Vec<&str> = inner.map(String::as_str).chain([key]).collect();
            let case = format!("{} {key} {value} {with}", family.0);
            match check(&case, &keys, &config) {
                Ok(outcome) => *counts.entry(outcome).or_insert(0) += 1,
                Err(what) => wrong.push(format!("{case}\n    {what}")),
            }
        }
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    let source = include_str!("../../../impasto-model/src/config/raw.rs");
    let fields = source.split("pub(super) struct Raw {").nth(1).and_then(|rest| rest.split('}').next()).expect("keys");
    let fields = fields.lines().filter_map(|line| line.trim().strip_prefix("pub(super) ")?.split(':').next());
    let missing: Vec<&str> = fields.filter(|field| !tried.contains(field)).collect();
    assert!(missing.is_empty(), "keys that are read but not tried: {missing:?}");
}
