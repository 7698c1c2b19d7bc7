//! The rules that headers, tensors and shard indexes must keep, each with its line of a message.

#[cfg(feature = "gguf")]
use crate::gguf::{GgufRule, SplitRule};

/// What a header must satisfy as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRule {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Not even the length of the header.
    #[error("{len} bytes; a safetensors file begins with 8 bytes that hold the length of its header")]
    Short {
        /// Bytes of the file.
        len: u64,
    },
    /// The declared header is over the limit of the format.
    #[error("header of {len} bytes declared, the limit is {max}: not a safetensors file?")]
    TooLong {
        /// Declared length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The declared header reaches past the bytes there are.
    #[error("header of {len} bytes declared, {available} bytes follow")]
    PastEnd {
        /// Declared length in bytes.
        len: u64,
        /// Bytes after the length field.
        available: u64,
    },
    /// The format asks for an object at once.
    #[error("the header does not begin with '{{'")]
    NotAnObject,
    /// JSON is UTF-8.
    #[error("the header is not UTF-8: {0}")]
    Utf8(String),
    /// The header does not parse.
    #[error("the header is not valid JSON: {0}")]
    Json(String),
    /// The metadata does not parse.
    #[error("__metadata__ is not a map from strings to strings: {0}")]
    Metadata(String),
    /// A key of the metadata comes twice.
    #[error("__metadata__ names \"{0}\" twice")]
    DuplicateMetadata(String),
    /// The data is longer than the tensors.
    #[error("the tensors cover {covered} bytes of data, the file holds {held}")]
    Uncovered {
        /// End of the last tensor.
        covered: u64,
        /// Bytes of data in the file.
        held: u64,
    },
    /// A rule of GGUF.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Gguf(#[from] GgufRule),
    /// A rule of GGUF files in several parts.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Split(#[from] SplitRule),
}

/// What each tensor must satisfy. Byte positions count from the begin of the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorRule {
    /// Its entry in the header does not parse.
    #[error("unreadable entry: {0}")]
    Entry(String),
    /// A type whose name cannot be kept.
    #[error("the name of its type has {len} bytes, allowed are 1 to {max}")]
    TypeName {
        /// Bytes of the name.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A type that the format to be written does not have.
    #[error("{format} has no type {dtype}")]
    NoSuchType {
        /// The format.
        format: &'static str,
        /// The type.
        dtype: String,
    },
    /// A tensor to write, opaque without the name of its type, or with one and not opaque.
    #[error("dtype and name of the type do not go together")]
    HalfOpaque,
    /// A rule of GGUF.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Gguf(#[from] GgufRule),
    /// Two entries of one name.
    #[error("named twice")]
    Duplicate,
    /// The byte range runs backwards.
    #[error("data_offsets [{begin}, {end}] run backwards")]
    Backwards {
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The byte range leaves the file.
    #[error("ends at {end}, past the end of the data at {held}")]
    PastEnd {
        /// One past the last byte.
        end: u64,
        /// Bytes of data in the file.
        held: u64,
    },
    /// The shape is no number of bytes.
    #[error("the byte count of its shape overflows 64 bits")]
    Overflow,
    /// A row that is no whole number of blocks.
    #[error("rows of {row} weights, which make no blocks of {weights}")]
    CutBlock {
        /// The last extent.
        row: u64,
        /// Weights of a block.
        weights: u64,
    },
    /// The byte range begins where none may.
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
        /// Product of the shape, times the size of an element.
        needed: u64,
        /// Length of the byte range.
        held: u64,
    },
    /// Two tensors share bytes.
    #[error("overlap: begins at {begin}, the tensor before it ends at {previous}")]
    Overlap {
        /// First byte.
        begin: u64,
        /// End of the tensor before.
        previous: u64,
    },
    /// Bytes belong to no tensor.
    #[error("hole: begins at {begin}, the tensor before it ends at {previous}")]
    Hole {
        /// First byte.
        begin: u64,
        /// End of the tensor before.
        previous: u64,
    },
    /// The index places it in a shard that lacks it.
    #[error("the index places it in \"{0}\", which does not hold it")]
    NotInShard(String),
    /// Two shards hold it.
    #[error("held by two shards, \"{first}\" and \"{second}\"")]
    TwoShards {
        /// A shard.
        first: String,
        /// Another.
        second: String,
    },
    /// A raw header to be rebuilt lacks a tensor that is to be written.
    #[error("the raw header lacks it")]
    NotInHeader,
    /// A raw header to be rebuilt has a tensor that is not to be written.
    #[error("the raw header has it, but it is not among the tensors to write")]
    NotGiven,
    /// A raw header to be rebuilt has the tensor in another form.
    #[error("the raw header says {header}, to be written is {given}")]
    Differs {
        /// dtype and shape in the header.
        header: String,
        /// dtype and shape of the tensor to write.
        given: String,
    },
}

/// What the shard index must satisfy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexRule {
    /// It does not parse.
    #[error("not a shard index: {0}")]
    Json(String),
    /// No tensor, no shard.
    #[error("the index names no shard")]
    Empty,
    /// A shard's name could leave the folder.
    #[error("shard \"{0}\": not a plain relative path inside the folder")]
    Escapes(String),
    /// A shard is not there.
    #[error("shard \"{0}\" is missing")]
    Missing(String),
}
