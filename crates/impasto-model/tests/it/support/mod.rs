//! Weight sources for the tests of this crate and of dependent crates: a folder with one safetensors file, and a table
//! in memory.

pub mod tamper;
pub mod transformers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use impasto_model::config::DecoderConfig;
use impasto_model::decoder::Decoder;
use impasto_model::{ModelError, WeightSource};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A folder with `model.safetensors`, read into memory.
pub struct Folder {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Folder {
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
        Self { path, bytes }
    }

    pub fn golden(name: &str) -> Self {
        Self::open(golden().join(name))
    }

    /// The tiny model of this repository.
    pub fn tiny() -> Self {
        Self::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny"))
    }

    /// All tensors and assets in memory, for modification.
    pub fn table(&self) -> Table {
        let parsed = SafeTensors::deserialize(&self.bytes).unwrap();
        let names = parsed.names().into_iter().map(String::from);
        let tensors = names.map(|n| (n.clone(), (self.shape(&n).unwrap(), self.load_f32(&n).unwrap()))).collect();
        let assets = std::fs::read_dir(&self.path).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        let assets = assets.filter_map(|n| Some((n.clone(), self.asset(&n)?))).collect();
        Table { tensors, assets }
    }
}

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto-model/tests/golden")
}

impl WeightSource for Folder {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        let parsed = SafeTensors::deserialize(&self.bytes).ok()?;
        Some(parsed.tensor(name).ok()?.shape().iter().map(|&d| d as u64).collect())
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let parsed = SafeTensors::deserialize(&self.bytes)?;
        let view = parsed.tensor(name)?;
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            Dtype::BF16 => Ok(data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            other => Err(format!("dtype {other:?}").into()),
        }
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path.join(name)).ok()
    }
}

/// The reference decoder of a source.
pub fn decoder(source: &dyn WeightSource, threads: usize) -> Result<Decoder, ModelError> {
    let config = source.asset("config.json").expect("a configuration");
    Decoder::load(source, DecoderConfig::from_json(&config)?, threads)
}

/// Values of the tensor `name` of a golden model whose weights are not stored: `weights` in tools/make_goldens.py.
pub fn generated(name: &str, shape: &[u64], norm_mean: f64) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let uniform = |i: u64| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    let value = |u: f64| match shape {
        _ if name.contains("norm") => norm_mean + 0.4 * u,
        [_] => 0.5 * u,
        [_, columns] => u * (2.5 / (*columns as f64).sqrt()),
        _ => panic!("{name}: a vector or a matrix"),
    };
    (1..=shape.iter().product()).map(|i| value(uniform(i)) as f32).collect()
}

/// A tiny model of one family and its results in transformers (tests/golden/families).
pub struct Family {
    pub name: String,
    pub table: Table,
    pub tokens: Vec<u32>,
    /// Numbers of leading tokens, each with the logits of transformers for them.
    pub runs: Vec<(usize, Vec<f32>)>,
}

impl Family {
    pub fn open(name: &str) -> Self {
        let path = golden().join("families").join(name);
        let config = std::fs::read(path.join("config.json")).unwrap();
        let golden: Value = serde_json::from_slice(&std::fs::read(path.join("golden.json")).unwrap()).unwrap();
        let numbers = |v: &Value| -> Vec<u64> { v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect() };
        let mean = golden["norm_mean"].as_f64().unwrap();
        let tensor = |(name, shape): (&String, &Value)| {
            let shape = numbers(shape);
            let values = generated(name, &shape, mean);
            (name.clone(), (shape, values))
        };
        let tensors = golden["tensors"].as_object().unwrap().iter().map(tensor).collect();
        let vocab = serde_json::from_slice::<Value>(&config).unwrap()["vocab_size"].as_u64().unwrap() as usize;
        let raw = std::fs::read(path.join("logits.f32")).unwrap();
        let mut logits = raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let run = |n: u64| (n as usize, logits.by_ref().take(n as usize * vocab).collect());
        Self {
            name: name.into(),
            table: Table { tensors, assets: [("config.json".into(), config)].into() },
            tokens: numbers(&golden["tokens"]).into_iter().map(|t| t as u32).collect(),
            runs: numbers(&golden["runs"]).into_iter().map(run).collect(),
        }
    }

    pub fn all() -> Vec<Self> {
        let folder = golden().join("families");
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.iter().map(|name| Self::open(name)).collect()
    }

    pub fn config(&self) -> Value {
        serde_json::from_slice(&self.table.assets["config.json"]).unwrap()
    }

    /// Returns the same model with a modified configuration.
    pub fn with_config(&self, change: impl FnOnce(&mut Value)) -> Table {
        let mut config = self.config();
        change(&mut config);
        let mut table = self.table.clone();
        table.assets.insert("config.json".into(), serde_json::to_vec(&config).unwrap());
        table
    }
}

/// Tensors and assets in memory.
#[derive(Clone, Default)]
pub struct Table {
    pub tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    pub assets: BTreeMap<String, Vec<u8>>,
}

impl WeightSource for Table {
    fn tensor_names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        Some(self.tensors.get(name)?.0.clone())
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        Ok(self.tensors.get(name).ok_or("absent")?.1.clone())
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.assets.get(name).cloned()
    }
}
