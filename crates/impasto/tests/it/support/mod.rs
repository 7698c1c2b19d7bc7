//! Checkpoints for tests: generated from a seed, written as a Hugging Face folder, encoded.

pub mod fuzz_bodies;
pub mod layered;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use impasto::encode::{EncodeBase, EncodeError, Options, Report, Target, encode};
use impasto::export::{Exported, Form, export};
use impasto::{Bases, Checkpoint, File, FileError};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_container::Source;
use impasto_core::DType;
use tempfile::TempDir;

/// A small random number generator that is the same on all machines (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }

    /// Returns a number from 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// Returns an approximately standard normal number: a sum of eight uniform ones.
    pub fn gaussian(&mut self) -> f32 {
        let sum: f64 = (0..8).map(|_| self.bits() as f64 / u64::MAX as f64 - 0.5).sum();
        (sum * (1.5f64).sqrt()) as f32
    }
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn new(name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Tensor {
        let tensor = Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes };
        assert_eq!(tensor.bytes.len(), tensor.elements() * dtype.size(), "{name}");
        tensor
    }

    /// Creates a tensor from floats.
    pub fn floats(name: &str, dtype: DType, shape: &[u64], values: impl IntoIterator<Item = f32>) -> Tensor {
        Tensor::new(name, dtype, shape, to_bytes(dtype, values))
    }

    /// Creates realistic weights: Gaussian with row and column scales.
    pub fn weights(name: &str, dtype: DType, shape: &[u64], seed: u64) -> Tensor {
        let mut random = Random(seed);
        let columns = shape.last().copied().unwrap_or(1).max(1) as usize;
        let scale = |random: &mut Random| (random.gaussian() * 0.3).exp();
        let column_scales: Vec<f32> = (0..columns).map(|_| scale(&mut random)).collect();
        let rows = shape.iter().product::<u64>() as usize / columns;
        let mut values = Vec::with_capacity(rows * columns);
        for _ in 0..rows {
            let row = 0.04 * scale(&mut random);
            values.extend(column_scales.iter().map(|c| c * row * random.gaussian()));
        }
        Tensor::floats(name, dtype, shape, values)
    }

    /// Creates a tensor with random bits.
    pub fn noise(name: &str, dtype: DType, shape: &[u64], seed: u64) -> Tensor {
        let mut random = Random(seed);
        let n = shape.iter().product::<u64>() as usize * dtype.size();
        Tensor::new(name, dtype, shape, (0..n).map(|_| random.bits() as u8).collect())
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }

    pub fn values(&self) -> Vec<f32> {
        to_values(self.dtype, &self.bytes)
    }
}

pub fn to_bytes(dtype: DType, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let values = values.into_iter();
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::Bf16 => values.flat_map(|w| bf16::from_f32(w).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|w| f16::from_f32(w).to_le_bytes()).collect(),
        other => panic!("{other:?} has no such floats"),
    }
}

pub fn to_values(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        DType::Bf16 => pairs().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        DType::F16 => pairs().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        other => panic!("{other:?} has no such floats"),
    }
}

/// A checkpoint in a temporary folder, with room for other files.
pub struct Model {
    pub folder: TempDir,
    pub path: PathBuf,
    pub tensors: Vec<Tensor>,
}

impl Model {
    /// Writes one `model.safetensors`.
    pub fn single(tensors: Vec<Tensor>) -> Model {
        let model = Model::empty(tensors);
        write(&model.path.join("model.safetensors"), &model.tensors.iter().collect::<Vec<_>>());
        model
    }

    /// Writes `shards` files with an index, and distributes the tensors round-robin.
    pub fn sharded(tensors: Vec<Tensor>, shards: usize) -> Model {
        let model = Model::empty(tensors);
        let name = |i: usize| format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
        let mut map = Vec::new();
        for shard in 0..shards {
            let inside: Vec<&Tensor> = model.tensors.iter().skip(shard).step_by(shards).collect();
            write(&model.path.join(name(shard)), &inside);
            map.extend(inside.iter().map(|t| format!("{:?}:{:?}", t.name, name(shard))));
        }
        let index = format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, map.join(","));
        fs::write(model.path.join("model.safetensors.index.json"), index).expect("the index");
        model
    }

    fn empty(tensors: Vec<Tensor>) -> Model {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model");
        fs::create_dir(&path).expect("a folder");
        fs::write(path.join("config.json"), r#"{"model_type":"test"}"#).expect("a file");
        fs::write(path.join("generation_config.json"), "{}").expect("a file");
        Model { folder, path, tensors }
    }

    /// Writes the tiny model with 32-bit float weights, so that lattice weights are not rounded to a dtype.
    pub fn wide_tiny() -> Model {
        let tiny = Checkpoint::open(&tiny()).expect("the tiny model");
        let wide = |t: &impasto_checkpoint::TensorInfo| {
            Tensor::floats(&t.name, DType::F32, &t.shape, to_values(t.dtype, tiny.bytes(t)))
        };
        let model = Model::single(tiny.tensors().iter().map(wide).collect());
        for asset in tiny.assets() {
            fs::write(model.path.join(&asset.name), &asset.bytes).expect("an asset");
        }
        model
    }

    /// Returns the path of a file with this name.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn encode(&self, name: &str, target: Target) -> Result<Report, EncodeError> {
        self.encode_with(name, target, 0)
    }

    pub fn encode_with(&self, name: &str, target: Target, threads: usize) -> Result<Report, EncodeError> {
        encode_to(&self.path, &self.file(name), target, threads)
    }
}

pub fn encode_to(model: &Path, file: &Path, target: Target, threads: usize) -> Result<Report, EncodeError> {
    let checkpoint = Checkpoint::open(model).expect("a good checkpoint");
    encode(&checkpoint, file, &Options { threads, ..Options::new(target) }, &|_| ControlFlow::Continue(()))
}

/// Encodes a model over a base, if one is named, with these options.
pub fn encode_over(model: &Path, path: &Path, base: Option<&Path>, options: Options) -> Report {
    let base = base.map(|base| {
        let file = Bases::default().open(base).expect("opens");
        let name = file.model_name();
        let base = EncodeBase::new(Arc::new(file), name, "mit".into(), vec![]).expect("complete");
        Arc::new(base) as _
    });
    let checkpoint = Checkpoint::open(model).expect("a checkpoint");
    let options = Options { base, ..options };
    encode(&checkpoint, path, &options, &|_| ControlFlow::Continue(())).expect("encodes")
}

/// Restores the checkpoint of a file.
pub fn decode<S: Source>(file: &File<S>, folder: &Path, replace: bool) -> Result<Exported, FileError> {
    export(file, folder, None, Form::Original, replace, &|_| ())
}

fn write(path: &Path, tensors: &[&Tensor]) {
    let spec = |t: &Tensor| TensorSpec::new(t.name.clone(), t.dtype, t.shape.clone());
    let tensors: Vec<(TensorSpec, &[u8])> = tensors.iter().map(|t| (spec(t), &t.bytes[..])).collect();
    write_safetensors(path, Some(&[("format".into(), "pt".into())]), &tensors).expect("a shard");
}

/// Returns the path of the tiny model that is built into the command.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny")
}

/// Some matrices of the tiny model, with a sixth of its weights: for tests that encode many times.
pub fn few_of_tiny() -> Model {
    let checkpoint = impasto::Checkpoint::open(&tiny()).expect("the tiny model");
    let few = checkpoint.tensors().iter().filter(|tensor| tensor.name.contains("layers.0."));
    let few = few.map(|t| Tensor::new(&t.name, t.dtype, &t.shape, checkpoint.bytes(t).to_vec()));
    let rows = Tensor::weights("model.embed_tokens.weight", DType::Bf16, &[512, 192], 1);
    Model::single(few.chain([rows]).collect())
}

pub fn open(path: &Path) -> File {
    File::open(path).expect("a good file")
}

/// Returns the files below a folder with their contents, by relative name.
pub fn listing(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(listing(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.push((name, fs::read(&path).expect("a file")));
        }
    }
    files.sort();
    files
}

/// Returns tensors with every dtype, shape and content that might be a special case.
pub fn zoo() -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for (i, dtype) in DType::PLAIN.into_iter().enumerate() {
        let (name, seed) = (dtype.name(), i as u64);
        tensors.push(Tensor::noise(&format!("{name}.noise"), dtype, &[70, 90], seed));
        tensors.push(Tensor::noise(&format!("{name}.scalar"), dtype, &[], seed + 100));
        tensors.push(Tensor::noise(&format!("{name}.none"), dtype, &[3, 0, 5], 0));
        tensors.push(Tensor::noise(&format!("{name}.small"), dtype, &[7], seed + 200));
        tensors.push(Tensor::new(&format!("{name}.zero"), dtype, &[80, 80], vec![0; 6400 * dtype.size()]));
        let one = Tensor::noise("", dtype, &[1], seed + 300).bytes;
        tensors.push(Tensor::new(&format!("{name}.constant"), dtype, &[65, 129], one.repeat(65 * 129)));
    }
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let name = |what: &str| format!("{}.{what}", dtype.name());
        tensors.push(Tensor::weights(&name("linear"), dtype, &[192, 160], 1));
        tensors.push(Tensor::weights(&name("row"), dtype, &[1, 9000], 2));
        tensors.push(Tensor::weights(&name("column"), dtype, &[9000, 1], 3));
        tensors.push(Tensor::weights(&name("vector"), dtype, &[6000], 4));
        tensors.push(Tensor::weights(&name("convolution"), dtype, &[48, 40, 3], 5));
        tensors.push(Tensor::weights(&name("image"), dtype, &[24, 8, 5, 5], 6));
        tensors.push(Tensor::weights(&name("experts"), dtype, &[4, 48, 64], 7));
        let tied = Tensor::weights(&name("tied"), dtype, &[96, 64], 8);
        tensors.push(Tensor { name: name("a.tied.again"), ..tied.clone() });
        tensors.push(tied);
        tensors.push(special(&name("special"), dtype));
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// Returns weights that include NaNs with payloads, infinities, both zeros, subnormals and the largest numbers.
pub fn special(name: &str, dtype: DType) -> Tensor {
    let mut tensor = Tensor::weights(name, dtype, &[100, 70], 9);
    let (size, mut random) = (dtype.size(), Random(10));
    let odd: Vec<u64> = match dtype {
        DType::F32 => {
            vec![0x7FC0_1234, 0xFF80_0001, 0x7F80_0000, 0xFF80_0000, 0x8000_0000, 0, 1, 0x807F_FFFF, 0x7F7F_FFFF]
        }
        DType::F16 => vec![0x7E12, 0xFC01, 0x7C00, 0xFC00, 0x8000, 0, 1, 0x83FF, 0x7BFF],
        _ => vec![0x7FC5, 0xFF81, 0x7F80, 0xFF80, 0x8000, 0, 1, 0x807F, 0x7F7F],
    };
    for bits in odd.iter().cycle().take(90) {
        let at = random.below(7000) as usize * size;
        tensor.bytes[at..at + size].copy_from_slice(&bits.to_le_bytes()[..size]);
    }
    tensor
}
