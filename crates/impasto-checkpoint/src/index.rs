//! The shard index of a Hugging Face folder, model.safetensors.index.json.

use serde::Deserialize;

use crate::error::{CheckpointError, one_line};
use crate::json::Pairs;
use crate::rules::{IndexRule, TensorRule};

/// Which shard holds which tensor.
pub(crate) struct ShardIndex {
    /// Tensor name and shard file name, in file order, names unique.
    pub weight_map: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs<String>,
}

impl ShardIndex {
    /// Parses the index; `file_name` goes into the messages.
    pub fn parse(bytes: &[u8], file_name: &str) -> Result<ShardIndex, CheckpointError> {
        let unreadable = |why: &str| CheckpointError::index(file_name, IndexRule::Json(one_line(why)));
        // The derived parser would take an array of the fields, too.
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

    /// The shards' file names, each once, sorted bytewise.
    pub fn shard_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.weight_map.iter().map(|(_, file)| file.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
