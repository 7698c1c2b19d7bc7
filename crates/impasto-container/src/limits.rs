//! Limits to what reading a file takes (SPEC 11.1, 11.3).

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
    /// Whether a file may expand to more than SPEC 11.3 allows. A small file may then take a lot of time to decode, and a
    /// lot of disk when it is exported.
    pub allow_expansion: bool,
}

impl Limits {
    /// The default limits, or less, so that opening a file takes at most `memory` bytes.
    pub fn within(memory: u64) -> Limits {
        let most = Limits::default();
        Limits {
            max_manifest: most.max_manifest.min(memory / 4),
            max_objects: most.max_objects.min(memory / 4 / OBJECT),
            max_name_bytes: most.max_name_bytes.min(memory / 4),
            ..most
        }
    }
}

/// Bytes of memory that an object takes besides its name.
const OBJECT: u64 = 600;

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_manifest: 1 << 28, max_objects: 1 << 20, max_name_bytes: 1 << 26, allow_expansion: false }
    }
}

/// Returns an error if `value` exceeds `limit`.
pub(crate) fn within(what: &'static str, value: u64, limit: u64) -> Result<(), FormatError> {
    if value > limit {
        return Err(FormatError::OverLimit { what, value, limit });
    }
    Ok(())
}
