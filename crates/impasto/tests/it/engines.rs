//! Exports for other engines: their layouts, and what the engines themselves make of them.
//!
//! Packages of Python are those of `IMPASTO_ENGINES` or else `IMPASTO_PYTHON`. What is missing is skipped with a message, or
//! fails if `IMPASTO_REQUIRE_ENGINES` lists all that a test needs.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use impasto::encode::{Formats, Layers, Options, Target, encode};
use impasto::export::{Exported, Form, Inputs, export};
use impasto::{Checkpoint, Cut, File, FileWeights};
use impasto_core::DType;
use impasto_runtime::{GenerateOptions, Model as Loaded, RunOptions};
use serde_json::{Map, Value, json};

use crate::config_matrix::{TOKENS, config, families, folder, logits_of, tokens};
use crate::support::{Model, Tensor, open};

/// Python, if it has these packages.
fn python(packages: &[&str]) -> Option<PathBuf> {
    let named = ["IMPASTO_ENGINES", "IMPASTO_PYTHON"].iter().find_map(std::env::var_os);
    let python = PathBuf::from(named.unwrap_or_else(|| "python3".into()));
    let find = "import sys, importlib.util as u; sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))";
    let found = Command::new(&python).args(["-c", find]).args(packages).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    let required = std::env::var("IMPASTO_REQUIRE_ENGINES").unwrap_or_default();
    let required: Vec<&str> = required.split_whitespace().collect();
    assert!(!packages.iter().all(|package| required.contains(package)), "{packages:?} are missing");
    println!("SKIPPED: {packages:?} are missing");
    None
}

/// Runs a script of `tests/engines`. Returns the JSON that it printed last.
fn run(python: &Path, script: &str, arguments: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines").join(script);
    let ran = Command::new(python).arg("-B").arg(script).args(arguments).output().expect("starts");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    serde_json::from_str(out.trim().lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{out}\n{err}"))
}

/// Encodes the tensors of a model that `formats` are for in these formats, all others exactly.
fn encoded(model: &Model, formats: &str, layers: Layers) -> File {
    let formats: Formats = formats.parse().expect("formats");
    let options = Options { formats, layers, threads: 1, ..Options::new(Target::Formats) };
    let checkpoint = Checkpoint::open(&model.path).expect("a checkpoint");
    let path = model.file("x.impasto");
    encode(&checkpoint, &path, &options, &|_| ControlFlow::Continue(())).expect("encodes");
    open(&path)
}

fn exported(file: &File, folder: &Path, form: Form) -> Exported {
    export(file, folder, None, form, false, &|_| {}).expect("exports")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

/// The tokens that the model of a file generates with 32-bit weights and activations.
fn generated(file: File, prompt: &[u32], count: usize) -> Vec<u32> {
    let weights = FileWeights::new(file).expect("weights");
    let model = Loaded::load(&weights, &RunOptions::float()).expect("a model");
    let mut options = GenerateOptions { max_tokens: count, eos: vec![], ..model.generate_options() };
    options.sampling.temperature = 0.0;
    model.generate(prompt, &options, &mut |_| ControlFlow::Continue(())).expect("generates").tokens
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).expect("config.json")).expect("JSON")
}

/// Tensors of an exported folder, by name.
fn tensors(folder: &Path) -> HashMap<String, Tensor> {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let tensor = |t: &impasto_checkpoint::TensorInfo| {
        (t.name.clone(), Tensor::new(&t.name, t.dtype, &t.shape, checkpoint.bytes(t).to_vec()))
    };
    checkpoint.tensors().iter().map(tensor).collect()
}

/// The weights of a module as MLX documents them: the first code in the lowest bits of a word of 32 bits, `scale * code + bias`.
fn affine(tensors: &HashMap<String, Tensor>, module: &str, how: &Value) -> Vec<f32> {
    let part = |part: &str| &tensors[&format!("{module}.{part}")];
    let number = |key: &str| how[key].as_u64().expect("a number") as usize;
    let (bits, width) = (number("bits"), number("group_size"));
    let words = part("weight");
    assert_eq!(words.dtype, DType::U32);
    let words = words.bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word));
    let codes = words.flat_map(|word| (0..32 / bits).map(move |n| word >> (n * bits) & ((1 << bits) - 1)));
    let (scales, biases) = (part("scales").values(), part("biases").values());
    codes.enumerate().map(|(n, code)| scales[n / width] * code as f32 + biases[n / width]).collect()
}

/// A model of layers that are odd in one way each.
fn odd() -> Model {
    let tensor = |name: &str, shape, seed| Tensor::weights(&format!("{name}.weight"), DType::F32, shape, seed);
    Model::single(vec![
        tensor("wide.q_proj", &[24, 256], 1),
        tensor("narrow.q_proj", &[50, 96], 2),
        tensor("uneven.q_proj", &[50, 100], 3),
        tensor("flat.q_proj", &[2, 2112], 4),
        tensor("odd.q_proj", &[120, 37], 5),
    ])
}

#[test]
fn weights_in_the_layout_of_mlx() {
    let model = Model::wide_tiny();
    let file = encoded(&model, "attention=int4,mlp=int8,embeddings=int8", Layers::default());
    let out = model.file("out");
    exported(&file, &out, Form::Mlx);
    let (found, config) = (tensors(&out), config_of(&out));
    let quantization = config["quantization"].as_object().expect("an object");
    let modules: Vec<_> = quantization.iter().filter(|(_, how)| how.is_object()).collect();
    assert_eq!(modules.len(), 43, "the embedding, too");
    for (module, how) in modules {
        let wanted = file.tensor(&format!("{module}.weight")).expect("a tensor").bytes().expect("bytes");
        let weights: Vec<u8> = affine(&found, module, how).into_iter().flat_map(f32::to_le_bytes).collect();
        assert!(weights == wanted, "{module}");
    }
    assert_eq!(quantization["model.layers.0.self_attn.q_proj"], json!({"group_size": 64, "bits": 4, "mode": "affine"}));
    // A scale of a row of 512 columns is there four times.
    assert_eq!(quantization["model.layers.0.mlp.down_proj"], json!({"group_size": 128, "bits": 8, "mode": "affine"}));
    assert_eq!(found["model.layers.0.mlp.down_proj.scales"].shape, [192, 4]);
    for default in ["group_size", "bits", "mode"] {
        assert!(!quantization[default].is_null(), "{default}");
    }
}

/// What MLX does not have is written as floats, and said; nothing is left if it has none of it.
#[test]
fn what_mlx_does_not_have() {
    let model = odd();
    let file = encoded(&model, "int8", Layers::default());
    let out = model.file("out");
    let notes = exported(&file, &out, Form::Mlx).notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes.iter().all(|note| note.contains("MLX has groups of 32, 64 or 128 columns")), "{notes:?}");
    let found = tensors(&out);
    let shape = |name: &str| (found[name].dtype, &found[name].shape[..]);
    assert_eq!(shape("wide.q_proj.scales"), (DType::F32, &[24, 2][..]));
    assert_eq!(shape("narrow.q_proj.weight"), (DType::U32, &[50, 24][..]));
    assert_eq!(shape("narrow.q_proj.scales"), (DType::F32, &[50, 3][..]));
    assert_eq!(shape("uneven.q_proj.weight"), (DType::F32, &[50, 100][..]));
    assert_eq!(shape("flat.q_proj.scales"), (DType::F32, &[2, 33][..]));

    for format in ["nvfp4", "fp8"] {
        let file = encoded(&model, format, Layers::default());
        let refused = export(&file, &model.file("none"), None, Form::Mlx, false, &|_| {}).expect_err("nothing fits");
        let why = if format == "fp8" { "MLX has FP8 under powers of two only" } else { "no scale of the tensor" };
        assert!(refused.to_string().contains(why), "{refused}");
        assert!(!model.file("none").exists());
    }
}

/// An output projection that is the embedding is left out: MLX computes it from the embedding, and knows no other name for its scales.
#[test]
fn tied_embeddings_for_mlx() {
    let mut tensors_of = Model::wide_tiny().tensors;
    let embedding = tensors_of.iter().find(|t| t.name == "model.embed_tokens.weight").expect("an embedding");
    tensors_of.push(Tensor { name: "lm_head.weight".into(), ..embedding.clone() });
    let wide = Model::wide_tiny();
    let model = Model::single(tensors_of);
    fs::copy(wide.path.join("config.json"), model.path.join("config.json")).expect("a file");
    let file = encoded(&model, "int4,embeddings=int8", Layers::default());
    let out = model.file("out");
    exported(&file, &out, Form::Mlx);
    let found = tensors(&out);
    assert!(found.contains_key("model.embed_tokens.scales"));
    assert!(found.keys().all(|name| !name.starts_with("lm_head")));
}

/// Of a layered file, the base has formats, and the exact layer above it has none.
#[test]
fn layered_files() {
    let model = Model::wide_tiny();
    let mut file = encoded(&model, "int4", Layers { exact: true, ..Layers::default() });
    let refused = export(&file, &model.file("whole"), None, Form::Mlx, false, &|_| {}).expect_err("exact");
    assert!(refused.to_string().contains("no tensor has a format"), "{refused}");
    file.cut(&Cut::Layer(1)).expect("a cut");
    for (form, name) in [(Form::Mlx, "mlx"), (Form::Onnx, "onnx")] {
        assert!(exported(&file, &model.file(name), form).notes.is_empty());
    }
    assert_eq!(config_of(&model.file("mlx"))["quantization"]["bits"], 4);
    assert!(model.file("onnx").join("linear.onnx").exists());
}

#[test]
fn mlx_reads_and_runs_the_export() {
    let Some(python) = python(&["mlx", "mlx_lm"]) else { return };
    for formats in ["attention=int4,mlp=int8,embeddings=int8", "mxfp4"] {
        let model = Model::wide_tiny();
        let file = encoded(&model, formats, Layers::default());
        let (out, floats) = (model.file("out"), model.file("floats"));
        exported(&file, &out, Form::Mlx);
        exported(&file, &floats, Form::Safetensors);
        let prompt = [0, 510, 34, 271];
        let ids = prompt.map(|id: u32| id.to_string()).join(",");
        let found = run(&python, "mlx_folder.py", &[text(&out), text(&floats), &ids, "12"]);
        assert_eq!(found["differ"], json!([]), "{formats}");
        assert_eq!(found["modules"], if formats == "mxfp4" { 42 } else { 43 });
        assert_eq!(found["tokens"], json!(generated(file, &prompt, 12)), "{formats}");
    }
}

/// The number of each int8, as it is, beside the scale of its row.
#[test]
fn weights_of_8_bits_for_activations_of_8_bits() {
    let model = Model::wide_tiny();
    let file = encoded(&model, "mlp=int8,attention=fp8,q=int4", Layers::default());
    let out = model.file("out");
    exported(&file, &out, Form::CompressedTensors(Inputs::EightBits));
    let (found, config) = (tensors(&out), config_of(&out));
    let groups = config["quantization_config"]["config_groups"].as_object().expect("groups");
    let of = |layout: &str| groups.values().find(|group| group["format"] == layout).expect("a group");
    assert_eq!(of("int-quantized")["input_activations"]["type"], "int");
    assert_eq!(of("float-quantized")["input_activations"]["type"], "float");
    assert!(of("pack-quantized")["input_activations"].is_null(), "int4 is not rounded for");
    let name = "model.layers.2.mlp.up_proj.weight";
    let (codes, scales) = (&found[name], found[&name.replace("weight", "weight_scale")].values());
    assert_eq!((codes.dtype, &codes.shape[..]), (DType::I8, &[512, 192][..]));
    let weights = codes.bytes.iter().zip(0..).map(|(&code, n): (_, usize)| f32::from(code as i8) * scales[n / 192]);
    let wanted = file.tensor(name).expect("a tensor").bytes().expect("bytes");
    assert!(weights.flat_map(f32::to_le_bytes).collect::<Vec<u8>>() == wanted);

    let other = encoded(&model, "int4", Layers::default());
    let form = Form::CompressedTensors(Inputs::EightBits);
    let refused = export(&other, &model.file("none"), None, form, false, &|_| {}).expect_err("no weights of 8 bits");
    assert!(refused.to_string().contains("no tensor is int8 or FP8"), "{refused}");
}

#[test]
fn transformers_has_the_logits_of_compressed_tensors() {
    let Some(python) = python(&["transformers", "torch", "compressed_tensors"]) else { return };
    let cases = [
        ("int4", Inputs::Floats, 1e-4),
        ("int8", Inputs::Floats, 1e-4),
        ("mxfp4,attention=nvfp4", Inputs::Floats, 1e-4),
        ("fp8", Inputs::Floats, 1e-4),
        // Activations are rounded to 8 bits.
        ("int8", Inputs::EightBits, 0.1),
        ("fp8", Inputs::EightBits, 0.2),
    ];
    let prompt: Vec<u32> = (0..24).map(|n| n * 97 % 4096).collect();
    let ids: Vec<String> = prompt.iter().map(u32::to_string).collect();
    let mut arguments = vec![ids.join(",")];
    let models: Vec<_> = cases.iter().map(|_| Model::wide_tiny()).collect();
    for (model, (formats, inputs, _)) in models.iter().zip(cases) {
        let file = encoded(model, formats, Layers::default());
        let (out, wanted) = (model.file("out"), model.file("logits"));
        exported(&file, &out, Form::CompressedTensors(inputs));
        let logits = logits_of(&FileWeights::new(file).expect("weights"), &prompt).expect("logits");
        fs::write(&wanted, logits.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).expect("a file");
        arguments.extend([text(&out).to_owned(), text(&wanted).to_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found = run(&python, "transformers_folder.py", &arguments);
    for (case, worst) in cases.iter().zip(found["worst"].as_array().expect("an array")) {
        assert!(worst.as_f64().is_some_and(|worst| worst < case.2), "{case:?}: {worst}");
    }
}

/// Each layer of `linear.onnx` has the product of the weights of the file.
#[test]
fn onnx_runtime_multiplies_by_the_weights_of_the_file() {
    let Some(python) = python(&["onnxruntime", "safetensors", "numpy"]) else { return };
    let check = |model: &Model, formats: &str, layers: u64| {
        let file = encoded(model, formats, Layers::default());
        let (out, floats) = (model.file(&format!("{formats}.out")), model.file(&format!("{formats}.floats")));
        let notes = exported(&file, &out, Form::Onnx).notes;
        exported(&file, &floats, Form::Safetensors);
        let found = run(&python, "onnx_folder.py", &["linear", text(&out), text(&floats)]);
        assert_eq!(found["layers"], layers, "{formats} {notes:?}");
        let worst = found["worst"].as_f64().expect("a number");
        assert!(worst < 1e-5, "{formats}: {worst}");
    };
    for formats in ["int4", "int8", "mxfp4", "nvfp4", "fp8", "fp8-e5m2"] {
        let model = odd();
        // Int4 has groups of 128, 64 or 32 columns, or else of a row, as int8 always.
        check(&model, formats, 5);
    }
    check(&Model::wide_tiny(), "q=int4,k=int8,v=mxfp4,o=nvfp4,mlp=fp8", 42);
}

/// `model.onnx` has the logits of the runtime, for every family and what its configuration may ask for.
#[test]
fn onnx_runtime_has_the_logits_of_every_family() {
    let Some(python) = python(&["onnxruntime", "safetensors", "numpy"]) else { return };
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16});
    let variants = [
        (
            "llama",
            json!({"rope_scaling": llama3, "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true}),
        ),
        ("mistral", json!({"sliding_window": 6, "head_dim": 16})),
        ("qwen2", json!({"use_sliding_window": true, "sliding_window": 6, "max_window_layers": 1})),
        ("qwen3", json!({"rope_scaling": yarn, "num_key_value_heads": 1})),
        ("smollm3", json!({"no_rope_layers": [1, 0, 1, 0]})),
        ("phi3", json!({"partial_rotary_factor": 0.5, "head_dim": 64})),
        ("gemma2", json!({"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0})),
    ];
    let plain = families().map(|family| (family.0, json!({}), "attention=int8,mlp=fp8"));
    let variants = variants.map(|(name, changes)| (name, changes, "attention=int4,mlp=mxfp4,down=nvfp4"));
    let mut models = vec![];
    let ids: Vec<String> = tokens().map(|token| token.to_string()).collect();
    let mut arguments = vec!["decoders".to_owned(), ids.join(",")];
    for (name, changes, formats) in plain.into_iter().chain(variants) {
        let family = families().into_iter().find(|family| family.0 == name).expect("a family");
        let mut fields: Map<String, Value> = config(&family);
        // Large enough to be coded with loss.
        let sizes = json!({"hidden_size": 128, "head_dim": 32, "intermediate_size": 96});
        [sizes, changes.clone()].iter().for_each(|more| fields.extend(more.as_object().expect("an object").clone()));
        let model = folder(&fields).expect("a model");
        let file = encoded(&model, formats, Layers::default());
        let (out, wanted) = (model.file("out"), model.file("logits"));
        let notes = exported(&file, &out, Form::Onnx).notes;
        assert!(notes.is_empty(), "{name} {changes}: {notes:?}");
        let tokens: Vec<u32> = tokens().collect();
        let logits = logits_of(&FileWeights::new(file).expect("weights"), &tokens).expect("logits");
        fs::write(&wanted, logits.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).expect("a file");
        arguments.extend([text(&out).to_owned(), text(&wanted).to_owned()]);
        models.push((format!("{name} {changes}"), model));
    }
    assert_eq!(ids.len(), TOKENS as usize);
    let found = run(&python, "onnx_folder.py", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for ((name, _), worst) in models.iter().zip(found["worst"].as_array().expect("an array")) {
        println!("{name}: {worst}");
        assert!(worst.as_f64().is_some_and(|worst| worst < 1e-4), "{name}: {worst}");
    }
}

#[test]
fn onnx_runtime_genai_generates_the_same_text() {
    let Some(python) = python(&["onnxruntime_genai"]) else { return };
    let model = Model::wide_tiny();
    let file = encoded(&model, "attention=int4,mlp=nvfp4", Layers::default());
    let out = model.file("out");
    exported(&file, &out, Form::Onnx);
    let prompt = [0, 510, 34, 271];
    let ids = prompt.map(|id: u32| id.to_string()).join(",");
    let found = run(&python, "onnx_folder.py", &["genai", text(&out), &ids, "12"]);
    assert_eq!(found["tokens"], json!(generated(file, &prompt, 12)));
}

/// Of a network that is not known, there are the linear layers, and the export says so.
#[test]
fn onnx_without_a_network() {
    let model = odd();
    let file = encoded(&model, "int8", Layers::default());
    let out = model.file("out");
    let exported = exported(&file, &out, Form::Onnx);
    assert_eq!(exported.notes.len(), 1, "{:?}", exported.notes);
    assert!(exported.notes[0].starts_with("there is no model.onnx, only linear layers"), "{:?}", exported.notes);
    assert!(out.join("linear.onnx").exists() && !out.join("genai_config.json").exists());
    // Codes and scales of four layers whose rows are whole blocks of 16 columns, and of those that are filled up; each at 64 bytes.
    let length = |columns: u64, rows: u64, block: u64| {
        let across = columns.div_ceil(block);
        (rows * across * block).next_multiple_of(64) + (rows * across * 4).next_multiple_of(64)
    };
    let all =
        length(256, 24, 128) + length(96, 50, 32) + length(100, 50, 16) + length(2112, 2, 64) + length(37, 120, 16);
    let found = fs::metadata(out.join("weights.data")).expect("a file").len();
    assert!(found <= all && found + 64 > all, "{found} of {all}");

    let mut exact = encoded(&model, "int8", Layers { exact: true, ..Layers::default() });
    let refused = export(&exact, &model.file("none"), None, Form::Onnx, false, &|_| {}).expect_err("no format");
    assert!(refused.to_string().contains("the network is not known"), "{refused}");
    exact.cut(&Cut::Layer(1)).expect("a cut");
    export(&exact, &model.file("base"), None, Form::Onnx, false, &|_| {}).expect("exports");
}

/// A network whose tensors have other shapes than its configuration says is none, and damage is an error.
#[test]
fn onnx_of_a_network_that_is_wrong() {
    let mut tensors = Model::wide_tiny().tensors;
    let norm = tensors.iter_mut().find(|t| t.name == "model.norm.weight").expect("a norm");
    *norm = Tensor::weights("model.norm.weight", DType::F32, &[96], 1);
    let model = Model::single(tensors);
    fs::copy(Model::wide_tiny().path.join("config.json"), model.path.join("config.json")).expect("a file");
    let notes = exported(&encoded(&model, "int4", Layers::default()), &model.file("out"), Form::Onnx).notes;
    assert!(notes.len() == 1 && notes[0].contains("model.norm.weight"), "{notes:?}");
    assert!(model.file("out").join("linear.onnx").exists() && !model.file("out").join("model.onnx").exists());

    let path = model.file("x.impasto");
    let length = fs::metadata(&path).expect("a file").len();
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(length - length / 4)).expect("cut");
    let refused = export(&open(&path), &model.file("none"), None, Form::Onnx, false, &|_| {});
    assert!(refused.is_err() && !model.file("none").exists());
}

/// A known network without formats is exported with floats.
#[test]
fn onnx_of_floats() {
    let model = folder(&config(&families()[0])).expect("a model");
    let path = model.file("x.impasto");
    crate::support::encode_to(&model.path, &path, Target::Lossless, 1).expect("encodes");
    let out = model.file("out");
    assert!(exported(&open(&path), &out, Form::Onnx).notes.is_empty());
    assert!(out.join("model.onnx").exists() && !out.join("linear.onnx").exists());
}
