//! Files in formats of engines: encoded, decoded, run and exported.

use std::collections::HashMap;
use std::path::Path;

use impasto::encode::{Formats, Layers, Options, Target, encode};
use impasto::export::{Form, Inputs, export};
use impasto::{Checkpoint, Cut, File, FileWeights, Format};
use impasto_core::{DType, values};
use impasto_model::WeightSource;

use crate::support::{open, tiny};

fn formats(text: &str) -> Formats {
    text.parse().expect("formats")
}

fn encoded(folder: &Path, options: &Options) -> std::path::PathBuf {
    let path = folder.join("x.impasto");
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    encode(&checkpoint, &path, options, &|_| std::ops::ControlFlow::Continue(())).expect("encodes");
    path
}

/// A tensor of an exported folder.
struct Found {
    dtype: DType,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

impl Found {
    fn floats(&self) -> Vec<f32> {
        let mut out = vec![];
        assert!(values::to_f32(self.dtype, &self.bytes, &mut out), "{:?}", self.dtype);
        out
    }
}

fn exported(file: &File, folder: &Path) -> (HashMap<String, Found>, serde_json::Value) {
    export(file, folder, None, Form::CompressedTensors(Inputs::Floats), false, &|_| {}).expect("exports");
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let found = |info: &impasto_checkpoint::TensorInfo| {
        let bytes = checkpoint.bytes(info).to_vec();
        (info.name.clone(), Found { dtype: info.dtype, shape: info.shape.clone(), bytes })
    };
    let config = std::fs::read(folder.join("config.json")).expect("config.json");
    let config = serde_json::from_slice(&config).expect("JSON");
    (checkpoint.tensors().iter().map(found).collect(), config)
}

/// Dequantizes a module as compressed-tensors does: codes times the scales of their groups, which are first divided by the
/// global scale, in binary32.
fn dequantized(tensors: &HashMap<String, Found>, module: &str, format: Format) -> Vec<f32> {
    const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let get = |suffix: &str| &tensors[&format!("{module}.{suffix}")];
    let nibbles = |bytes: &[u8]| -> Vec<u8> { bytes.iter().flat_map(|b| [b & 15, b >> 4]).collect() };
    let (rows, codes): (usize, Vec<f32>) = match format {
        Format::Mxfp4 | Format::Nvfp4 => {
            let packed = get("weight_packed");
            assert_eq!(packed.dtype, DType::U8);
            let value = |code: u8| if code & 8 != 0 { -E2M1[usize::from(code & 7)] } else { E2M1[usize::from(code)] };
            (packed.shape[0] as usize, nibbles(&packed.bytes).into_iter().map(value).collect())
        }
        Format::Int4 | Format::Int8 => {
            let packed = get("weight_packed");
            assert_eq!(packed.dtype, DType::I32);
            let shape: Vec<usize> =
                get("weight_shape").bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as usize).collect();
            let row = packed.bytes.len() / shape[0];
            let of_row = |row: &[u8]| -> Vec<f32> {
                let (numbers, bias) = if format == Format::Int4 { (nibbles(row), 8.0) } else { (row.to_vec(), 128.0) };
                numbers.into_iter().take(shape[1]).map(|n| f32::from(n) - bias).collect()
            };
            (shape[0], packed.bytes.chunks_exact(row).flat_map(of_row).collect())
        }
        Format::Fp8E4M3 | Format::Fp8E5M2 => (get("weight").shape[0] as usize, get("weight").floats()),
    };
    let scales = get("weight_scale");
    let scales: Vec<f32> = match format {
        Format::Mxfp4 => scales.bytes.iter().map(|&e| (f64::from(e) - 127.0).exp2() as f32).collect(),
        Format::Nvfp4 => {
            assert_eq!(scales.dtype, DType::F8E4M3);
            let global = get("weight_global_scale").floats()[0];
            scales.floats().iter().map(|scale| scale / global).collect()
        }
        _ => scales.floats(),
    };
    let columns = codes.len() / rows;
    let width = columns / (scales.len() / rows);
    codes
        .iter()
        .enumerate()
        .map(|(i, code)| code * scales[i / columns * (columns / width) + i % columns / width])
        .collect()
}

/// What an engine makes of the export are the weights of the file, bit for bit (after rounding to the dtype of the file).
#[test]
fn exports_have_the_weights_of_the_file() {
    for (format, layout) in [
        (Format::Int4, "pack-quantized"),
        (Format::Int8, "pack-quantized"),
        (Format::Mxfp4, "mxfp4-pack-quantized"),
        (Format::Nvfp4, "nvfp4-pack-quantized"),
        (Format::Fp8E4M3, "float-quantized"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { formats: formats(format.name()), ..Options::new(Target::Formats) };
        let file = open(&encoded(folder.path(), &options));
        let (tensors, config) = exported(&file, &folder.path().join("out"));
        let quantization = &config["quantization_config"];
        assert_eq!(quantization["format"], layout);
        // In int4, groups have 64 or 128 weights, as the columns allow.
        let groups = quantization["config_groups"].as_object().expect("groups");
        let targets = groups.values().flat_map(|group| group["targets"].as_array().expect("targets"));
        let targets: Vec<&str> = targets.map(|module| module.as_str().expect("a name")).collect();
        assert_eq!((targets.len(), groups.len()), (42, if format == Format::Int4 { 2 } else { 1 }));
        for module in targets {
            let weights = dequantized(&tensors, module, format);
            let wanted = file.tensor(&format!("{module}.weight")).expect("a tensor").bytes().expect("its bytes");
            let found: Vec<u8> = weights.iter().flat_map(|&w| half::bf16::from_f32(w).to_le_bytes()).collect();
            assert!(found == wanted, "{module} in {format:?}");
            if matches!(format, Format::Mxfp4 | Format::Nvfp4) {
                assert!(weights.iter().all(|&w| half::bf16::from_f32(w).to_f32() == w), "no rounding in {format:?}");
            }
        }
        let embedding = file.tensor("model.embed_tokens.weight").expect("a tensor").bytes().expect("its bytes");
        assert_eq!(tensors["model.embed_tokens.weight"].bytes, embedding);
        let source = Checkpoint::open(&tiny()).expect("the tiny model");
        let original = source.tensor("model.embed_tokens.weight").expect("a tensor");
        assert_eq!(source.bytes(original), embedding, "a tensor without a format is kept exactly");
    }
}

/// Sets of tensors have formats of their own; what the layout lacks is written as floats, with a note.
#[test]
fn mixed_formats() {
    let folder = tempfile::tempdir().expect("a folder");
    let chosen = formats("mlp=mxfp4,attention=fp8,v=fp8-e5m2,embeddings=int8");
    let options = Options { formats: chosen, ..Options::new(Target::Formats) };
    let file = open(&encoded(folder.path(), &options));
    let format = |name: &str| {
        let tensor = file.tensor(&format!("model.layers.3.{name}.weight")).expect("a tensor");
        tensor.header().and_then(|header| header.groups()).map(|groups| groups.format)
    };
    assert_eq!(format("mlp.down_proj"), Some(Format::Mxfp4));
    assert_eq!(format("self_attn.o_proj"), Some(Format::Fp8E4M3));
    assert_eq!(format("self_attn.v_proj"), Some(Format::Fp8E5M2));
    let out = folder.path().join("out");
    let notes =
        export(&file, &out, None, Form::CompressedTensors(Inputs::Floats), false, &|_| {}).expect("exports").notes;
    assert_eq!(notes.len(), 7, "{notes:?}");
    assert!(notes[0].starts_with("model.embed_tokens.weight: engines read embeddings as floats"), "{notes:?}");
    let config = std::fs::read_to_string(out.join("config.json")).expect("config.json");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["quantization_config"]["format"], "mixed-precision");
    assert_eq!(config["quantization_config"]["ignore"].as_array().map(Vec::len), Some(7));
}

/// A size is for tensors without a format; if there are none, it is an error, as are sets without tensors.
#[test]
fn sizes_and_formats() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { formats: formats("mlp=mxfp4"), ..Options::new(Target::BitsPerWeight(5.0)) };
    let path = encoded(folder.path(), &options);
    let length = std::fs::metadata(&path).expect("a file").len() as f64;
    let bits = length * 8.0 / open(&path).weights() as f64;
    assert!((4.97..=5.0).contains(&bits), "{bits}");
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    let refused = |options: Options| {
        let encoded = encode(&checkpoint, &folder.path().join("y"), &options, &|_| std::ops::ControlFlow::Continue(()));
        encoded.expect_err("refused").to_string()
    };
    let with = |text: &str, target| Options { formats: formats(text), ..Options::new(target) };
    assert!(refused(with("all=int8", Target::Size(9_000_000))).contains("request none"));
    assert!(refused(with("int8", Target::Lossless)).contains("formats are for lossy files"));
    assert!(refused(Options::new(Target::Formats)).contains("needs a format"));
    let mut unmeasured = formats("int4");
    unmeasured.fragile = Some(Format::Fp8E4M3);
    assert!(refused(Options { formats: unmeasured, ..Options::new(Target::Formats) }).contains("calibration"));
    let below = Layers { below: vec![impasto::encode::Extent::BitsPerWeight(2.0)], ..Layers::default() };
    assert!(refused(Options { layers: below, ..with("int4", Target::Formats) }).contains("no layer below"));
}

/// An exact layer stands above formats: the whole file is lossless, and a part of it is in the formats.
#[test]
fn an_exact_layer_above() {
    let folder = tempfile::tempdir().expect("a folder");
    let layers = Layers { exact: true, ..Layers::default() };
    let options = Options { formats: formats("all=nvfp4,q=int8"), layers, ..Options::new(Target::Formats) };
    let path = encoded(folder.path(), &options);
    let file = open(&path);
    let source = Checkpoint::open(&tiny()).expect("the tiny model");
    for info in source.tensors() {
        assert!(
            file.tensor(&info.name).expect("a tensor").bytes().expect("bytes") == source.bytes(info),
            "{}",
            info.name
        );
    }
    let refused =
        export(&file, &folder.path().join("whole"), None, Form::CompressedTensors(Inputs::Floats), false, &|_| {});
    assert!(refused.expect_err("exact").to_string().contains("no tensor has a format"));
    let mut base = open(&path);
    base.cut(&Cut::Layer(1)).expect("a cut");
    let single = folder.path().join("single");
    std::fs::create_dir(&single).expect("a folder");
    let alone = open(&encoded(&single, &Options { layers: Layers::default(), ..options }));
    let (found, _) = exported(&base, &folder.path().join("out"));
    let (wanted, _) = exported(&alone, &folder.path().join("alone"));
    assert_eq!(found.len(), wanted.len());
    assert!(found.iter().all(|(name, tensor)| tensor.bytes == wanted[name].bytes));
}

/// The runtime reads a tensor with a format as 16-bit floats, which are those that are decoded.
#[test]
fn weights_for_the_runtime() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { formats: formats("mxfp4"), ..Options::new(Target::Formats) };
    let path = encoded(folder.path(), &options);
    let weights = FileWeights::new(open(&path)).expect("weights");
    let name = "model.layers.1.mlp.up_proj.weight";
    assert!(weights.lattice(name).expect("no error").is_none(), "there are no steps of columns to pack it by");
    let bytes = open(&path).tensor(name).expect("a tensor").bytes().expect("bytes");
    let halves = weights.halves(name).expect("no error").expect("16-bit floats");
    let mut found = vec![];
    for (n, rows) in halves.tile_rows().into_iter().enumerate() {
        let mut row = vec![0; rows.len() * halves.shape()[1]];
        halves.read(n, &mut row).expect("a tile row");
        found.extend(row.iter().flat_map(|bits| bits.to_le_bytes()));
    }
    assert!(found == bytes);
    let coded = weights.coded(name).expect("no error").expect("coded");
    let (mut row, mut values) = (vec![], vec![]);
    coded.read(0, &mut row).expect("a tile row");
    assert!(impasto_core::values::to_f32(DType::Bf16, &bytes, &mut values));
    assert_eq!(row[..], values[..row.len()]);
}
