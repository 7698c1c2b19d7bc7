//! A checkpoint: the tensors of one or more files and what rides along.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use impasto_core::DType;

use crate::asset::{Asset, INDEX, is_there, read_asset, read_assets};
use crate::atomic::join_inside;
use crate::error::{CheckpointError, one_line, shown};
use crate::gguf::{self, Metadata, Part, SplitRule, hf};
use crate::index::ShardIndex;
use crate::rules::{IndexRule, TensorRule};
use crate::shard::{Format, Shard};
use crate::tensor::TensorInfo;

/// The weights of a folder that has no shards.
const SINGLE: &str = "model.safetensors";

/// An opened checkpoint. Tensors are mapped, not read: memory holds what is touched.
#[derive(Debug)]
pub struct Checkpoint {
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    assets: Vec<Asset>,
    metadata: Option<Metadata>,
    notes: Vec<String>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a lone safetensors file, or a GGUF, and checks all headers.
    ///
    /// In a folder `model.safetensors` goes before `model.safetensors.index.json`, as in transformers, and both before a
    /// GGUF, of which it may hold one. A tensor that a shard holds but the index does not list belongs to the checkpoint.
    /// Any part of a split GGUF stands for all. A lone safetensors file has no assets, whatever lies beside it; those of a
    /// GGUF are made of its metadata, and of nothing beside it.
    ///
    /// The files are mapped; they must not be changed while the checkpoint is open.
    ///
    /// # Errors
    /// What the operating system refuses, and the first rule that a file breaks.
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let kind = fs::metadata(path).map_err(|error| CheckpointError::io(path, error))?;
        if !kind.is_dir() {
            return match Format::of_file(path)? {
                Format::Safetensors => Checkpoint::single(path, &name_of(path, SINGLE), Vec::new()),
                Format::Gguf => Checkpoint::gguf(path),
            };
        }
        if is_there(&path.join(SINGLE))? {
            Checkpoint::single(&path.join(SINGLE), SINGLE, read_assets(path)?)
        } else if is_there(&path.join(INDEX))? {
            Checkpoint::sharded(path)
        } else if let Some(file) = gguf::only_file(path)? {
            Checkpoint::gguf(&file)
        } else {
            Err(CheckpointError::NoWeights { folder: shown(path) })
        }
    }

    /// The tensors, sorted by name bytewise, however they are spread over shards.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of a name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let place = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        self.tensors.get(place)
    }

    /// The bytes of a tensor of this checkpoint: elements little-endian, row-major, from the map.
    ///
    /// # Panics
    /// May panic if the tensor is of another checkpoint.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.shards[tensor.shard].bytes(tensor)
    }

    /// Tells the operating system that the bytes of a tensor of this checkpoint are not needed for
    /// now, which bounds the resident memory of a pass over all tensors. They may still be read
    /// again. Best effort; nothing happens where the system has no such advice.
    ///
    /// # Panics
    /// May panic if the tensor is of another checkpoint.
    pub fn release(&self, tensor: &TensorInfo) {
        self.shards[tensor.shard].release(tensor);
    }

    /// The files that ride along, sorted by name.
    pub fn assets(&self) -> &[Asset] {
        &self.assets
    }

    /// The metadata of a GGUF as they are, of a split one those of its first part.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// What a GGUF would have as assets and does not, one line each with the reason.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The files of tensors, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Maps files of these paths and names. Returns the metadata of each GGUF beside the checkpoint.
    fn of_shards<'a>(
        files: impl IntoIterator<Item = (&'a Path, &'a str)>,
        format: Format,
    ) -> Result<(Checkpoint, Vec<Metadata>), CheckpointError> {
        let (mut shards, mut tensors, mut metadata) = (Vec::new(), Vec::new(), Vec::new());
        for (path, name) in files {
            let (shard, contents) = Shard::open(path, name, format)?;
            tensors.extend(contents.tensors.into_iter().map(|t| TensorInfo { shard: shards.len(), ..t }));
            metadata.extend(contents.metadata);
            shards.push(shard);
        }
        tensors.sort_unstable_by(|a, b| (&a.name, a.shard).cmp(&(&b.name, b.shard)));
        Ok((Checkpoint { shards, tensors, assets: Vec::new(), metadata: None, notes: Vec::new() }, metadata))
    }

    fn single(path: &Path, name: &str, assets: Vec<Asset>) -> Result<Checkpoint, CheckpointError> {
        let (checkpoint, _) = Checkpoint::of_shards([(path, name)], Format::Safetensors)?;
        Ok(Checkpoint { assets, ..checkpoint })
    }

    fn sharded(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        let index_asset = read_asset(folder, INDEX)?;
        let index_name = shown(&folder.join(INDEX));
        let index = ShardIndex::parse(&index_asset.bytes, &index_name)?;

        let mut files = Vec::new();
        for name in index.shard_names() {
            let broken = |rule| CheckpointError::index(&index_name, rule);
            let path = join_inside(folder, name).map_err(|_| broken(IndexRule::Escapes(one_line(name))))?;
            if !is_there(&path)? {
                return Err(broken(IndexRule::Missing(one_line(name))));
            }
            files.push((path, name));
        }
        let files = files.iter().map(|(path, name)| (path.as_path(), *name));
        let (mut checkpoint, _) = Checkpoint::of_shards(files, Format::Safetensors)?;
        checkpoint.check_distinct(&index_name)?;
        checkpoint.check_against(&index, &index_name)?;

        checkpoint.assets = read_assets(folder)?;
        checkpoint.assets.push(index_asset);
        checkpoint.assets.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(checkpoint)
    }

    /// A GGUF file, with all other parts if it is one of several.
    fn gguf(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let name = name_of(path, "model.gguf");
        let (mut checkpoint, mut metadata) = Checkpoint::of_shards([(path, &*name)], Format::Gguf)?;
        let part = metadata.first().map_or(Ok(None), |metadata| Part::of(metadata, &name));
        if let Some(part) = part.map_err(|rule| CheckpointError::header(&shown(path), rule.into()))? {
            (checkpoint, metadata) = Checkpoint::parts(path, &name, part)?;
        }
        let metadata = metadata.into_iter().next().unwrap_or_default();
        match hf::assets(&metadata, &checkpoint) {
            Ok(made) => (checkpoint.assets, checkpoint.notes) = (made.assets, made.notes),
            // The weights can be kept all the same.
            Err(rule) => checkpoint.notes.push(rule.to_string()),
        }
        checkpoint.metadata = Some(metadata);
        Ok(checkpoint)
    }

    /// All parts of a GGUF, given the path and name of one.
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

    /// Every tensor is in one shard only.
    fn check_distinct(&self, file_name: &str) -> Result<(), CheckpointError> {
        let Some(pair) = self.tensors.windows(2).find(|pair| pair[0].name == pair[1].name) else {
            return Ok(());
        };
        let (first, second) = (one_line(self.shard_name(&pair[0])), one_line(self.shard_name(&pair[1])));
        Err(CheckpointError::tensor(file_name, &pair[0].name, TensorRule::TwoShards { first, second }))
    }

    /// Every tensor of the index is in the shard it says.
    fn check_against(&self, index: &ShardIndex, index_name: &str) -> Result<(), CheckpointError> {
        for (name, file) in &index.weight_map {
            if self.tensor(name).is_none_or(|t| self.shard_name(t) != file) {
                return Err(CheckpointError::tensor(index_name, name, TensorRule::NotInShard(one_line(file))));
            }
        }
        Ok(())
    }

    fn shard_name(&self, tensor: &TensorInfo) -> &str {
        self.shards.get(tensor.shard).map_or("", Shard::name)
    }
}

/// What translating the metadata of a GGUF asks about its tensors.
impl hf::Tensors for Checkpoint {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.tensor(name).map(|tensor| tensor.shape.clone())
    }

    fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.tensor(name).filter(|tensor| tensor.dtype == DType::F32)?;
        Some(self.bytes(tensor).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}

/// The name of a lone file, or the usual one: a name that not every system can write could not be given back.
fn name_of<'a>(path: &'a Path, usual: &'static str) -> Cow<'a, str> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    if join_inside(Path::new(""), &name).is_ok() { name } else { usual.into() }
}
