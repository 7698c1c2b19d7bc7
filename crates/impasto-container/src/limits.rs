//! Limits to the memory that reading a manifest takes (SPEC 11.1).

use crate::error::FormatError;

/// Limits to the cost of opening a file; stricter than the format.
///
/// Opening takes less than twice the size of the manifest, plus 600 bytes per object (including the growth of vectors),
/// plus the names. With the default limits that is at most about 1.2 GB, and close to that only with a manifest of 256
/// MiB. An ordinary file takes about 60 bytes per unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest length of a manifest in bytes.
    pub max_manifest: u64,
    /// Largest number of objects.
    pub max_objects: u64,
    /// Largest total length of the names in bytes. Names share prefixes, so a few bytes can expand to 4096.
    pub max_name_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_manifest: 1 << 28, max_objects: 1 << 20, max_name_bytes: 1 << 26 }
    }
}

/// Returns an error if `value` exceeds `limit`.
pub(crate) fn within(what: &'static str, value: u64, limit: u64) -> Result<(), FormatError> {
    if value > limit {
        return Err(FormatError::OverLimit { what, value, limit });
    }
    Ok(())
}
