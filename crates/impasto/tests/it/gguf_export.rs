//! Exports to GGUF of models that llama.cpp would compute differently if a detail were lost.

use std::fs;
use std::path::Path;

use crate::support::{Model, Random, Tensor, encode_to, open, tiny};
use impasto::encode::Target;
use impasto::export::{Exported, Form, GgufType, export};
use impasto::{Checkpoint, CheckpointWeights, FileError, FileWeights};
use impasto_core::DType;
use impasto_model::{Want, WeightSource};
use impasto_runtime::RunOptions;
use serde_json::{Value, json};

const LAYER: &str = "model.layers.0.";

/// Writes a Llama of one block, with the tokenizer of the tiny model. `fields` replace those of its configuration, and
/// `more` tensors those of the same name.
fn llama(fields: Value, more: Vec<Tensor>) -> Model {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "bos_token_id": 0, "eos_token_id": 0
    });
    config.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    let matrix = |name: &str, rows, columns| Tensor::weights(name, DType::F32, &[rows, columns], rows + columns);
    let inner = |name: &str, rows, columns| matrix(&format!("{LAYER}{name}.weight"), rows, columns);
    let norm = |name: &str| Tensor::floats(name, DType::F32, &[32], (0..32u8).map(|i| 1.0 + f32::from(i) / 64.0));
    let mut tensors = vec![
        matrix("model.embed_tokens.weight", 4096, 32),
        norm("model.norm.weight"),
        norm(&format!("{LAYER}input_layernorm.weight")),
        norm(&format!("{LAYER}post_attention_layernorm.weight")),
        inner("self_attn.q_proj", 32, 32),
        inner("self_attn.k_proj", 16, 32),
        inner("self_attn.v_proj", 16, 32),
        inner("self_attn.o_proj", 32, 32),
        inner("mlp.gate_proj", 64, 32),
        inner("mlp.up_proj", 64, 32),
        inner("mlp.down_proj", 32, 64),
    ];
    tensors.retain(|tensor| more.iter().all(|new| new.name != tensor.name));
    tensors.extend(more);
    let model = Model::single(tensors);
    fs::write(model.path.join("config.json"), config.to_string()).expect("a configuration");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny().join(name), model.path.join(name)).expect("a tokenizer");
    }
    model
}

/// Biases of the projections of attention.
fn biases() -> Vec<Tensor> {
    let bias = |(name, len): (&str, u64)| {
        let mut random = Random(len);
        let values: Vec<f32> = (0..len).map(|_| random.gaussian()).collect();
        Tensor::floats(&format!("{LAYER}self_attn.{name}.bias"), DType::F32, &[len], values)
    };
    [("q_proj", 32), ("k_proj", 16), ("v_proj", 16), ("o_proj", 32)].map(bias).into()
}

/// Encodes a model without loss and exports it as `x.gguf`.
fn to_gguf(model: &Model, wanted: GgufType) -> Result<Exported, FileError> {
    let path = model.file("folder.impasto");
    encode_to(&model.path, &path, Target::Lossless, 1).expect("encodes");
    export(&open(&path), model.folder.path(), Some("x.gguf"), Form::Gguf(Some(wanted)), true, &|_| ())
}

fn logits(source: &dyn WeightSource) -> Vec<f32> {
    let model = impasto_runtime::Model::load(source, &RunOptions::float()).expect("a model");
    let tokens: Vec<u32> = (0..24).map(|i| i * 37 % 4096).collect();
    let mut cache = model.network().new_cache(tokens.len()).expect("a cache");
    model.network().forward(&mut cache, &tokens, Want::All).expect("logits")
}

fn logits_of(checkpoint: &Path) -> Vec<f32> {
    logits(&CheckpointWeights::new(&Checkpoint::open(checkpoint).expect("a checkpoint")))
}

/// Biases of queries and keys have the names and the order of their weights' rows: in a GGUF, in a folder that is made
/// from one, and wherever a model runs.
#[test]
fn biases_move_with_the_rows_of_queries_and_keys() {
    let model = llama(json!({"attention_bias": true}), biases());
    let gguf = model.file("x.gguf");
    assert_eq!(to_gguf(&model, GgufType::F32).expect("a GGUF").notes, [""; 0]);
    let checkpoint = Checkpoint::open(&gguf).expect("a GGUF");
    let own = &model.tensors.iter().find(|t| t.name.ends_with("k_proj.bias")).expect("a bias").values();
    let bytes = checkpoint.bytes(checkpoint.tensor("blk.0.attn_k.bias").expect("a bias"));
    // The halves of each head of 8 are interleaved.
    let expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15].map(|i: usize| own[i].to_le_bytes());
    assert_eq!(bytes, expected.concat());

    let wanted = logits_of(&model.path);
    assert!(logits_of(&gguf) == wanted);
    let (exact, lossy, back) = (model.file("exact.impasto"), model.file("lossy.impasto"), model.file("back"));
    encode_to(&gguf, &exact, Target::Lossless, 1).expect("encodes");
    assert!(logits(&FileWeights::new(open(&exact)).expect("assets")) == wanted);
    export(&open(&exact), &back, None, Form::Safetensors, false, &|_| ()).expect("a folder");
    assert!(logits_of(&back) == wanted);
    // A lossy file keeps biases, under the names of transformers.
    encode_to(&gguf, &lossy, Target::BitsPerWeight(16.0), 1).expect("encodes");
    let lossy = open(&lossy);
    for bias in biases() {
        assert!(lossy.tensor(&bias.name).expect("a bias").bytes().expect("bytes") == bias.bytes, "{}", bias.name);
    }
}

#[test]
fn heads_that_are_not_whole_are_an_error() {
    let mut bias = biases().swap_remove(1);
    (bias.shape, bias.bytes) = (vec![10], bias.bytes[..40].to_vec());
    let rest = biases().into_iter().filter(|tensor| tensor.name != bias.name);
    let model = llama(json!({"attention_bias": true}), rest.chain([bias.clone()]).collect());
    let error = to_gguf(&model, GgufType::F32).expect_err("no whole heads").to_string();
    assert!(error.contains(&bias.name) && error.contains("whole attention heads"), "{error}");
}

/// transformers ignores tensors that the configuration does not ask for; llama.cpp would use biases and refuse others.
#[test]
fn tensors_that_the_configuration_does_not_use_are_left_out() {
    let buffer = Tensor::weights(&format!("{LAYER}self_attn.rotary_emb.inv_freq"), DType::F32, &[4], 1);
    let model = llama(json!({}), biases().into_iter().chain([buffer]).collect());
    let exported = to_gguf(&model, GgufType::F32).expect("a GGUF");
    assert_eq!(
        exported.notes,
        ["left out, because config.json does not use them: model.layers.0.self_attn.k_proj.bias and 4 more"]
    );
    let checkpoint = Checkpoint::open(&model.file("x.gguf")).expect("a GGUF");
    let names: Vec<&str> = checkpoint.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert!(names.len() == 11 && !names.iter().any(|name| name.ends_with("bias") || name.contains("rotary")));
    assert!(logits_of(&model.file("x.gguf")) == logits_of(&model.path));

    let model = llama(json!({"attention_bias": true}), vec![]);
    let error = to_gguf(&model, GgufType::F32).expect_err("no biases").to_string();
    assert!(error.contains("asks for tensor \"model.layers.0.self_attn.k_proj.bias\""), "{error}");
}

/// A weight that a type cannot hold is an error that names the tensor, and no file is written.
#[test]
fn weights_beyond_the_range_of_a_type_are_refused() {
    use GgufType::*;
    let name = format!("{LAYER}mlp.down_proj.weight");
    let export_with = |weight: f32, wanted: GgufType| {
        let mut values = vec![0.5; 32 * 64];
        values[100] = weight;
        let model = llama(json!({}), vec![Tensor::floats(&name, DType::F32, &[32, 64], values)]);
        let result = to_gguf(&model, wanted);
        assert_eq!(result.is_ok(), model.file("x.gguf").exists());
        result.map_err(|error| error.to_string())
    };
    // For each type, the largest magnitude that it holds and one that it does not.
    let cases = [
        (F16, 65_519.0, 65_520.0),
        (Q8_0, 65_519.0 * 127.0, 65_520.0 * 127.0),
        (Q4_0, -65_519.0 * 8.0, -65_520.0 * 8.0),
        (Q4_0, 0.0, f32::NAN),
        (Bf16, f32::from_bits(0x7F7F_7FFF), f32::MAX),
    ];
    for (wanted, held, lost) in cases {
        export_with(held, wanted).expect("a GGUF");
        let error = export_with(lost, wanted).expect_err("too large");
        assert!(error.contains(&format!("tensor {name:?} has a weight of {lost:e}")), "{wanted:?}: {error}");
    }
    export_with(f32::MAX, F32).expect("a GGUF");
}
