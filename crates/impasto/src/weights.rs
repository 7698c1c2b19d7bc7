//! Files and checkpoints as sources of a model's weights.

use std::collections::HashMap;

use impasto_checkpoint::Checkpoint;
use impasto_codec::DType;
use impasto_container::Source;
use impasto_model::WeightSource;

use crate::error::FileError;
use crate::file::File;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Assets that a model needs to run.
const ASSETS: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// The weights of an .impasto file, its small assets read at once so that a damaged one is an error and not a missing one.
pub struct FileWeights<'a, S> {
    file: &'a File<S>,
    assets: HashMap<&'static str, Vec<u8>>,
}

impl<'a, S: Source> FileWeights<'a, S> {
    /// Reads the assets.
    ///
    /// # Errors
    /// If one is there but cannot be read.
    pub fn new(file: &'a File<S>) -> Result<Self, FileError> {
        let mut assets = HashMap::new();
        for name in ASSETS {
            if let Some(bytes) = file.asset(name)? {
                assets.insert(name, bytes);
            }
        }
        Ok(FileWeights { file, assets })
    }
}

impl<S: Source> WeightSource for FileWeights<'_, S> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        let reader = self.file.reader();
        Some(reader.objects()[reader.find_tensor(name)? as usize].tensor()?.dims.clone())
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let tensor = self.file.tensor(name)?;
        let dtype = tensor.dtype();
        to_f32(dtype, tensor.bytes()?).ok_or_else(|| {
            let file = self.file.reader().name().to_owned();
            FileError::NotFloat { file, name: name.to_owned(), dtype: dtype.name() }.into()
        })
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.assets.get(name).cloned()
    }
}

/// The weights of a checkpoint.
pub struct CheckpointWeights<'a>(pub &'a Checkpoint);

impl WeightSource for CheckpointWeights<'_> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.0.tensor(name).map(|t| t.shape.clone())
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let tensor = self.0.tensor(name).ok_or_else(|| format!("there is no tensor {name:?}"))?;
        let values = to_f32(tensor.dtype, self.0.bytes(tensor).to_vec());
        self.0.release(tensor);
        values.ok_or_else(|| format!("tensor {name:?} is {}: only F32, F16 and BF16 run", tensor.dtype.name()).into())
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.0.assets().iter().find(|asset| asset.name == name).map(|asset| asset.bytes.clone())
    }
}

/// Little-endian floats as binary32; `None` for other dtypes.
fn to_f32(dtype: DType, bytes: Vec<u8>) -> Option<Vec<f32>> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    Some(match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        DType::Bf16 => pairs().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        DType::F16 => pairs().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect(),
        _ => return None,
    })
}
