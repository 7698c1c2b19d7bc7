//! Invalid metadata and assets: an error or a note names the key or the asset and the rule, without a panic.

use std::path::{Path, PathBuf};

use crate::common::hf::Table;
use impasto_checkpoint::gguf::hf::{self, NameMap};
use impasto_checkpoint::gguf::{Array, Metadata, Value};
use impasto_checkpoint::{Asset, Checkpoint};
use serde_json::{Value as Json, json};
use tokenizers::Tokenizer;

const GOLDENS: [&str; 5] = ["llama3", "qwen2", "mistral", "phi3", "gemma3"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_hf").join(name)
}

fn opened(name: &str) -> Checkpoint {
    Checkpoint::open(&golden(&format!("{name}.gguf"))).unwrap()
}

fn original(name: &str) -> Vec<Asset> {
    let read = |file: &str| Asset { name: file.into(), bytes: std::fs::read(golden(name).join(file)).unwrap() };
    ["config.json", "tokenizer.json", "tokenizer_config.json"].map(read).into()
}

/// Returns the notes after one key is set, or removed (`None`).
fn broken(name: &str, key: &str, value: Option<Value>) -> Vec<String> {
    let checkpoint = opened(name);
    let mut metadata = checkpoint.metadata().unwrap().clone();
    match value {
        Some(value) => metadata.insert(key, value),
        None => drop(metadata.remove(key)),
    }
    hf::assets(&metadata, &checkpoint).notes()
}

#[test]
fn broken_keys_are_named_with_the_rule() {
    let tokens = "tokenizer.ggml.tokens";
    let cases: [(&str, &str, Option<Value>, &str); 26] = [
        ("llama3", "llama.block_count", None, "\"llama.block_count\" is missing"),
        (
            "llama3",
            "llama.block_count",
            Some("2".into()),
            "\"llama.block_count\" is of type String, not an unsigned integer",
        ),
        ("llama3", "llama.block_count", Some(u64::MAX.into()), "18446744073709551615 is outside 1..=65536"),
        ("llama3", "llama.attention.head_count", Some(0u32.into()), "\"llama.attention.head_count\": 0 is outside"),
        ("llama3", "llama.attention.head_count", Some((-1i32).into()), "is of type I32, not an unsigned"),
        ("llama3", "llama.attention.head_count", Some(vec![1i32, -2].into()), "differs between blocks"),
        ("llama3", "llama.attention.head_count", Some(Vec::<i32>::new().into()), "the array is empty"),
        ("llama3", "llama.attention.head_count_kv", Some(3u32.into()), "3 does not divide the head count 2"),
        ("qwen2", "qwen2.embedding_length", Some(17u32.into()), "17 is not a multiple of the head count 2"),
        ("llama3", "llama.rope.freq_base", Some(0f32.into()), "\"llama.rope.freq_base\": 0 is not positive"),
        ("llama3", "llama.rope.freq_base", Some(f32::NAN.into()), "NaN is not finite"),
        ("llama3", "llama.attention.layer_norm_rms_epsilon", Some((-1f32).into()), "-1 is not positive"),
        ("llama3", "general.architecture", Some(7u32.into()), "\"general.architecture\" is of type U32"),
        ("llama3", tokens, None, "\"tokenizer.ggml.tokens\" is missing"),
        ("llama3", tokens, Some(vec![1u32].into()), "is of type array of U32, not an array of strings"),
        ("llama3", tokens, Some(Value::Array(Array::String(vec![b"a".to_vec(), vec![0xFF]]))), "string 1 is not UTF-8"),
        (
            "llama3",
            tokens,
            Some(vec!["a".to_owned()].into()),
            "\"tokenizer.ggml.token_type\": 388 entries for 1 tokens",
        ),
        ("llama3", "tokenizer.ggml.token_type", Some(vec![1.0f32].into()), "not an array of integers"),
        ("llama3", "tokenizer.ggml.merges", None, "\"tokenizer.ggml.merges\" is missing"),
        ("llama3", "tokenizer.ggml.merges", Some(vec!["ab".to_owned()].into()), "merge 0 \"ab\" is not a pair"),
        ("llama3", "tokenizer.ggml.merges", Some(vec!["t ☃".to_owned()].into()), "\"☃\" is not a token"),
        ("llama3", "tokenizer.ggml.bos_token_id", Some(388u32.into()), "388 is not the id of one of 388 tokens"),
        ("phi3", "tokenizer.ggml.scores", Some(vec![0f32; 3].into()), "3 entries for"),
        ("phi3", "tokenizer.ggml.add_bos_token", Some(Value::U8(1)), "not a boolean"),
        ("gemma3", "gemma3.attention.sliding_window_pattern", Some(0u32.into()), "a period of 0"),
        ("gemma3", "gemma3.attention.sliding_window_pattern", Some(vec![true].into()), "1 entries for 7 blocks"),
    ];
    for (name, key, value, message) in cases {
        let error = broken(name, key, value).join("; ");
        assert!(error.contains(message), "{name} {key}: {error}");
    }
}

#[test]
fn what_is_not_known_is_a_note_and_leaves_the_other_files() {
    let cases = [
        ("general.architecture", Value::from("mamba"), "no config.json: architecture \"mamba\" is not known"),
        ("llama.expert_count", 8u32.into(), "no config.json: a mixture of experts"),
        ("llama.attention.causal", false.into(), "no config.json: attention that is not causal (an encoder)"),
        (
            "llama.rope.scaling.attn_factor",
            0.5f32.into(),
            "no config.json: \"llama.rope.scaling.attn_factor\" is 0.5 without YaRN or LongRoPE",
        ),
        ("llama.attention.value_length", 32u32.into(), "no config.json: keys and values of different widths"),
        ("llama.rope.dimension_count", 32u32.into(), "no config.json: 32 of 64 dimensions of a head rotated"),
        ("llama.rope.scaling.factor", 2f32.into(), "no config.json: rotary factors and a scaling factor at once"),
        ("tokenizer.ggml.pre", "default".into(), "no tokenizer.json: pre-tokenizer \"default\" is not known"),
        ("tokenizer.ggml.model", "t5".into(), "no tokenizer.json: tokenizer model \"t5\" is not known"),
    ];
    for (key, value, note) in cases {
        assert_eq!(broken("llama3", key, Some(value)), [note]);
    }
    // Values that say what is usual.
    for (key, value) in [("llama.attention.causal", true.into()), ("llama.rope.scaling.attn_factor", 1f32.into())] {
        assert_eq!(broken("llama3", key, Some(value)), [""; 0]);
    }
    assert_eq!(broken("llama3", "tokenizer.ggml.model", None), ["no tokenizer.json: the file has no tokenizer"]);
    let same: Vec<f32> = vec![-1000.0; opened("phi3").metadata().unwrap().f32s("tokenizer.ggml.scores").unwrap().len()];
    let notes = broken("phi3", "tokenizer.ggml.scores", Some(same.into()));
    assert!(notes.len() == 1 && notes[0].contains("all tokens have the same score"), "{notes:?}");
    assert!(broken("phi3", "tokenizer.ggml.scores", None)[0].contains("the tokens have no scores"));
}

#[test]
fn an_id_that_text_does_not_need_is_ignored_if_it_is_no_token() {
    for key in ["padding_token_id", "eot_token_id", "eom_token_id"].map(|key| format!("tokenizer.ggml.{key}")) {
        for id in [388, u32::MAX] {
            let rule = format!("metadata \"{key}\": {id} is not the id of one of 388 tokens, so it is ignored");
            assert_eq!(broken("llama3", &key, Some(id.into())), [rule]);
        }
    }
}

#[test]
fn what_is_broken_is_left_out_alone() {
    let left = |key: &str, value: Option<Value>| {
        let checkpoint = opened("llama3");
        let mut metadata = checkpoint.metadata().unwrap().clone();
        match value {
            Some(value) => metadata.insert(key, value),
            None => drop(metadata.remove(key)),
        }
        let made = hf::assets(&metadata, &checkpoint);
        let absent: Vec<&str> = made.absent.iter().map(|(name, _)| *name).collect();
        let left: Vec<String> = made.assets.into_iter().map(|asset| asset.name).collect();
        (left.join(" "), absent.join(" "))
    };
    let tokenizer = "generation_config.json tokenizer.json tokenizer_config.json";
    let all = format!("config.json {tokenizer}");
    let latin = Value::String(b"caf\xE9".to_vec());
    let cases = [
        ("llama.block_count", None, tokenizer, "config.json"),
        ("tokenizer.ggml.bos_token_id", Some(u32::MAX.into()), "config.json", "tokenizer.json"),
        ("tokenizer.ggml.pre", None, "config.json generation_config.json tokenizer_config.json", "tokenizer.json"),
        ("tokenizer.chat_template", Some(latin), &all, "chat_template.jinja"),
    ];
    for (key, value, there, absent) in cases {
        assert_eq!(left(key, value), (there.into(), absent.into()), "{key}");
    }
}

#[test]
fn tokens_that_are_written_twice_or_too_long_are_errors() {
    let checkpoint = opened("phi3");
    let tokens = checkpoint.metadata().unwrap().strings("tokenizer.ggml.tokens").unwrap();
    let with = |id: usize, text: String| {
        let mut tokens: Vec<String> = tokens.iter().map(|&text| text.to_owned()).collect();
        tokens[id] = text;
        broken("phi3", "tokenizer.ggml.tokens", Some(tokens.into())).join("; ")
    };
    assert!(with(300, tokens[301].to_owned()).contains("tokens 300 and 301 are both"));
    assert!(with(300, "x".repeat(600)).contains("token 300 has 600 bytes, at most 512 can be merged"));
}

#[test]
fn rotary_factors_that_do_not_fit_are_errors_that_name_the_tensor() {
    let checkpoint = opened("llama3");
    for (values, message) in [
        (vec![1.0; 31], "tensor \"rope_freqs.weight\": shape [31], 32 rotary factors are needed"),
        (vec![0.0; 32], "a rotary factor is not a positive number"),
        (vec![f32::INFINITY; 32], "a rotary factor is not a positive number"),
    ] {
        let mut tensors = Table::default();
        tensors.add_values("rope_freqs.weight", &values);
        let notes = hf::assets(checkpoint.metadata().unwrap(), &tensors).notes();
        assert!(notes.len() == 1 && notes[0].contains(message), "{notes:?}");
    }
    let mut tensors = Table::default();
    tensors.add("rope_freqs.weight", &[32]);
    let notes = hf::assets(checkpoint.metadata().unwrap(), &tensors).notes();
    assert!(notes.len() == 1 && notes[0].contains("rotary factors must be F32"), "{notes:?}");
}

/// Values of all types, small, large and unusual.
fn strange_values() -> Vec<Value> {
    let empty_strings: Vec<String> = Vec::new();
    vec![
        Value::U8(0),
        1u32.into(),
        3u32.into(),
        u32::MAX.into(),
        u64::MAX.into(),
        i64::MIN.into(),
        0f32.into(),
        f32::NEG_INFINITY.into(),
        f64::NAN.into(),
        1e-40f64.into(),
        true.into(),
        "".into(),
        "llama".into(),
        Value::String(vec![0xC3, 0x28]),
        vec![0u32, 1].into(),
        vec![i32::MIN; 3].into(),
        vec![f32::NAN; 400].into(),
        empty_strings.into(),
        vec![" ".to_owned(), "  ".into(), "a ".into()].into(),
        vec![String::new(); 388].into(),
        Value::Array(Array::String(vec![vec![0xFF]; 4])),
        Value::Array(Array::Array(vec![Array::Bool(vec![true])])),
        vec![true; 7].into(),
    ]
}

#[test]
fn any_value_of_any_key_is_translated_or_refused() {
    let mut translated = 0;
    for name in ["llama3", "phi3", "gemma3"] {
        let checkpoint = opened(name);
        let whole = checkpoint.metadata().unwrap();
        let keys: Vec<String> = whole.iter().map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            for value in strange_values().into_iter().map(Some).chain([None]) {
                let mut metadata = whole.clone();
                match value {
                    Some(value) => metadata.insert(key.as_str(), value),
                    None => drop(metadata.remove(&key)),
                }
                let _ = NameMap::of_gguf(&metadata);
                let made = hf::assets(&metadata, &checkpoint);
                translated += made.assets.len();
                // Every asset is well-formed, whatever the metadata.
                for asset in &made.assets {
                    serde_json::from_slice::<Json>(&asset.bytes).unwrap();
                }
                if let Some(json) = made.get("tokenizer.json").filter(|_| key.starts_with("tokenizer")) {
                    let tokenizer = Tokenizer::from_bytes(json).unwrap_or_else(|e| panic!("{name} {key}: {e}"));
                    tokenizer.encode("a  b 12\n", true).unwrap();
                }
            }
        }
    }
    assert!(translated > 400, "{translated}");
    assert!(hf::assets(&Metadata::new(), &Table::default()).assets.is_empty());
}

#[test]
fn any_value_of_any_field_is_translated_or_refused() {
    let strange = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(true),
        json!(""),
        json!("silu"),
        json!([]),
        json!([1, -2]),
        json!({}),
        json!({"type": "Sequence"}),
        json!([["a", "b", "c"]]),
        json!({"a": -1}),
        json!({"a": 4_000_000_000u64}),
    ];
    let translations = |name: &str| {
        let mut translated = 0;
        let mut assets = original(name);
        let mut tensors = Table::default();
        tensors.add("model.embed_tokens.weight", &[600, 16]);
        for place in 0..assets.len() {
            let bytes = assets[place].bytes.clone();
            let whole: Json = serde_json::from_slice(&bytes).unwrap();
            for path in paths(&whole, 3) {
                for value in &strange {
                    let mut changed = whole.clone();
                    *changed.pointer_mut(&path).unwrap() = value.clone();
                    assets[place].bytes = changed.to_string().into_bytes();
                    let _ = NameMap::of_config(&assets[0].bytes);
                    if let Ok(made) = hf::metadata(&assets, &tensors, "x", 1) {
                        translated += 1;
                        let mut written = Table::default();
                        made.factors.iter().for_each(|(name, values)| written.add_values(name, values));
                        // The result can be read back, or is refused without a panic.
                        let _ = hf::assets(&made.metadata, &written);
                    }
                }
            }
            assets[place].bytes = bytes;
        }
        translated
    };
    let translated = std::thread::scope(|scope| {
        let goldens: Vec<_> = GOLDENS.iter().map(|name| scope.spawn(|| translations(name))).collect();
        goldens.into_iter().map(|golden| golden.join().unwrap()).sum::<usize>()
    });
    assert!(translated > 100, "{translated}");
}

/// Returns pointers to the places in a JSON value, to a depth; only the first few of a long list or object.
fn paths(value: &Json, depth: usize) -> Vec<String> {
    let children: Vec<(String, &Json)> = match value {
        Json::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Json::Array(list) => list.iter().enumerate().map(|(place, value)| (place.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    if depth == 0 {
        return Vec::new();
    }
    let few = children.into_iter().filter(|(key, _)| !key.contains(['/', '~'])).take(14);
    let below = |(key, value): (String, &Json)| {
        let deeper = paths(value, depth - 1).into_iter().map({
            let key = key.clone();
            move |path| format!("/{key}{path}")
        });
        std::iter::once(format!("/{key}")).chain(deeper).collect::<Vec<_>>()
    };
    few.flat_map(below).collect()
}

#[test]
fn assets_that_gguf_cannot_say_are_refused_by_name() {
    let change = |name: &str, file: usize, path: &str, value: Json| {
        let mut assets = original(name);
        let mut whole: Json = serde_json::from_slice(&assets[file].bytes).unwrap();
        let (parent, key) = path.rsplit_once('/').unwrap();
        match whole.pointer_mut(parent).unwrap() {
            Json::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            object => object[key] = value,
        }
        assets[file].bytes = whole.to_string().into_bytes();
        hf::metadata(&assets, &Table::default(), "x", 1).unwrap_err().to_string()
    };
    let cases = [
        ("llama3", 0, "/model_type", json!("mamba"), "model_type \"mamba\" has no known GGUF form"),
        ("llama3", 0, "/hidden_size", json!(null), "config.json: \"hidden_size\" is missing"),
        ("llama3", 0, "/num_attention_heads", json!(0), "config.json: \"num_attention_heads\" is 0"),
        ("llama3", 0, "/hidden_act", json!("relu"), "\"hidden_act\": \"relu\""),
        ("llama3", 0, "/vocab_size", json!(100), "has no id below 100, the rows of the embedding"),
        ("llama3", 0, "/rope_parameters/rope_type", json!("dynamic"), "\"rope_type\": \"dynamic\""),
        ("llama3", 0, "/quantization_config", json!({}), "a checkpoint with a quantization_config"),
        ("qwen2", 0, "/use_sliding_window", json!(true), "\"use_sliding_window\": true"),
        ("phi3", 0, "/rope_parameters/long_factor", json!([1.0]), "\"long_factor\" has 1 entries, 3 are needed"),
        ("llama3", 0, "/rms_norm_eps", json!(1e60), "\"attention.layer_norm_rms_epsilon\" is 1e60"),
        (
            "phi3",
            0,
            "/rope_parameters/long_factor",
            json!([1.0, -2.0, 3.0]),
            "\"long_factor\" has a factor that is not",
        ),
        ("gemma3", 0, "/query_pre_attn_scalar", json!(7), "\"query_pre_attn_scalar\" 7: GGUF cannot store it"),
        ("llama3", 1, "/normalizer", json!({"type": "Lowercase"}), "no known GGUF name for the normalizer"),
        (
            "llama3",
            1,
            "/pre_tokenizer/pretokenizers/0/pattern/Regex",
            json!("x"),
            "no known GGUF name for the pre_tokenizer",
        ),
        ("llama3", 1, "/model/type", json!("WordPiece"), "a tokenizer of type WordPiece"),
        ("llama3", 1, "/model/merges/0", json!(["a"]), "tokenizer.json: merge 0 is not a pair"),
        ("llama3", 1, "/added_tokens/0/id", json!(3), "one of them occurs twice"),
        ("llama3", 1, "/post_processor", json!({"type": "BertProcessing"}), "post_processor"),
        ("phi3", 1, "/model/merges", json!([]), "are not merged, but sentencepiece would merge them"),
        ("phi3", 1, "/normalizer", json!({"type": "NFKC"}), "a tokenizer with byte fallback, normalizer"),
    ];
    for (name, file, path, value, message) in cases {
        let error = change(name, file, path, value);
        assert!(error.contains(message), "{name} {path}: {error}");
    }
    let error = hf::metadata(&original("llama3")[..1], &Table::default(), "x", 1).unwrap_err().to_string();
    assert_eq!(error, "tokenizer.json: is missing");
}
