use thiserror::Error;

/// Error: a store of keys and values cannot be created or extended.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KvError {
    /// A part of the text of a layout is invalid.
    #[error("key/value layout: {part:?}: {rule}")]
    Layout {
        /// The part of the text.
        part: String,
        /// The violated rule.
        rule: &'static str,
    },
    /// The layout names a transformer block that the model does not have.
    #[error("key/value layout: there is no block {block}, the model has {blocks}")]
    Block {
        /// The block, counted from 0.
        block: usize,
        /// Number of blocks of the model.
        blocks: usize,
    },
    /// There are no heads or too many, or their width is 0 or too large.
    #[error("key/value cache: {heads} heads of width {dim} are not supported")]
    Shape {
        /// Number of key/value heads.
        heads: usize,
        /// Width of a head.
        dim: usize,
    },
    /// The pages would exceed the limit.
    #[error("key/value cache: {bytes} bytes of pages, more than the limit of {limit}")]
    Limit {
        /// Total bytes, including the requested page.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The allocator returned no memory.
    #[error("out of memory: the key/value cache needs {bytes} bytes more")]
    Memory {
        /// Bytes requested.
        bytes: usize,
    },
}
