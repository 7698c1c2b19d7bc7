use thiserror::Error;

/// What can go wrong with a store of keys and values.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KvError {
    /// A part of the layout's text means nothing.
    #[error("key/value layout: {part:?}: {rule}")]
    Layout {
        /// The part.
        part: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The layout names a transformer block that the model lacks.
    #[error("key/value layout: block {block} of a model that has {blocks}")]
    Block {
        /// The block, counted from 0.
        block: usize,
        /// Blocks of the model.
        blocks: usize,
    },
    /// Heads of no size, or of one that overflows the address space.
    #[error("key/value cache: {heads} heads of {dim}")]
    Shape {
        /// Key/value heads.
        heads: usize,
        /// Width of a head.
        dim: usize,
    },
    /// The pages would take more than allowed.
    #[error("key/value cache: {bytes} bytes of pages, more than the limit of {limit}")]
    Limit {
        /// Bytes with the page asked for.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The allocator refused.
    #[error("out of memory: the key/value cache needs {bytes} bytes more")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
}
