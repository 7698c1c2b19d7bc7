//! How much memory a reader will take for a manifest (SPEC 11.1).

use crate::error::FormatError;

/// Bounds on what opening a file may cost, below those of the format.
///
/// Memory stays below twice the manifest, 600 bytes an object (growth included) and the names; so with these defaults
/// no file takes more than about 1.2 GB, and only one that brings a manifest of 256 MiB takes nearly as much. A honest
/// file takes about 60 bytes a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a manifest.
    pub max_manifest: u64,
    /// Most objects.
    pub max_objects: u64,
    /// Most bytes of all names together. Names share prefixes, so a few bytes can stand for 4096.
    pub max_name_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_manifest: 1 << 28, max_objects: 1 << 20, max_name_bytes: 1 << 26 }
    }
}

/// Refuses `value` above `limit`.
pub(crate) fn within(what: &'static str, value: u64, limit: u64) -> Result<(), FormatError> {
    if value > limit {
        return Err(FormatError::OverLimit { what, value, limit });
    }
    Ok(())
}
