//! Weight sources for the tests: a folder with one safetensors file, and a table in memory.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use impasto_model::WeightSource;
use safetensors::{Dtype, SafeTensors};

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

    /// The tiny model of the repository.
    pub fn tiny() -> Self {
        Self::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny"))
    }

    /// All tensors and assets in memory, to be tampered with.
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
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

/// Tensors and assets in memory.
#[derive(Clone, Default)]
pub struct Table {
    pub tensors: BTreeMap<String, (Vec<u64>, Vec<f32>)>,
    pub assets: BTreeMap<String, Vec<u8>>,
}

impl WeightSource for Table {
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
