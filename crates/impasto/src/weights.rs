//! Files and checkpoints as sources of a model's weights.

use std::collections::HashMap;

use impasto_checkpoint::Checkpoint;
use impasto_container::Source;
use impasto_model::WeightSource;

use crate::error::FileError;
use crate::file::File;
use crate::view::{View, hf_values};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Assets that a model needs to run.
const ASSETS: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// The weights of an .impasto file, its small assets read at once so that a damaged one is an error and not a missing one.
pub struct FileWeights<'a, S> {
    file: &'a File<S>,
    view: View,
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
        Ok(FileWeights { file, view: View::of_file(file)?, assets })
    }
}

impl<S: Source> WeightSource for FileWeights<'_, S> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        Some(self.file.meta(&self.view.origin(name)?.name).ok()?.dims.clone())
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let origin = self.view.origin(name).ok_or_else(|| self.file.missing(name))?;
        let tensor = self.file.tensor(&origin.name)?;
        let values = hf_values(tensor.dtype(), &tensor.bytes()?, columns(tensor.shape()), origin.change);
        values.ok_or_else(|| {
            let dtype = self.file.meta(&origin.name).map_or("", |meta| meta.dtype_name()).to_owned();
            FileError::NotFloat { file: self.file.reader().name().to_owned(), name: name.to_owned(), dtype }.into()
        })
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.assets.get(name).cloned()
    }
}

/// The weights of a checkpoint.
pub struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    view: View,
}

impl<'a> CheckpointWeights<'a> {
    /// Those of `checkpoint`.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        CheckpointWeights { checkpoint, view: View::of_checkpoint(checkpoint) }
    }
}

impl WeightSource for CheckpointWeights<'_> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.checkpoint.tensor(&self.view.origin(name)?.name).map(|t| t.shape.clone())
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let found = self.view.origin(name).and_then(|origin| Some((origin, self.checkpoint.tensor(&origin.name)?)));
        let (origin, tensor) = found.ok_or_else(|| format!("there is no tensor {name:?}"))?;
        let values = hf_values(tensor.dtype, self.checkpoint.bytes(tensor), columns(&tensor.shape), origin.change);
        self.checkpoint.release(tensor);
        let dtype = tensor.type_name.as_deref().unwrap_or(tensor.dtype.name());
        values.ok_or_else(|| format!("tensor {name:?} is {dtype}, which has no weights to run").into())
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.checkpoint.assets().iter().find(|asset| asset.name == name).map(|asset| asset.bytes.clone())
    }
}

/// Weights in a row.
fn columns(shape: &[u64]) -> usize {
    shape.last().map_or(1, |&n| n as usize)
}
