//! Container overhead for models with realistic shapes. With `IMPASTO_MODELS` (a folder of checkpoints), those are also
//! measured.

use std::path::{Path, PathBuf};

use crate::support::{Model, Tensor, encode_to, open};
use impasto::encode::Target;
use impasto_core::DType;

/// A Llama with about 20 M weights and the layer shapes of a 135 M model.
fn llama() -> Model {
    let (hidden, inner, kv) = (576, 1536, 192);
    let mut tensors = vec![Tensor::weights("model.embed_tokens.weight", DType::Bf16, &[8192, hidden], 1)];
    for layer in 0..4 {
        let mut add = |name: &str, shape: &[u64]| {
            let seed = 2 + tensors.len() as u64;
            tensors.push(Tensor::weights(&format!("model.layers.{layer}.{name}.weight"), DType::Bf16, shape, seed));
        };
        add("self_attn.q_proj", &[hidden, hidden]);
        add("self_attn.k_proj", &[kv, hidden]);
        add("self_attn.v_proj", &[kv, hidden]);
        add("self_attn.o_proj", &[hidden, hidden]);
        add("mlp.gate_proj", &[inner, hidden]);
        add("mlp.up_proj", &[inner, hidden]);
        add("mlp.down_proj", &[hidden, inner]);
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
    }
    Model::single(tensors)
}

/// Checks the file of a model at a target. `name` is for messages.
fn check(name: &str, model: &Path, file: &Path, target: Target) {
    encode_to(model, file, target, 0).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file = open(file);
    let reader = file.reader();
    let length = reader.header().file_length;
    let units: u64 = reader.units().iter().map(|u| u64::from(u.length)).sum();
    let (overhead, manifest) = (length - units, reader.header().manifest_length);
    let percent = |part: u64| 100.0 * part as f64 / length as f64;
    // Lane states are inside the units, but they are not payload.
    let floats = reader.units().iter().filter(|u| u.mode.needs_header()).count() as u64;
    let lanes = 128 * floats;
    println!(
        "{name}, {target:?}: {length} bytes, manifest {:.4}%, container {:.4}%, lane states {:.4}%",
        percent(manifest),
        percent(overhead),
        percent(lanes)
    );
    assert!(percent(manifest) <= 0.1, "{name} {target:?}: the manifest takes {:.3}%", percent(manifest));
    assert!(percent(overhead) <= 0.3, "{name} {target:?}: the container takes {:.3}%", percent(overhead));
    assert!(percent(overhead + lanes) <= 0.3, "{name} {target:?}: with lanes {:.3}%", percent(overhead + lanes));
    for object in 0..reader.objects().len() as u32 {
        let Some(units) = reader.units_of(object).filter(|units| units.tiles.len() > 1) else { continue };
        if reader.objects()[object as usize].tensor().is_none() {
            continue;
        }
        for &tile in units.tiles {
            let unit = &reader.units()[tile as usize];
            assert!(
                unit.length >= 32 << 10,
                "{name} {target:?}: {} has {} bytes",
                reader.unit_place(tile),
                unit.length
            );
        }
    }
}

#[test]
fn the_container_is_small_and_units_are_not() {
    let model = llama();
    for target in [Target::Lossless, Target::BitsPerWeight(2.0), Target::BitsPerWeight(5.0)] {
        check("generated", &model.path, &model.file("a.impasto"), target);
    }
}

#[test]
fn the_container_is_small_on_real_models() {
    let Some(folder) = std::env::var_os("IMPASTO_MODELS").map(PathBuf::from) else { return };
    let scratch = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder).expect("the models") {
        let path = entry.expect("an entry").path();
        if !path.join("config.json").is_file() {
            continue;
        }
        let name = path.display().to_string();
        check(&name, &path, &scratch.path().join("a.impasto"), Target::Lossless);
        // The generated model has the shapes of the large ones, whose lossy coding takes a minute.
        let bytes = std::fs::metadata(path.join("model.safetensors")).map_or(u64::MAX, |weights| weights.len());
        if bytes < 100 << 20 {
            check(&name, &path, &scratch.path().join("a.impasto"), Target::BitsPerWeight(4.0));
        }
    }
}
