//! The .impasto file: header, manifest, units, hashes, sources.
