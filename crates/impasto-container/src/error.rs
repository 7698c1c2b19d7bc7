//! Errors of files. Each message cites the clause of SPEC.md that is violated.

use std::io;

use impasto_core::{FileKind, Mode};
use thiserror::Error;

/// Error: bytes, or the objects and units to be written, violate a rule of the format.
///
/// `name` is the name of an object, quoted and on one line; `at` is a byte offset in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)] // The messages explain the fields.
pub enum FormatError {
    #[error("{length} bytes are too few for a header (SPEC 2)")]
    NoHeader { length: u64 },
    #[error("not an Impasto file: the magic differs (SPEC 2.1)")]
    Magic,
    #[error("it is {0}, not an Impasto file{advice} (SPEC 2.1)", advice = .0.advice())]
    OtherKind(FileKind),
    #[error("major version {major} is not supported, only 1 is (SPEC 2.1)")]
    Major { major: u16 },
    #[error("flags {flags:#010x} are not supported (SPEC 2.1)")]
    Flags { flags: u32 },
    #[error("the manifest has {length} bytes, more than 2^32 (SPEC 2.2)")]
    ManifestLength { length: u64 },
    #[error("a manifest of {length} bytes reaches past the end of the file at byte {end} (SPEC 2.2)")]
    ManifestPastEnd { length: u64, end: u64 },
    #[error("the hash of the manifest is not the one in the header (SPEC 2.3)")]
    Root,
    #[error("the header says {declared} bytes, but the last unit ends at {end} (SPEC 2.5)")]
    FileLength { declared: u64, end: u64 },
    #[error("{what}: {value} is over the limit of this reader, {limit} (SPEC 11.1)")]
    OverLimit { what: &'static str, value: u64, limit: u64 },
    #[error(
        "it expands to {expanded} bytes, {share} of them for {name}: more than 2^28, and more than 512 times its own {present} bytes (SPEC 11.3); if you trust it, --allow-expansion lifts this bound"
    )]
    Expansion { expanded: u64, present: u64, name: String, share: u64 },

    #[error("the varint at byte {at} of the manifest is malformed (SPEC 1.2)")]
    Varint { at: usize },
    #[error("the field at byte {at} of the manifest reaches past its end (SPEC 3.1)")]
    Cut { at: usize },
    #[error(
        "the record of kind {kind:#04x} before byte {at} of the manifest is unknown and must not be skipped (SPEC 3.2)"
    )]
    UnknownRecord { kind: u8, at: usize },
    #[error("an object record follows the units record, before byte {at} of the manifest (SPEC 3.3)")]
    ObjectAfterUnits { at: usize },
    #[error("there is a second units record, before byte {at} of the manifest (SPEC 3.3)")]
    UnitsTwice { at: usize },
    #[error("there is no units record (SPEC 3.3)")]
    NoUnits,

    #[error("object {object}: prefix {prefix}, but the previous name has {before} bytes (SPEC 3.4)")]
    Prefix { object: usize, prefix: u64, before: usize },
    #[error("{name}: {ndim} dims, more than 16 (SPEC 3.4)")]
    Dims { name: String, ndim: u64 },
    #[error("{name}: split {split} is above the number of dims, {ndim} (SPEC 3.4)")]
    Split { name: String, split: u64, ndim: usize },
    #[error("object {object}: the name has {length} bytes, not 1 to 4096 (SPEC 3.4.1)")]
    NameLength { object: usize, length: u64 },
    #[error("object {object}: the name is not UTF-8 (SPEC 3.4.1)")]
    NameUtf8 { object: usize },
    #[error("{name}: not in ascending order of class and name (SPEC 3.4.1)")]
    Order { name: String },
    #[error("{name}: tied to {to}, which is not an earlier object (SPEC 3.4.2)")]
    TiedForward { name: String, to: u64 },
    #[error("{name}: tied to object {to}, which is {what} (SPEC 3.4.2)")]
    Tied { name: String, to: u32, what: &'static str },
    #[error("{name}: its reference is {to}, which is not an earlier object (SPEC 3.4.6)")]
    ReferenceForward { name: String, to: u64 },
    #[error("{name}: its reference is object {to}, which is {what} (SPEC 3.4.6)")]
    Reference { name: String, to: u32, what: &'static str },
    #[error("{name}: it is tied and has a reference (SPEC 3.4.6)")]
    ReferenceOfTied { name: String },
    #[error("{name}: the usage of the base is {usage}, not 0 to 2 (SPEC 3.4)")]
    BaseUsage { name: String, usage: u8 },
    #[error("{name}: the name of the object of the base is not UTF-8 of at most 4096 bytes (SPEC 3.4)")]
    BaseName { name: String },
    #[error("{name}: it takes something from a base, and the file has none (SPEC 3.4.7)")]
    NoBase { name: String },
    #[error("{name}: it takes something from the base, but it is {what} (SPEC 3.4.7)")]
    ObjectBase { name: String, what: &'static str },
    #[error("{name}: more than 2^48 weights or bytes, or at least 2^64 rows or columns (SPEC 3.4.3)")]
    Elements { name: String },
    #[error(
        "{name}: not a name for an asset: no part between `/` may be empty, begin with a dot, or contain `\\`, `:` or a \
         control character (SPEC 3.4.4)"
    )]
    AssetName { name: String },
    #[error("{first} and {second} cannot both be assets: the first would be both a file and a folder (SPEC 3.4.4)")]
    AssetFolder { first: String, second: String },
    #[error("{name}: dtype code {code} is unknown (SPEC 3.5)")]
    Dtype { name: String, code: u8 },
    #[error("{name}: split {split} of {ndim} dims leaves no dim for the blocks (SPEC 3.5.1)")]
    BlockSplit { name: String, split: usize, ndim: usize },
    #[error("{name}: the last dim, {last}, is not a multiple of the {weights} weights of a block (SPEC 3.5.1)")]
    BlockDim { name: String, last: u64, weights: u64 },
    #[error("{name}: the name of its opaque dtype has {length} bytes, not 1 to 64 (SPEC 3.5.2)")]
    TypeNameLength { name: String, length: u64 },
    #[error("{name}: the name of its opaque dtype is not UTF-8 (SPEC 3.5.2)")]
    TypeNameUtf8 { name: String },
    #[error("{name}: {dtype} is a plain dtype and cannot be opaque (SPEC 3.5.2)")]
    TypeNamePlain { name: String, dtype: String },
    #[error("{name}: the split of an opaque tensor is {split}, not 0 (SPEC 3.5.2)")]
    OpaqueSplit { name: String, split: usize },
    /// Only for objects to be written; a file cannot express this.
    #[error("{name}: an opaque dtype needs a name and a length, and no other dtype has them (SPEC 3.5.2)")]
    OpaqueMeta { name: String },

    #[error("{count} units do not fill a units record of {length} bytes (SPEC 3.6.1)")]
    UnitsLength { count: u64, length: u64 },
    #[error("unit {unit}: the reserved field is not 0 (SPEC 3.6)")]
    Reserved { unit: usize },
    #[error("unit {unit}: {length} bytes, more than 2^28 (SPEC 3.6)")]
    UnitLength { unit: usize, length: u32 },
    #[error("unit {unit}: the tile of a tensor header is {tile}, not 0 (SPEC 3.6.2)")]
    HeaderTile { unit: usize, tile: u32 },
    #[error("unit {unit}: there is no object {object} (SPEC 3.6.2)")]
    UnitObject { unit: usize, object: u32 },
    #[error("unit {unit} belongs to {name}, which is tied (SPEC 3.6.2)")]
    UnitOfTied { unit: usize, name: String },
    #[error("unit {unit} belongs to {name}, which is identical to an object of the base (SPEC 3.6.2)")]
    UnitOfIdentical { unit: usize, name: String },
    #[error("unit {unit}: there is no tile {tile} in {name}, which has {tiles} (SPEC 3.6.2)")]
    UnitTile { unit: usize, tile: u32, name: String, tiles: u32 },
    #[error("units {first} and {second} are both for the same place in {name} (SPEC 3.6.2)")]
    DuplicateUnit { first: usize, second: usize, name: String },
    #[error("{name}: units for at most {have} of {tiles} tiles (SPEC 3.6.3)")]
    MissingTiles { name: String, have: u32, tiles: u32 },
    #[error("{name}: unit {unit} needs a tensor header before it (SPEC 3.6.3)")]
    MissingHeader { name: String, unit: usize },

    #[error("there is a second layers record, before byte {at} of the manifest (SPEC 3.7)")]
    LayersTwice { at: usize },
    #[error("{count} layers, more than 255 (SPEC 3.7)")]
    LayerCount { count: u64 },
    #[error(
        "layer {layer} of the file: {units} units are fewer than in the previous layer, or more than the file has (SPEC 3.7)"
    )]
    LayerUnits { layer: usize, units: u64 },

    #[error("there is a second base record, before byte {at} of the manifest (SPEC 21.1)")]
    BaseTwice { at: usize },
    #[error("the base has {count} mirrors, more than 64 (SPEC 21.1)")]
    Mirrors { count: u64 },
    #[error("the {field} of the base is not UTF-8, or is too short or too long (SPEC 21.1)")]
    BaseText { field: &'static str },
    #[error("unit {unit}: a tile of {name}, which is predicted from the base, in mode {mode} (SPEC 21.6)")]
    DeltaMode { unit: usize, name: String, mode: u8 },

    #[error("{name}: {field} is 0 (SPEC 3.4)")]
    Zero { name: String, field: &'static str },
    #[error("{name}: tiles of {tile_cols} columns, neither a multiple of 32 nor all {cols} (SPEC 4.2)")]
    TileCols { name: String, tile_cols: u64, cols: u64 },
    #[error("{name}: tiles of more than 2^24 elements (SPEC 4.2)")]
    TileElements { name: String },
    #[error("{name}: tiles of more than 2^27 bytes (SPEC 4.2)")]
    TileBytes { name: String },
    #[error("{name}: 2^32 tiles or more (SPEC 4.2)")]
    TileCount { name: String },

    #[error("unit {unit}: a tile of {name} in mode {mode} is not allowed in layer {layer} (SPEC 12.1)")]
    LayerMode { unit: usize, name: String, mode: u8, layer: u8 },
    #[error(
        "unit {unit}: no tile {tile} of {name} that layer {layer} can refine precedes it in the layer below (SPEC 12.2)"
    )]
    NothingBelow { unit: usize, tile: u32, name: String, layer: u8 },
    #[error("{name}: its tiles in layer {layer} differ in mode (SPEC 12.2)")]
    LayerModes { name: String, layer: u8 },
}

/// Error: a file cannot be opened, read or written.
///
/// `file` is the name that the caller gave it; `place` describes a unit, as in [`crate::Reader::unit_place`].
#[derive(Debug, Error)]
#[allow(missing_docs)] // The messages explain the fields.
pub enum ContainerError {
    #[error("{file}: {error}")]
    Io { file: String, error: io::Error },
    #[error("{file}: {rule}")]
    Format { file: String, rule: FormatError },
    #[error("{file}: there is no unit {unit}, the manifest has {count} (SPEC 3.6)")]
    NoSuchUnit { file: String, unit: u32, count: usize },
    #[error("{file}: {place} is absent: the file is incomplete, or the unit is excluded (SPEC 2.5)")]
    Absent { file: String, unit: u32, place: String },
    #[error("{file}: {place} is damaged: it does not have the hash in the manifest (SPEC 11.2)")]
    Damaged { file: String, unit: u32, place: String },
    #[error("{file}: mode {} does not fit {place} (SPEC 3.6)", mode.0)]
    WrongMode { file: String, place: String, mode: Mode },
    #[error("{file}: unit {unit} has {length} bytes, more than 2^28 (SPEC 3.6)")]
    LongUnit { file: String, unit: usize, length: usize },
    #[error("{file}: {pushed} units were written, but {slots} were declared (SPEC 3.6)")]
    UnitCount { file: String, slots: usize, pushed: usize },
}

/// Returns an object's name for messages: quoted, escaped to one line, and truncated.
pub(crate) fn shown(name: &str) -> String {
    const MOST: usize = 120;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("\"{}...\"", name[..end].escape_debug()),
        None => format!("\"{}\"", name.escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn names_are_shown_on_one_line() {
        assert_eq!(shown("a.weight"), "\"a.weight\"");
        assert_eq!(shown("a\n\"b\x1b"), "\"a\\n\\\"b\\u{1b}\"");
        assert_eq!(shown(&"é".repeat(4000)), format!("\"{}...\"", "é".repeat(120)));
    }
}
