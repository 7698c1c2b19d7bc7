//! A checkpoint: the tensors of one or more safetensors files and the files that ride along.

use std::fs;
use std::path::Path;

use crate::asset::{Asset, INDEX, is_there, read_asset, read_assets};
use crate::atomic::join_inside;
use crate::error::{CheckpointError, one_line, shown};
use crate::header::TensorInfo;
use crate::index::ShardIndex;
use crate::rules::{IndexRule, TensorRule};
use crate::shard::Shard;

/// The weights of a folder that has no shards.
const SINGLE: &str = "model.safetensors";

/// An opened checkpoint. Tensors are mapped, not read: memory holds what is touched.
#[derive(Debug)]
pub struct Checkpoint {
    shards: Vec<Shard>,
    tensors: Vec<TensorInfo>,
    assets: Vec<Asset>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder or a lone safetensors file, and checks all headers.
    ///
    /// In a folder `model.safetensors` goes before `model.safetensors.index.json`, as in transformers.
    /// A tensor that a shard holds but the index does not list belongs to the checkpoint. A lone file
    /// has no assets, whatever lies beside it.
    ///
    /// The files are mapped; they must not be changed while the checkpoint is open.
    ///
    /// # Errors
    /// What the operating system refuses, and the first rule that a file breaks.
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let kind = fs::metadata(path).map_err(|error| CheckpointError::io(path, error))?;
        if !kind.is_dir() {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            // A name that not every system can write could not be given back.
            let name = if join_inside(Path::new(""), &name).is_ok() { &name } else { SINGLE };
            return Checkpoint::single(path, name, Vec::new());
        }
        if is_there(&path.join(SINGLE))? {
            Checkpoint::single(&path.join(SINGLE), SINGLE, read_assets(path)?)
        } else if is_there(&path.join(INDEX))? {
            Checkpoint::sharded(path)
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

    /// The safetensors files, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    fn single(path: &Path, name: &str, assets: Vec<Asset>) -> Result<Checkpoint, CheckpointError> {
        let (shard, mut tensors) = Shard::open(path, name)?;
        tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Checkpoint { shards: vec![shard], tensors, assets })
    }

    fn sharded(folder: &Path) -> Result<Checkpoint, CheckpointError> {
        let index_asset = read_asset(folder, INDEX)?;
        let index_name = shown(&folder.join(INDEX));
        let index = ShardIndex::parse(&index_asset.bytes, &index_name)?;

        let (mut shards, mut tensors) = (Vec::new(), Vec::new());
        for name in index.shard_names() {
            let broken = |rule| CheckpointError::index(&index_name, rule);
            let path = join_inside(folder, name).map_err(|_| broken(IndexRule::Escapes(one_line(name))))?;
            if !is_there(&path)? {
                return Err(broken(IndexRule::Missing(one_line(name))));
            }
            let (shard, found) = Shard::open(&path, name)?;
            tensors.extend(found.into_iter().map(|t| TensorInfo { shard: shards.len(), ..t }));
            shards.push(shard);
        }
        tensors.sort_unstable_by(|a, b| (&a.name, a.shard).cmp(&(&b.name, b.shard)));

        let mut assets = read_assets(folder)?;
        assets.push(index_asset);
        assets.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let checkpoint = Checkpoint { shards, tensors, assets };
        checkpoint.check_against(&index, &index_name)?;
        Ok(checkpoint)
    }

    /// Every tensor is in one shard only, and every tensor of the index in the shard it says.
    fn check_against(&self, index: &ShardIndex, index_name: &str) -> Result<(), CheckpointError> {
        let shard_name = |t: &TensorInfo| self.shards.get(t.shard).map_or("", Shard::name);
        let broken = |tensor: &str, rule| CheckpointError::tensor(index_name, tensor, rule);
        if let Some(pair) = self.tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let (first, second) = (one_line(shard_name(&pair[0])), one_line(shard_name(&pair[1])));
            return Err(broken(&pair[0].name, TensorRule::TwoShards { first, second }));
        }
        for (name, file) in &index.weight_map {
            if self.tensor(name).is_none_or(|t| shard_name(t) != file) {
                return Err(broken(name, TensorRule::NotInShard(one_line(file))));
            }
        }
        Ok(())
    }
}
