//! A checkpoint: the tensors of one or more files, and the assets.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use impasto_core::files::folder_of;
use impasto_core::name;

use crate::asset::{Asset, Files, INDEX, is_there, read_asset};
use crate::error::{CheckpointError, one_line, shown};
use crate::gguf::Metadata;
use crate::index::ShardIndex;
use crate::rules::{IndexRule, TensorRule};
use crate::shard::{Format, Shard};
use crate::tensor::TensorInfo;

/// The weights file of a folder without shards.
const SINGLE: &str = "model.safetensors";
/// The only safetensors file in a folder of an adapter (PEFT).
const ADAPTER: &str = "adapter_model.safetensors";

/// An open checkpoint. Files are mapped, so memory holds only the pages that are used.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) shards: Vec<Shard>,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) assets: Vec<Asset>,
    #[cfg(feature = "gguf")]
    pub(crate) metadata: Option<Metadata>,
    /// Names of assets that could not be derived from a GGUF, and why.
    pub(crate) absent: Vec<(&'static str, String)>,
    pub(crate) notes: Vec<String>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a single safetensors file, or a GGUF, and checks all headers.
    ///
    /// In a folder, `model.safetensors` has precedence over `model.safetensors.index.json`, as in transformers, and
    /// both over a GGUF, of which there may be only one. Tensors that a shard contains but the index does not list are
    /// included. Any part of a split GGUF opens all parts. A single safetensors file has no assets; if there are
    /// some in its folder, a note says so. Those of a GGUF come from its metadata only.
    ///
    /// The files are mapped, and must not change while the checkpoint is open. If one becomes shorter,
    /// [`Checkpoint::check`] returns an error.
    ///
    /// # Errors
    /// On an I/O error, or if a file violates a rule of its format.
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let kind = fs::metadata(path).map_err(|error| CheckpointError::io(path, error))?;
        if !kind.is_dir() {
            return match Format::of_file(path)? {
                Format::Safetensors => Checkpoint::alone(path),
                Format::Gguf => Checkpoint::gguf(path),
            };
        }
        let whole = |name: &str| {
            let files = Files::of(path)?;
            Ok(Checkpoint::single(&path.join(name), name, files.assets()?)?.of_folder(&files))
        };
        if is_there(&path.join(SINGLE))? {
            whole(SINGLE)
        } else if is_there(&path.join(INDEX))? {
            Checkpoint::sharded(path)
        } else if is_there(&path.join(ADAPTER))? {
            whole(ADAPTER)
        } else {
            Checkpoint::of_folder_without_safetensors(path)
        }
    }

    /// Opens the GGUF of a folder.
    fn of_folder_without_safetensors(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        #[cfg(feature = "gguf")]
        if let Some(file) = crate::gguf::only_file(folder)? {
            return Checkpoint::gguf(&file);
        }
        Err(CheckpointError::NoWeights { folder: shown(folder) })
    }

    /// Returns the tensors of all shards, sorted bytewise by name.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Returns the tensor with a name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let place = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        self.tensors.get(place)
    }

    /// Returns the mapped bytes of a tensor of this checkpoint: elements little-endian, row-major.
    ///
    /// # Panics
    /// May panic if the tensor belongs to another checkpoint.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.shards[tensor.shard].bytes(tensor)
    }

    /// Returns an error if a file became shorter, so that [`Checkpoint::bytes`] may have been zeros. Users of the bytes
    /// call this when they are done, before they use results.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn check(&self) -> Result<(), CheckpointError> {
        self.shards.iter().try_for_each(Shard::check)
    }

    /// Like [`Checkpoint::check`], for the file of a tensor of this checkpoint only.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    ///
    /// # Panics
    /// May panic if the tensor belongs to another checkpoint.
    pub fn check_file_of(&self, tensor: &TensorInfo) -> Result<(), CheckpointError> {
        self.shards[tensor.shard].check()
    }

    /// Advises the operating system that the bytes of a tensor of this checkpoint are not needed for now.
    ///
    /// This bounds the resident memory of a pass over all tensors. The bytes remain readable. It has no effect on
    /// systems without such advice.
    ///
    /// # Panics
    /// May panic if the tensor belongs to another checkpoint.
    pub fn release(&self, tensor: &TensorInfo) {
        self.shards[tensor.shard].release(tensor);
    }

    /// Returns the files that are kept with the weights, sorted by name.
    pub fn assets(&self) -> &[Asset] {
        &self.assets
    }

    /// Returns the metadata of a GGUF, unchanged; those of the first part if it is split.
    #[cfg(feature = "gguf")]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// Returns what the checkpoint lacks and why, one line each: assets that could not be derived from a GGUF, keys that
    /// were ignored, files of the folder that are not part of it, and assets that are next to a single safetensors file.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns why an asset could not be derived from a GGUF; `None` if it is there, or was not expected.
    pub fn why_absent(&self, asset: &str) -> Option<&str> {
        self.absent.iter().find(|(name, _)| *name == asset).map(|(_, why)| why.as_str())
    }

    /// Returns the files that contain the tensors, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Maps files with these paths and names. Also returns the metadata of each GGUF.
    pub(crate) fn of_shards<'a>(
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
        let checkpoint = Checkpoint {
            shards,
            tensors,
            assets: Vec::new(),
            #[cfg(feature = "gguf")]
            metadata: None,
            absent: Vec::new(),
            notes: Vec::new(),
        };
        Ok((checkpoint, metadata))
    }

    fn single(path: &Path, name: &str, assets: Vec<Asset>) -> Result<Checkpoint, CheckpointError> {
        let (checkpoint, _) = Checkpoint::of_shards([(path, name)], Format::Safetensors)?;
        Ok(Checkpoint { assets, ..checkpoint })
    }

    /// Opens a safetensors file without its folder. If the folder is that of a model, a note says so.
    fn alone(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let mut checkpoint = Checkpoint::single(path, &name_of(path, SINGLE), Vec::new())?;
        let folder = folder_of(path);
        if is_there(&folder.join("config.json"))? {
            let (file, folder) = (shown(path), shown(folder));
            let note = format!(
                "{file}: only this file is read, without config.json and the other files of the folder; for the whole \
                 model, give {folder}"
            );
            checkpoint.notes.push(note);
        }
        Ok(checkpoint)
    }

    fn sharded(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        let index_asset = read_asset(folder, INDEX)?;
        let index_name = shown(&folder.join(INDEX));
        let index = ShardIndex::parse(&index_asset.bytes, &index_name)?;

        let mut files = Vec::new();
        for shard in index.shard_names() {
            let broken = |rule| CheckpointError::index(&index_name, rule);
            if !name::is_plain(shard) {
                return Err(broken(IndexRule::Escapes(one_line(shard))));
            }
            let path = folder.join(shard);
            if !is_there(&path)? {
                return Err(broken(IndexRule::Missing(one_line(shard))));
            }
            files.push((path, shard));
        }
        let files = files.iter().map(|(path, name)| (path.as_path(), *name));
        let (mut checkpoint, _) = Checkpoint::of_shards(files, Format::Safetensors)?;
        checkpoint.check_distinct(&index_name)?;
        checkpoint.check_against(&index, &index_name)?;

        let files = Files::of(folder)?;
        checkpoint.assets = files.assets()?;
        checkpoint.assets.push(index_asset);
        checkpoint.assets.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(checkpoint.of_folder(&files))
    }

    /// Notes which files of the folder are not part of the checkpoint.
    fn of_folder(mut self, files: &Files) -> Checkpoint {
        let kept = self.shards.iter().map(Shard::name).chain(self.assets.iter().map(|asset| asset.name.as_str()));
        // An entry that ends with `/` is a folder, which may have shards.
        let is_kept = |name: &str| kept.clone().any(|k| k == name || name.ends_with('/') && k.starts_with(name));
        let note = files.left_out(is_kept);
        self.notes.extend(note);
        self
    }

    /// Opens a GGUF file.
    #[cfg(not(feature = "gguf"))]
    fn gguf(path: &Path) -> Result<Checkpoint, CheckpointError> {
        Err(CheckpointError::NoGguf { file: shown(path) })
    }

    /// Checks that no tensor is in two shards.
    pub(crate) fn check_distinct(&self, file_name: &str) -> Result<(), CheckpointError> {
        let Some(pair) = self.tensors.windows(2).find(|pair| pair[0].name == pair[1].name) else {
            return Ok(());
        };
        let (first, second) = (one_line(self.shard_name(&pair[0])), one_line(self.shard_name(&pair[1])));
        Err(CheckpointError::tensor(file_name, &pair[0].name, TensorRule::TwoShards { first, second }))
    }

    /// Checks that every tensor of the index is in the shard that the index says.
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

/// Returns the name of a single file, or `usual` if that name is not valid on every system and so could not be
/// restored.
pub(crate) fn name_of<'a>(path: &'a Path, usual: &'static str) -> Cow<'a, str> {
    let own = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    if name::is_plain(&own) { own } else { usual.into() }
}
