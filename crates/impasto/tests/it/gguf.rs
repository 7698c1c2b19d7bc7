//! GGUF in and out: files that are restored byte for byte, tensors in the form of transformers, and new GGUF files.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::support::{Random, Tensor, decode, encode_to, open, tiny};
use half::{bf16, f16};
use impasto::encode::{Extent, Layers, Options, Target, encode};
use impasto::export::{Form, GgufType, export};
use impasto::{Checkpoint, CheckpointWeights, Cut, File, FileWeights, truncate};
use impasto_checkpoint::gguf::Metadata;
use impasto_checkpoint::gguf::hf::{self, Tensors};
use impasto_checkpoint::{Asset, Opaque, TensorSpec, write_gguf};
use impasto_core::DType;
use impasto_core::blocks;
use impasto_model::{Want, WeightSource};
use impasto_runtime::{Activations, KvFormat, KvLayout, Model, Residence, RunOptions};
use tempfile::TempDir;

/// Returns blocks of random integers with weights of at most 0.1, for a dtype whose scale is a binary16 at `at`.
fn random_blocks(dtype: DType, at: usize, count: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..count * dtype.size()).map(|_| random.below(256) as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.size()) {
        let mut values = vec![0.0; dtype.weights()];
        block[at..at + 2].copy_from_slice(&f16::ONE.to_le_bytes());
        assert!(blocks::dequantize(dtype, block, &mut values));
        let most = values.iter().fold(0f32, |most, value| most.max(value.abs()));
        block[at..at + 2].copy_from_slice(&f16::from_f32(0.1 / most).to_le_bytes());
    }
    bytes
}

/// Writes a GGUF of the tiny model with matrices in `dtype`, without the code of the export. `dtype` is a float, or one
/// that the reference quantizes to; or matrices of whole blocks are random and the others in Q8_0.
pub fn tiny_gguf(path: &Path, dtype: DType) {
    struct Shapes<'a>(&'a Checkpoint);
    impl Tensors for Shapes<'_> {
        fn shape(&self, name: &str) -> Option<Vec<u64>> {
            self.0.tensor(name).map(|t| t.shape.clone())
        }
        fn values(&self, _: &str) -> Option<Vec<f32>> {
            None
        }
    }
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let assets: Vec<Asset> = checkpoint.assets().to_vec();
    let made = hf::metadata(&assets, &Shapes(&checkpoint), "tiny", 7).expect("metadata");
    let config = assets.iter().find(|asset| asset.name == "config.json").expect("config");
    let names = hf::NameMap::of_config(&config.bytes).expect("names");
    let source = CheckpointWeights::new(&checkpoint);
    let (mut tensors, mut random) = (Vec::new(), Random(3));
    for info in checkpoint.tensors() {
        let mapped = names.to_gguf(&info.name).expect("a name in GGUF");
        let weights = source.load_f32(&info.name).expect("weights");
        let width = *info.shape.last().expect("dims") as usize;
        let rows = weights.len() / width;
        let matrix = info.shape.len() > 1;
        let row = |r: usize| if matrix { mapped.change.hf_row(r as u64) as usize } else { r };
        let moved: Vec<f32> = (0..rows).flat_map(|r| &weights[row(r) * width..][..width]).copied().collect();
        let mut bytes = Vec::new();
        let random_scale = match dtype {
            DType::Tq1_0 => Some(52),
            DType::Tq2_0 => Some(64),
            DType::Iq1S | DType::Iq2Xxs | DType::Iq2Xs | DType::Iq2S => Some(0),
            DType::Iq3Xxs | DType::Iq3S | DType::Iq4Nl | DType::Iq4Xs => Some(0),
            DType::Q3K => Some(108),
            DType::Q6K => Some(208),
            _ => None,
        };
        let dtype = match random_scale {
            _ if !matrix => DType::F32,
            Some(_) if !width.is_multiple_of(dtype.weights()) => DType::Q8_0,
            _ => dtype,
        };
        match dtype {
            _ if matrix && dtype != DType::Q8_0 && random_scale.is_some() => {
                let count = moved.len() / dtype.weights();
                bytes = random_blocks(dtype, random_scale.expect("a position"), count, &mut random);
            }
            DType::F16 => bytes = moved.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect(),
            DType::Bf16 => bytes = moved.iter().flat_map(|&w| bf16::from_f32(w).to_le_bytes()).collect(),
            DType::F32 => bytes = moved.iter().flat_map(|w| w.to_le_bytes()).collect(),
            _ => assert!(blocks::quantize(dtype, &moved, &mut bytes), "{dtype:?}"),
        }
        tensors.push((TensorSpec::new(mapped.name, dtype, info.shape.clone()), bytes));
    }
    let tensors: Vec<(TensorSpec, &[u8])> = tensors.iter().map(|(spec, bytes)| (spec.clone(), &bytes[..])).collect();
    write_gguf(path, &made.metadata, &tensors).expect("a GGUF");
}

fn encoded(model: &Path, folder: &TempDir, target: Target) -> File {
    let path = folder.path().join("x.impasto");
    encode_to(model, &path, target, 0).expect("encodes");
    open(&path)
}

/// Returns names and values of all tensors of a Hugging Face folder.
fn values(folder: &Path) -> Vec<(String, Vec<f32>)> {
    let checkpoint = Checkpoint::open(folder).expect("a folder");
    let source = CheckpointWeights::new(&checkpoint);
    let load = |name: &String| (name.clone(), source.load_f32(name).expect("weights"));
    checkpoint.tensors().iter().map(|t| load(&t.name)).collect()
}

#[test]
fn a_quantized_gguf_comes_back_and_is_smaller() {
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q5_1] {
        let folder = TempDir::new().expect("a folder");
        let model = folder.path().join("tiny.gguf");
        tiny_gguf(&model, dtype);
        let file = encoded(&model, &folder, Target::Lossless);
        assert!(file.reader().header().file_length < fs::metadata(&model).expect("length").len(), "{dtype:?}");
        let out = folder.path().join("out");
        let exported = decode(&file, &out, false).expect("decodes");
        assert!(exported.identical);
        assert_eq!(exported.files, [out.join("tiny.gguf")], "nothing but the GGUF");
        assert!(fs::read(&model).expect("bytes") == fs::read(out.join("tiny.gguf")).expect("bytes"), "{dtype:?}");
    }
}

/// Names and rows agree with those of transformers: from the GGUF, from a file with its blocks, and from a lossy file.
#[test]
fn a_gguf_is_seen_as_a_hugging_face_folder() {
    let folder = TempDir::new().expect("a folder");
    let model = folder.path().join("tiny.gguf");
    tiny_gguf(&model, DType::Q8_0);
    let original = values(&tiny());
    let near = |found: &[(String, Vec<f32>)], most: f32| {
        let names = |list: &[(String, Vec<f32>)]| list.iter().map(|t| t.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(found), names(&original));
        for ((name, a), (_, b)) in found.iter().zip(&original) {
            let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(off <= largest * most, "{name}: {off} of {largest}");
        }
    };
    let exact = encoded(&model, &folder, Target::Lossless);
    let out = folder.path().join("hf");
    export(&exact, &out, None, Form::Safetensors, false, &|_| ()).expect("decodes");
    // Half a step of a range of +-127 steps, plus the rounding of the scale to binary16.
    near(&values(&out), 0.0042);

    // The GGUF, the exact file and the folder give the same logits.
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 4096).collect();
    let logits = |source: &dyn WeightSource| {
        let model = Model::load(source, &RunOptions::float()).expect("a model");
        let mut cache = model.network().new_cache(tokens.len()).expect("a cache");
        model.network().forward(&mut cache, &tokens, Want::All).expect("logits")
    };
    let checkpoint = Checkpoint::open(&model).expect("a GGUF");
    let from_gguf = logits(&CheckpointWeights::new(&checkpoint));
    assert!(from_gguf == logits(&FileWeights::new(exact).expect("assets")));
    assert!(from_gguf == logits(&CheckpointWeights::new(&Checkpoint::open(&out).expect("a folder"))));

    let lossy = encoded(&model, &folder, Target::BitsPerWeight(9.0));
    let out = folder.path().join("lossy");
    export(&lossy, &out, None, Form::Original, false, &|_| ()).expect("decodes");
    near(&values(&out), 0.05);
    assert!(out.join("tokenizer.json").is_file() && out.join("config.json").is_file());
}

fn logits(model: &Model) -> Vec<f32> {
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 4096).collect();
    let mut cache = model.network().new_cache(tokens.len()).expect("a cache");
    model.network().forward(&mut cache, &tokens, Want::All).expect("logits")
}

/// Returns the relative error of logits.
fn error(got: &[f32], reference: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let difference = square(&mut got.iter().zip(reference).map(|(a, b)| a - b));
    (difference / square(&mut reference.iter().copied())).sqrt()
}

/// Asserts that a model runs at the size of the GGUF, with the logits of its values; 8-bit activations may change them by
/// `most`.
fn assert_runs_at_its_own_size(
    source: &dyn WeightSource,
    checkpoint: &Checkpoint,
    reference: &[f32],
    dtype: DType,
    most: f64,
) {
    let run = |activations| {
        let kv = KvLayout::uniform(KvFormat::F32);
        let options = RunOptions { activations, kv, threads: 2, ..RunOptions::default() };
        Model::load(source, &options).expect("a model")
    };
    let model = run(Activations::Int8);
    let bytes: usize = checkpoint.tensors().iter().map(|tensor| checkpoint.bytes(tensor).len()).sum();
    let ratio = model.memory_bytes() as f64 / bytes as f64;
    assert!((0.99..1.05).contains(&ratio), "{dtype:?}: {ratio}");
    // A different order of summation; and the rounding of activations.
    let (exact, rounded) = (error(&logits(&run(Activations::F32)), reference), error(&logits(&model), reference));
    println!("{dtype:?}: memory {ratio:.3}, errors {exact:.1e} and {rounded:.1e}");
    assert!(exact < 1e-5 && rounded < most, "{dtype:?}: {exact}, {rounded}");
}

/// The blocks and the 16-bit floats of a GGUF, and of a file that keeps it exactly, run as they are: their memory is
/// theirs, and their logits are those of their values.
#[test]
fn a_gguf_runs_at_its_own_size() {
    // Random weights are more sensitive than trained ones.
    let (trained, random) = (0.02, 0.04);
    for (dtype, most) in [(DType::Q4_0, trained), (DType::Q5_1, trained), (DType::Iq3S, random), (DType::F16, trained)]
    {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("tiny.gguf");
        tiny_gguf(&path, dtype);
        let checkpoint = Checkpoint::open(&path).expect("a GGUF");
        let file = encoded(&path, &folder, Target::Lossless);
        let of_gguf = CheckpointWeights::new(&checkpoint);
        let of_file = FileWeights::new(file).expect("assets");
        let reference = logits(&Model::load(&of_gguf, &RunOptions::float()).expect("a model"));
        for source in [&of_gguf as &dyn WeightSource, &of_file] {
            assert_runs_at_its_own_size(source, &checkpoint, &reference, dtype, most);
            let kv = KvLayout::uniform(KvFormat::F32);
            let coded = RunOptions { residence: Residence::Coded, kv, threads: 2, ..RunOptions::default() };
            let coded = error(&logits(&Model::load(source, &coded).expect("a model")), &reference);
            assert!(coded < 1e-5, "{dtype:?}: {coded}");
        }
    }
}

/// As above, for types that no export writes.
#[test]
fn tables_grids_and_ternary_blocks_run_at_their_own_size() {
    for dtype in [DType::Iq4Xs, DType::Tq1_0, DType::Tq2_0, DType::Iq1S, DType::Iq2Xs] {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("tiny.gguf");
        tiny_gguf(&path, dtype);
        let checkpoint = Checkpoint::open(&path).expect("a GGUF");
        assert!(checkpoint.tensors().iter().any(|tensor| tensor.dtype == dtype));
        let source = CheckpointWeights::new(&checkpoint);
        let reference = logits(&Model::load(&source, &RunOptions::float()).expect("a model"));
        assert_runs_at_its_own_size(&source, &checkpoint, &reference, dtype, 0.04);
    }
}

/// A layered file of a GGUF runs and decodes as the GGUF if it is whole, and otherwise as its lossy layers.
#[test]
fn layers_over_a_gguf_end_in_its_bytes() {
    let folder = TempDir::new().expect("a folder");
    let (model, path) = (folder.path().join("tiny.gguf"), folder.path().join("a.impasto"));
    // Matrices of Q6_K, of Q8_0, and vectors of F32.
    tiny_gguf(&model, DType::Q6K);
    let checkpoint = Checkpoint::open(&model).expect("a GGUF");
    let layers = Layers { below: vec![Extent::BitsPerWeight(3.0)], exact: true, ..Layers::default() };
    let options = Options { layers, ..Options::new(Target::BitsPerWeight(4.0)) };
    let report = encode(&checkpoint, &path, &options, &|_| ControlFlow::Continue(())).expect("encodes");
    let length = |path: &Path| fs::metadata(path).expect("a file").len();
    // Blocks are coded given the layers below, which would otherwise be needed beside them.
    assert!(length(&path) < length(&model) + report.layers[1].bytes / 2, "{}", length(&path));
    let file = open(&path);
    let out = folder.path().join("whole");
    assert!(decode(&file, &out, false).expect("decodes").identical);
    assert!(fs::read(&model).expect("bytes") == fs::read(out.join("tiny.gguf")).expect("bytes"));
    let of_file = FileWeights::new(file).expect("assets");
    let of_gguf = CheckpointWeights::new(&checkpoint);
    for name in of_gguf.tensor_names() {
        let blocks = of_gguf.load_blocks(&name).expect("reads");
        assert_eq!(of_file.load_blocks(&name).expect("reads"), blocks, "{name}");
        assert!(of_file.load_f32(&name).expect("reads") == of_gguf.load_f32(&name).expect("reads"), "{name}");
    }
    for (layer, most) in [(1, 0.5), (2, 0.3)] {
        let cut = folder.path().join(format!("{layer}.impasto"));
        truncate(&open(&path), &Cut::Layer(layer), &cut).expect("truncates");
        assert!(length(&cut) <= report.layers[layer - 1].bytes);
        let file = open(&cut);
        let out = folder.path().join(layer.to_string());
        assert!(!decode(&file, &out, false).expect("decodes").identical);
        let (lossy, wanted) = (values(&out), of_gguf.tensor_names());
        assert!(lossy.iter().map(|(name, _)| name).eq(&wanted) && out.join("config.json").is_file());
        for (name, found) in &lossy {
            let off = error(found, &of_gguf.load_f32(name).expect("reads"));
            assert!(off < most, "{name} in layer {layer}: {off}");
        }
        assert!(of_gguf.load_f32(&wanted[0]).expect("reads") != lossy[0].1);
        Model::load(&FileWeights::new(file).expect("assets"), &RunOptions::default()).expect("a model");
    }
}

/// An output projection of its own, in a model that should have none, is used from every format.
#[test]
fn an_output_projection_beside_a_tied_embedding() {
    let mut tensors = crate::support::Model::wide_tiny().tensors;
    let embedding = tensors.iter().find(|t| t.name == "model.embed_tokens.weight").expect("an embedding");
    let mut values = embedding.values();
    values.reverse();
    tensors.push(Tensor::floats("lm_head.weight", DType::F32, &embedding.shape.clone(), values));
    let made = crate::support::Model::single(tensors);
    for asset in Checkpoint::open(&tiny()).expect("the tiny model").assets() {
        fs::write(made.path.join(&asset.name), &asset.bytes).expect("an asset");
    }
    let folder = TempDir::new().expect("a folder");
    let file = encoded(&made.path, &folder, Target::Lossless);
    let gguf = folder.path().join("t.gguf");
    export(&file, folder.path(), Some("t.gguf"), Form::Gguf(Some(GgufType::F32)), false, &|_| ()).expect("a GGUF");
    let logits = |source: &dyn WeightSource| {
        let model = Model::load(source, &RunOptions::float()).expect("a model");
        let mut cache = model.network().new_cache(0).expect("a cache");
        (model.network().forward(&mut cache, &[5, 17, 300], Want::All).expect("logits"), model.notes().to_vec())
    };
    let checkpoint = |path: &Path| logits(&CheckpointWeights::new(&Checkpoint::open(path).expect("a checkpoint")));
    let ((expected, notes), tied) = (checkpoint(&made.path), checkpoint(&tiny()));
    assert!(expected != tied.0 && tied.1.is_empty());
    assert!(notes.len() == 1 && notes[0].contains("tie_word_embeddings"), "{notes:?}");
    assert_eq!(logits(&FileWeights::new(file).expect("assets")), (expected.clone(), notes));
    assert_eq!(checkpoint(&gguf), (expected, vec![]), "its own configuration has no tie");
}

#[test]
fn a_folder_becomes_a_gguf() {
    let folder = TempDir::new().expect("a folder");
    let file = encoded(&tiny(), &folder, Target::Lossless);
    let original = values(&tiny());
    for (wanted, most) in [
        (GgufType::F32, 0.0),
        (GgufType::Bf16, 0.0),
        (GgufType::F16, 0.0005),
        (GgufType::Q8_0, 0.0042),
        (GgufType::Q4_0, 0.13),
    ] {
        let out = folder.path().join(format!("{wanted:?}"));
        let exported = export(&file, &out, Some("t.gguf"), Form::Gguf(Some(wanted)), false, &|_| ()).expect("a GGUF");
        assert!(!exported.identical && exported.files == [out.join("t.gguf")]);
        let checkpoint = Checkpoint::open(&out.join("t.gguf")).expect("a GGUF");
        let source = CheckpointWeights::new(&checkpoint);
        for (name, expected) in &original {
            let found = source.load_f32(name).expect("weights");
            let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(found.len() == expected.len() && off <= largest * most, "{wanted:?} {name}: {off} of {largest}");
        }
        let tokenizer = |source: &dyn WeightSource| {
            let model = Model::load(source, &RunOptions::float()).expect("a model");
            model.tokenizer().expect("a tokenizer").encode("Once upon a time, 1 2  3\n", true).expect("tokens")
        };
        let folder = Checkpoint::open(&tiny()).expect("tiny");
        assert_eq!(tokenizer(&source), tokenizer(&CheckpointWeights::new(&folder)));
    }
}

/// Writes a GGUF with every type, including unknown ones, and an unsupported architecture.
fn zoo(path: &Path) {
    let mut random = Random(7);
    let mut tensors = Vec::new();
    for dtype in
        DType::BLOCKS.into_iter().chain([DType::F32, DType::F16, DType::Bf16, DType::F64, DType::I8, DType::I32])
    {
        for (i, rows) in [1u64, 3, 70].into_iter().enumerate() {
            let shape = [rows, 256 * (i as u64 + 1)];
            let len = shape.iter().product::<u64>() as usize / dtype.weights() * dtype.size();
            let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            tensors.push((TensorSpec::new(format!("{}.{rows}", dtype.name()), dtype, shape), bytes));
        }
    }
    let weights: Vec<u8> = (0..1024 * 256).flat_map(|_| f16::from_f32(random.gaussian()).to_le_bytes()).collect();
    tensors.push((TensorSpec::new("weights", DType::F16, [1024, 256]), weights));
    for (name, weights, bytes) in [("Q8_K", 256, 292), ("NVFP4", 64, 36)] {
        let opaque = Opaque { name: name.to_owned(), bytes };
        let spec = TensorSpec::opaque(name, [weights], opaque);
        tensors.push((spec, (0..bytes).map(|_| random.below(256) as u8).collect()));
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "nothing-that-runs");
    let tensors: Vec<(TensorSpec, &[u8])> = tensors.iter().map(|(spec, bytes)| (spec.clone(), &bytes[..])).collect();
    write_gguf(path, &metadata, &tensors).expect("a GGUF");
}

#[test]
fn every_type_survives_also_of_unknown_models() {
    let folder = TempDir::new().expect("a folder");
    let model: PathBuf = folder.path().join("zoo.gguf");
    zoo(&model);
    let file = std::sync::Arc::new(encoded(&model, &folder, Target::Lossless));
    let out = folder.path().join("out");
    assert!(decode(&file, &out, false).expect("decodes").identical);
    assert!(fs::read(&model).expect("bytes") == fs::read(out.join("zoo.gguf")).expect("bytes"));
    let error =
        Model::load(&FileWeights::new(file.clone()).expect("assets"), &RunOptions::float()).err().expect("no graph");
    assert!(error.to_string().contains("config.json"), "{error}");
    // Blocks are given as they are.
    let weights = FileWeights::new(file.clone()).expect("assets");
    for dtype in DType::BLOCKS {
        let name = format!("{}.70", dtype.name());
        let found = weights.load_blocks(&name).expect("reads").expect("blocks");
        let mut values = vec![0.0; found.bytes.len() / dtype.size() * dtype.weights()];
        assert!(found.dtype == dtype && blocks::dequantize(dtype, &found.bytes, &mut values));
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
        assert!(bits(values) == bits(weights.load_f32(&name).expect("values")), "{name}");
    }
    assert_eq!(weights.load_blocks("F16.70").expect("reads"), None);
    // In a lossy file, only floats change.
    let lossy = encoded(&model, &folder, Target::BitsPerWeight(19.2));
    for name in ["I8.70", "I32.3", "Q8_K", "NVFP4"] {
        let bytes = |file: &File| file.tensor(name).expect("a tensor").bytes().expect("bytes");
        assert_eq!(bytes(&lossy), bytes(&file), "{name}");
    }
}
