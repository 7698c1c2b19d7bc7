//! Files for tests, built by hand so that they can violate any rule.

pub mod gguf;
pub mod hf;

use std::path::Path;

/// Builds a safetensors file from JSON text and data, valid or not.
pub fn file_of(json: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.extend_from_slice(data);
    file
}

/// Returns the header entry of a tensor of bytes.
pub fn entry(name: &str, begin: u64, end: u64) -> String {
    let len = end - begin;
    format!(r#""{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{begin},{end}]}}"#)
}

/// Builds a file with named tensors of bytes, in the given order.
pub fn shard_of(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, bytes) in tensors {
        let begin = data.len() as u64;
        data.extend_from_slice(bytes);
        entries.push(entry(name, begin, data.len() as u64));
    }
    file_of(&format!("{{{}}}", entries.join(",")), &data)
}

/// Builds a shard index from tensor and file names.
pub fn index_of(weight_map: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = weight_map.iter().map(|(t, f)| format!("{t:?}:{f:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, pairs.join(","))
}

/// Returns the number of entries of a folder.
pub fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}
