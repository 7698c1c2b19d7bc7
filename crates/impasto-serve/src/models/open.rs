//! Opens files and checkpoints.

use std::path::{Path, PathBuf};

use impasto::format::Limits;
use impasto::{Bases, Checkpoint, CheckpointWeights, Cut, File, hex, is_impasto, weights_of};
use impasto_model::WeightSource;
use impasto_runtime::{Model, RunOptions};
use impasto_text::chat::{TEMPLATE_FILE, TOKENIZER_CONFIG};
use serde_json::Value;

use super::catalog::CatalogError;

/// How models are opened: the same for all.
#[derive(Clone, Debug)]
pub struct Opener {
    /// Where bases are found.
    pub bases: Bases,
    /// The memory limit for reading a tensor.
    pub memory_limit: u64,
    /// Limits of files.
    pub limits: Limits,
}

/// What is known of a model before it is loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opening {
    /// Bytes of the file; 0 if it is a folder.
    pub bytes: u64,
    /// Number of weights; 0 if it is not known.
    pub weights: u64,
    /// Whether all of its tensors have the bits of the checkpoint.
    pub is_exact: bool,
    /// Whether it has a chat template, if that is known.
    pub chat: Option<bool>,
    /// The most tokens of a text, if that is known.
    pub context: Option<usize>,
    /// Its layers, the coarsest first: bytes, KL divergence if it was measured, and whether all of it is there. Never empty.
    pub layers: Vec<(u64, Option<f32>, bool)>,
    /// The root of the file, if it is one of this format.
    pub root: Option<String>,
    /// The root of its base, if it is a delta.
    pub base: Option<String>,
}

impl Opener {
    /// Looks at a model.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn look(&self, path: &Path) -> Result<Opening, CatalogError> {
        let failed =
            |error: &dyn std::fmt::Display| CatalogError::Load { model: name(path), reason: error.to_string() };
        let bytes = std::fs::metadata(path).map_err(|error| failed(&error))?;
        let bytes = if bytes.is_dir() { 0 } else { bytes.len() };
        if !is_impasto(path).map_err(|error| failed(&error))? {
            Checkpoint::open(path).map_err(|error| failed(&error))?;
            return Ok(Opening { bytes, layers: vec![(bytes, None, true)], ..Opening::default() });
        }
        let file = File::open_within(path, &self.limits).map_err(|error| failed(&error))?;
        Ok(Opening::of(&file, bytes))
    }

    /// Loads a model, up to a layer of its file, with coarser layers beside it.
    ///
    /// # Errors
    /// If it cannot be opened or loaded.
    pub fn load(
        &self,
        path: &Path,
        coarser: &[usize],
        cut: Option<&Cut>,
        options: &RunOptions,
    ) -> Result<Model, LoadError> {
        if is_impasto(path).map_err(|error| LoadError::other(&error))? {
            let coarser = coarser.iter().map(|&layer| self.weights(path, Some(&Cut::Layer(layer))));
            let all = coarser.chain([self.weights(path, cut)]).collect::<Result<Vec<_>, _>>()?;
            let all: Vec<&dyn WeightSource> = all.iter().map(|weights| &**weights as &dyn WeightSource).collect();
            return Model::load_layers(&all, options).map_err(LoadError::from);
        }
        let checkpoint = Checkpoint::open(path).map_err(|error| LoadError::other(&error))?;
        Model::load(&CheckpointWeights::new(&checkpoint), options).map_err(LoadError::from)
    }

    /// Loads a delta, which shares its weights with a base that is in memory.
    ///
    /// # Errors
    /// If it cannot be opened or loaded, or the model is not its base.
    pub fn load_over(&self, base: &Model, base_path: &Path, path: &Path) -> Result<Model, LoadError> {
        let bases = Bases::new(vec![base_path.to_owned()]).within(self.limits.clone(), self.memory_limit);
        let opener = Opener { bases, ..self.clone() };
        base.load_over(&*opener.weights(path, None)?).map_err(LoadError::from)
    }

    /// Returns the weights of a file, up to a layer of it.
    ///
    /// # Errors
    /// If it cannot be opened, or does not have the layer.
    pub fn weights(&self, path: &Path, cut: Option<&Cut>) -> Result<Box<dyn WeightSource + Send>, LoadError> {
        let mut file = self.bases.open(path).map_err(|error| LoadError::other(&error))?;
        if let Some(cut) = cut {
            file.cut(cut).map_err(|error| LoadError::other(&error))?;
        }
        weights_of(file).map_err(|error| LoadError::other(&error))
    }
}

impl Opening {
    /// Describes a file that has `bytes` bytes.
    pub fn of<S: impasto::format::Source>(file: &File<S>, bytes: u64) -> Opening {
        let mut layers: Vec<_> =
            file.layers().into_iter().map(|layer| (layer.bytes, layer.kld, layer.is_whole)).collect();
        if layers.is_empty() {
            layers.push((bytes, None, true));
        }
        let root = Some(hex(&file.reader().header().root));
        let base = file.base().map(|base| hex(&base.root));
        let json = |name| serde_json::from_slice::<Value>(&file.asset(name).ok()??).ok();
        let in_config = || json(TOKENIZER_CONFIG).is_some_and(|config| !config["chat_template"].is_null());
        let chat = file.asset_names().any(|name| name == TEMPLATE_FILE) || in_config();
        let context = json("config.json").and_then(|config| config["max_position_embeddings"].as_u64());
        let context = context.and_then(|context| usize::try_from(context).ok());
        let is_exact = file.tensor_names().all(|name| file.is_exact(name));
        Opening { bytes, weights: file.weights(), is_exact, chat: Some(chat), context, layers, root, base }
    }

    /// Returns the bits per weight up to each layer; 0 if the number of weights is not known.
    pub fn bits(&self) -> Vec<f64> {
        let bits = |bytes: u64| if self.weights == 0 { 0.0 } else { bytes as f64 * 8.0 / self.weights as f64 };
        self.layers.iter().map(|&(bytes, ..)| bits(bytes)).collect()
    }
}

/// Why a model was not loaded.
#[derive(Debug)]
pub enum LoadError {
    /// It takes more memory than there is.
    Memory(String),
    /// Another reason.
    Other(String),
}

impl LoadError {
    fn other(error: &dyn std::fmt::Display) -> LoadError {
        LoadError::Other(error.to_string())
    }
}

impl From<impasto_runtime::RuntimeError> for LoadError {
    fn from(error: impasto_runtime::RuntimeError) -> LoadError {
        use impasto_model::ModelError;
        use impasto_runtime::RuntimeError;

        match &error {
            RuntimeError::Model(ModelError::MemoryLimit { .. } | ModelError::Memory { .. }) => {
                LoadError::Memory(error.to_string())
            }
            _ => LoadError::Other(error.to_string()),
        }
    }
}

/// Returns the name of a file without its folder, for messages: clients must not learn where it is.
pub fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| PathBuf::from(path), PathBuf::from).display().to_string()
}
