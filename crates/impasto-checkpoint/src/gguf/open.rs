//! Opens a GGUF as a checkpoint: maps its parts and translates its metadata to assets.

use std::path::{Path, PathBuf};

use impasto_core::DType;

use super::split::Part;
use super::{Metadata, SplitRule, hf};
use crate::asset::is_there;
use crate::checkpoint::{Checkpoint, name_of};
use crate::error::{CheckpointError, shown};
use crate::shard::Format;

impl Checkpoint {
    /// Opens a GGUF file, with all parts if it is split.
    pub(crate) fn gguf(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let name = name_of(path, "model.gguf");
        let (mut checkpoint, mut metadata) = Checkpoint::of_shards([(path, &*name)], Format::Gguf)?;
        let part = metadata.first().map_or(Ok(None), |metadata| Part::of(metadata, &name));
        if let Some(part) = part.map_err(|rule| CheckpointError::header(&shown(path), rule.into()))? {
            (checkpoint, metadata) = Checkpoint::parts(path, &name, part)?;
        }
        let metadata = metadata.into_iter().next().unwrap_or_default();
        let made = hf::assets(&metadata, &checkpoint);
        checkpoint.notes = made.notes();
        (checkpoint.assets, checkpoint.absent) = (made.assets, made.absent);
        checkpoint.metadata = Some(metadata);
        Ok(checkpoint)
    }

    /// Opens all parts of a GGUF, given the path and name of one.
    fn parts(path: &Path, name: &str, part: Part) -> Result<(Checkpoint, Vec<Metadata>), CheckpointError> {
        let broken = |path: &Path, rule: SplitRule| CheckpointError::header(&shown(path), rule.into());
        let names = part.names(name);
        let paths: Vec<PathBuf> = names.iter().map(|name| path.with_file_name(name)).collect();
        for (path_of_part, name) in paths.iter().zip(&names) {
            if !is_there(path_of_part)? {
                return Err(broken(path, part.missing(name)));
            }
        }
        let files = paths.iter().zip(&names).map(|(path, name)| (path.as_path(), name.as_str()));
        let (checkpoint, metadata) = Checkpoint::of_shards(files, Format::Gguf)?;
        for (shard, metadata) in checkpoint.shards.iter().zip(&metadata) {
            Part::of(metadata, shard.name()).map_err(|rule| broken(shard.path(), rule))?;
        }
        checkpoint.check_distinct(&shown(path))?;
        if let Some(first) = metadata.first() {
            let held = checkpoint.tensors.len() as u64;
            part.check_tensors(first, held).map_err(|rule| broken(path, rule))?;
        }
        Ok((checkpoint, metadata))
    }
}

/// The tensors of a GGUF, for the translation of its metadata.
impl hf::Tensors for Checkpoint {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.tensor(name).map(|tensor| tensor.shape.clone())
    }

    fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.tensor(name).filter(|tensor| tensor.dtype == DType::F32)?;
        Some(self.bytes(tensor).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}
