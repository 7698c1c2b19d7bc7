//! GGUF files built by hand, so that they can violate any rule.

/// Encodes a string: length and bytes.
pub fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// Encodes a key-value pair: key, number of the type, encoded value.
pub fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key), &kind.to_le_bytes()[..], value].concat()
}

/// Encodes a pair with a u32 value.
pub fn pair_u32(key: &str, value: u32) -> Vec<u8> {
    pair(key, 4, &value.to_le_bytes())
}

/// Encodes an array: number of the type, count, values.
pub fn array(kind: u32, count: u64, values: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), values].concat()
}

/// Encodes the entry of a tensor: name, dimensions (fastest first), number of the type, offset.
pub fn entry(name: &str, extents: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name);
    out.extend((extents.len() as u32).to_le_bytes());
    extents.iter().for_each(|extent| out.extend(extent.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// Builds a file, version 3: pairs, entries, padding to a multiple of 32, data.
pub fn file_of(pairs: &[Vec<u8>], entries: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    pairs.iter().chain(entries).for_each(|bytes| out.extend(bytes));
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

/// A small file with three tensors and padding at the end: 8 bytes, 2 blocks of Q4_0 (36 bytes), nothing.
pub fn sample() -> Vec<u8> {
    let pairs = [pair("general.architecture", 8, &string("none")), pair_u32("general.file_type", 2)];
    let entries = [entry("a", &[8], 24, 0), entry("b", &[32, 2], 2, 32), entry("none", &[0, 3], 0, 96)];
    let mut data = vec![7; 8];
    data.resize(32, 0);
    data.extend([9; 36]);
    data.resize(96, 0);
    file_of(&pairs, &entries, &data)
}
