//! The rules of headers, tensors and shard indexes, each with a one-line message.

use impasto_core::FileKind;

#[cfg(feature = "gguf")]
use crate::gguf::{GgufRule, SplitRule};

/// A rule for a header as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRule {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// The file is of another kind.
    #[error("it is {kind}, not {wanted}{}", kind.advice())]
    OtherKind {
        /// What it is.
        kind: FileKind,
        /// What it should be.
        wanted: FileKind,
    },
    /// The file is shorter than the length field of the header.
    #[error("{len} bytes; a safetensors file begins with 8 bytes that hold the length of its header")]
    Short {
        /// Bytes of the file.
        len: u64,
    },
    /// The declared length exceeds the limit of the format.
    #[error("header of {len} bytes declared, the limit is {max}: not a safetensors file?")]
    TooLong {
        /// Declared length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The header extends past the end of the file.
    #[error("header of {len} bytes declared, {available} bytes follow")]
    PastEnd {
        /// Declared length in bytes.
        len: u64,
        /// Bytes after the length field.
        available: u64,
    },
    /// The header is not a JSON object, or has leading white space.
    #[error("the header does not begin with '{{'")]
    NotAnObject,
    /// The header is not UTF-8.
    #[error("the header is not UTF-8: {0}")]
    Utf8(String),
    /// The header is not valid JSON.
    #[error("the header is not valid JSON: {0}")]
    Json(String),
    /// The metadata is not a map of strings.
    #[error("__metadata__ is not a map from strings to strings: {0}")]
    Metadata(String),
    /// A key of the metadata occurs twice.
    #[error("__metadata__ has the key \"{0}\" twice")]
    DuplicateMetadata(String),
    /// The data extends past the last tensor.
    #[error("the tensors cover {covered} bytes of data, the file holds {held}")]
    Uncovered {
        /// End of the last tensor.
        covered: u64,
        /// Bytes of data in the file.
        held: u64,
    },
    /// A rule of GGUF is violated.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Gguf(#[from] GgufRule),
    /// A rule of split GGUF files is violated.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Split(#[from] SplitRule),
}

impl HeaderRule {
    /// Checks that a file that begins with these bytes does not look like one of another kind.
    pub(crate) fn check_kind(begin: &[u8], wanted: FileKind) -> Result<(), HeaderRule> {
        match FileKind::of(begin) {
            Some(kind) if kind != wanted => Err(HeaderRule::OtherKind { kind, wanted }),
            _ => Ok(()),
        }
    }
}

/// A rule for a tensor. Positions are bytes from the start of the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorRule {
    /// The entry in the header cannot be parsed.
    #[error("unreadable entry: {0}")]
    Entry(String),
    /// The name of the type is empty or too long.
    #[error("the name of its type has {len} bytes, allowed are 1 to {max}")]
    TypeName {
        /// Bytes of the name.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The output format does not support the type.
    #[error("{format} has no type {dtype}")]
    NoSuchType {
        /// The format.
        format: &'static str,
        /// The type.
        dtype: String,
    },
    /// A tensor to write has a dtype and an opaque type that contradict each other.
    #[error("its dtype and the name of its type contradict each other")]
    HalfOpaque,
    /// A rule of GGUF is violated.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Gguf(#[from] GgufRule),
    /// Two entries have the same name.
    #[error("named twice")]
    Duplicate,
    /// The byte range is reversed.
    #[error("data_offsets [{begin}, {end}] are reversed")]
    Backwards {
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The byte range extends past the end of the file.
    #[error("ends at {end}, past the end of the data at {held}")]
    PastEnd {
        /// One past the last byte.
        end: u64,
        /// Bytes of data in the file.
        held: u64,
    },
    /// The size of the shape overflows.
    #[error("the byte count of its shape overflows 64 bits")]
    Overflow,
    /// A row is not a whole number of blocks.
    #[error("rows of {row} weights are not whole blocks of {weights}")]
    CutBlock {
        /// The last dimension.
        row: u64,
        /// Weights per block.
        weights: u64,
    },
    /// The byte range is not aligned.
    #[error("begins at {begin}, not a multiple of {alignment}")]
    Misaligned {
        /// First byte.
        begin: u64,
        /// The alignment of the file.
        alignment: u64,
    },
    /// Shape and byte range disagree.
    #[error("shape and dtype need {needed} bytes, data_offsets hold {held}")]
    Size {
        /// Product of the shape and the size of an element.
        needed: u64,
        /// Length of the byte range.
        held: u64,
    },
    /// Two tensors share bytes.
    #[error("overlap: begins at {begin}, the tensor before it ends at {previous}")]
    Overlap {
        /// First byte.
        begin: u64,
        /// End of the previous tensor.
        previous: u64,
    },
    /// Some bytes belong to no tensor.
    #[error("hole: begins at {begin}, the tensor before it ends at {previous}")]
    Hole {
        /// First byte.
        begin: u64,
        /// End of the previous tensor.
        previous: u64,
    },
    /// The tensor is not in the shard that the index says.
    #[error("the index places it in \"{0}\", which does not contain it")]
    NotInShard(String),
    /// The tensor is in two shards.
    #[error("it is in two shards, \"{first}\" and \"{second}\"")]
    TwoShards {
        /// A shard.
        first: String,
        /// Another shard.
        second: String,
    },
    /// A tensor to write is not in the given raw header.
    #[error("the raw header does not contain it")]
    NotInHeader,
    /// A tensor of the given raw header is not among those to write.
    #[error("the raw header contains it, but it is not among the tensors to write")]
    NotGiven,
    /// A tensor to write differs from the one in the given raw header.
    #[error("the raw header has {header}, the tensor to write is {given}")]
    Differs {
        /// Dtype and shape in the header.
        header: String,
        /// Dtype and shape of the tensor to write.
        given: String,
    },
}

/// A rule for the shard index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexRule {
    /// The index cannot be parsed.
    #[error("not a shard index: {0}")]
    Json(String),
    /// The index has no tensors.
    #[error("the index has no shards")]
    Empty,
    /// The name of a shard might escape the folder, or is hidden.
    #[error("shard \"{0}\": not a plain relative path inside the folder")]
    Escapes(String),
    /// A shard is missing.
    #[error("shard \"{0}\" is missing")]
    Missing(String),
}
