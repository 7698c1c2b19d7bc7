//! Files for the tests, spelled by hand so that they can break any rule.

pub mod gguf;
pub mod hf;

use std::path::Path;

/// A safetensors file of a JSON text and data, whatever they say.
pub fn file_of(json: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.extend_from_slice(data);
    file
}

/// A header entry of one tensor of bytes.
pub fn entry(name: &str, begin: u64, end: u64) -> String {
    let len = end - begin;
    format!(r#""{name}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{begin},{end}]}}"#)
}

/// A file of named tensors of bytes, in the given order.
pub fn shard_of(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, bytes) in tensors {
        let begin = data.len() as u64;
        data.extend_from_slice(bytes);
        entries.push(entry(name, begin, data.len() as u64));
    }
    file_of(&format!("{{{}}}", entries.join(",")), &data)
}

/// A shard index of tensor and file names.
pub fn index_of(weight_map: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = weight_map.iter().map(|(t, f)| format!("{t:?}:{f:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, pairs.join(","))
}

/// How many entries a folder has.
pub fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}
