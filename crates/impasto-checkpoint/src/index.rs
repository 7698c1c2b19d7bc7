//! The shard index of a Hugging Face folder, `model.safetensors.index.json`.

use serde::Deserialize;

use crate::error::{CheckpointError, one_line};
use crate::json::Pairs;
use crate::rules::{IndexRule, TensorRule};

/// Maps tensors to shards.
pub(crate) struct ShardIndex {
    /// Tensor names, which are unique, with shard file names, in file order.
    pub weight_map: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs<String>,
}

impl ShardIndex {
    /// Parses the index. `file_name` is for error messages.
    pub fn parse(bytes: &[u8], file_name: &str) -> Result<ShardIndex, CheckpointError> {
        let unreadable = |why: &str| CheckpointError::index(file_name, IndexRule::Json(one_line(why)));
        // The derived parser would also accept an array of the fields.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(unreadable("it does not begin with '{'"));
        }
        let raw: RawIndex = serde_json::from_slice(bytes).map_err(|error| unreadable(&error.to_string()))?;
        if let Some(name) = raw.weight_map.duplicate() {
            return Err(CheckpointError::tensor(file_name, name, TensorRule::Duplicate));
        }
        if raw.weight_map.0.is_empty() {
            return Err(CheckpointError::index(file_name, IndexRule::Empty));
        }
        Ok(ShardIndex { weight_map: raw.weight_map.0 })
    }

    /// Returns the distinct file names of the shards, sorted bytewise.
    pub fn shard_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.weight_map.iter().map(|(_, file)| file.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
