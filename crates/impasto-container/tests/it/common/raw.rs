//! Manifests built byte by byte.

use impasto_container::{ContainerError, FormatError};
use impasto_core::varint;

use super::{open, with_header};

/// Returns a record of the manifest.
pub fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    varint::write(&mut out, payload.len() as u64);
    out.extend(payload);
    out
}

/// Returns the bytes of several varints.
pub fn varints(values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|&value| varint::write(&mut out, value));
    out
}

/// Returns the record of an object: class, name as prefix and rest, fields.
pub fn object(class: u8, prefix: u64, rest: &[u8], fields: &[u8]) -> Vec<u8> {
    let name = [&varints(&[prefix, rest.len() as u64]), rest].concat();
    record(0x81, &[&[class], &name[..], fields].concat())
}

pub fn asset(name: &str, length: u64, piece: u64) -> Vec<u8> {
    object(0, 0, name.as_bytes(), &varints(&[length, piece]))
}

/// Returns a tensor: dtype code, then ndim, dims, split, tile_rows, tile_cols, tied.
pub fn tensor(name: &str, dtype: u8, fields: &[u64]) -> Vec<u8> {
    object(1, 0, name.as_bytes(), &[&[dtype], &varints(fields)[..]].concat())
}

/// Returns an opaque tensor: name of its dtype, bytes, then the fields of [`tensor`] from ndim on.
pub fn opaque(name: &str, dtype: &[u8], bytes: u64, fields: &[u64]) -> Vec<u8> {
    let dtype = [&[127], &varints(&[dtype.len() as u64])[..], dtype].concat();
    object(1, 0, name.as_bytes(), &[dtype, varints(&[bytes]), varints(fields)].concat())
}

/// Returns an empty tensor, which needs no units.
pub fn void(name: &str) -> Vec<u8> {
    tensor(name, 1, &[1, 0, 0, 1, 32, 0])
}

/// Returns a units record of (object, tile, mode, layer), each unit empty.
pub fn units(entries: &[(u32, u32, u8, u8)]) -> Vec<u8> {
    let mut payload = varints(&[entries.len() as u64]);
    for &(object, tile, mode, layer) in entries {
        payload.extend(entry(object, tile, mode, layer, 0, 0));
    }
    record(0x82, &payload)
}

pub fn entry(object: u32, tile: u32, mode: u8, layer: u8, reserved: u16, length: u32) -> Vec<u8> {
    let mut out = [object.to_le_bytes(), tile.to_le_bytes()].concat();
    out.extend([mode, layer]);
    out.extend(reserved.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(&blake3::hash(b"").as_bytes()[..16]);
    out
}

/// Returns the fields of [`void`].
pub fn void_fields() -> Vec<u8> {
    [&[1], &varints(&[1, 0, 0, 1, 32, 0])[..]].concat()
}

/// Returns the rule for which a reader refuses `bytes`.
pub fn refusal(bytes: &[u8]) -> FormatError {
    match open(bytes) {
        Err(error @ ContainerError::Format { .. }) => {
            let message = error.to_string();
            assert!(message.starts_with("t.impasto: "), "{message}");
            assert!(message.contains("(SPEC ") && message.ends_with(')') && !message.contains('\n'), "{message}");
            let ContainerError::Format { rule, .. } = error else { unreachable!() };
            rule
        }
        other => panic!("{other:?}"),
    }
}

/// Asserts that every case is refused under the rule that it violates.
pub fn check(cases: Vec<(&str, Vec<Vec<u8>>, FormatError)>) {
    for (what, records, expected) in cases {
        let manifest = records.concat();
        let bytes = with_header(&manifest, 64 + manifest.len() as u64);
        assert_eq!(refusal(&bytes), expected, "{what}");
    }
}
