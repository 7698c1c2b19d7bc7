//! Errors in coded bytes. Each message cites the clause of SPEC.md that is violated.

use impasto_core::{DType, Mode, varint::VarintError};
use thiserror::Error;

/// Error: a unit does not follow the format.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecError {
    /// The unit ends inside a field.
    #[error("unit ends inside its {0} (SPEC 11.1)")]
    Truncated(&'static str),
    /// Bytes follow the last field.
    #[error("{0} bytes are left over at the end of the unit (SPEC {1})")]
    TrailingBytes(usize, &'static str),
    /// A varint is not in its shortest form or exceeds its range.
    #[error("a varint is too long or above its range (SPEC 1.2)")]
    Varint,
    /// A field holds a value that the format forbids.
    #[error("{field} is {value}: {rule} (SPEC {clause})")]
    Field {
        /// Name of the field in the table of the spec.
        field: &'static str,
        /// The value found.
        value: u64,
        /// The requirement.
        rule: &'static str,
        /// Clause of the spec.
        clause: &'static str,
    },
    /// Frequencies of an explicit table do not sum to 2048.
    #[error("table {table}: frequencies sum to {sum}, not 2048 (SPEC 6.2)")]
    TableSum {
        /// Number of the table.
        table: usize,
        /// Sum found.
        sum: u64,
    },
    /// An index array has an invalid Rice code or an entry out of range.
    #[error("index array: {0} (SPEC 6.1)")]
    IndexArray(&'static str),
    /// A step index of a row or column is out of range.
    #[error("a step index is outside -1024 to 1023 (SPEC 6)")]
    StepIndex,
    /// A multiplier of a row is out of range.
    #[error("a multiplier of a row is not between -64 and 63 (SPEC 6)")]
    Multiplier,
    /// A tile in mode same is not empty.
    #[error("a unit of {0} bytes in mode same, which has none (SPEC 21.5)")]
    SameSize(usize),
    /// A tensor that is predicted from a base has a format, or a layer of blocks.
    #[error("a tensor header with a format or of blocks, of a tensor that is predicted from a base (SPEC 21.6)")]
    DeltaHeader,
    /// A tensor header of exact floats has a low-rank part where there is no base below.
    #[error("a low-rank part of kind 6, but not in layer 0 of a tensor that is predicted from a base (SPEC 6)")]
    ExactOver,
    /// A rule about formats is violated.
    #[error("format: {0} (SPEC {1})")]
    Format(&'static str, &'static str),
    /// The rANS stream of a segment is invalid.
    #[error("segment {segment}: {rule} (SPEC {clause})")]
    Segment {
        /// Number of the segment in the unit.
        segment: usize,
        /// The violated requirement.
        rule: &'static str,
        /// Clause of the spec.
        clause: &'static str,
    },
    /// A Zstandard frame is damaged or has the wrong size.
    #[error("Zstandard frame: {0} (SPEC 5.1)")]
    Zstd(String),
    /// Memory for a Zstandard frame could not be allocated.
    #[error("out of memory for a Zstandard frame")]
    Memory,
    /// A stored unit has the wrong size.
    #[error("stored unit has {found} bytes, its tile has {wanted} (SPEC 5.2)")]
    StoredSize {
        /// Bytes of the unit.
        found: usize,
        /// Bytes of the tile.
        wanted: usize,
    },
    /// The mode cannot code this dtype.
    #[error("mode {mode} does not code {dtype:?} (SPEC 5.3)")]
    ModeDtype {
        /// Coding mode.
        mode: Mode,
        /// dtype of the tensor.
        dtype: DType,
    },
    /// A tile needs a tensor header of its own kind, and its layer has none.
    #[error("a tile in mode {0} has no tensor header of that kind (SPEC 5.4, 6)")]
    MissingHeader(Mode),
    /// A tensor header is in a layer where its kind is not allowed.
    #[error(
        "a tensor header of kind {kind} is not allowed in layer {layer}: kinds float and lattice are for layer 0, refinement and exact for the layers above, and nothing follows exact (SPEC 6, 12.2)"
    )]
    HeaderLayer {
        /// The layer.
        layer: usize,
        /// Kind of the tensor header.
        kind: Mode,
    },
    /// A tile is in a layer where its mode is not allowed.
    #[error(
        "a tile in mode {mode} is not allowed in layer {layer}: only refinements follow lattice in layer 0, only transform follows transform, and exact only comes last (SPEC 12.1, 12.2)"
    )]
    TileLayer {
        /// The layer.
        layer: usize,
        /// Mode of the tile.
        mode: Mode,
    },
    /// The bytes may be valid, but the arguments of the call are not.
    #[error("{0}")]
    Call(&'static str),
    /// The mode is not one of version 1.
    #[error("coding mode {0} is unknown (SPEC 3.6.1)")]
    UnknownMode(Mode),
}

impl From<VarintError> for CodecError {
    fn from(error: VarintError) -> Self {
        match error {
            VarintError::Cut => CodecError::Truncated("varint"),
            VarintError::Form => CodecError::Varint,
        }
    }
}
