//! Reads and writes checkpoints: safetensors files, Hugging Face folders, and GGUF files.
//!
//! [`Checkpoint::open`] maps a folder or a single file into memory and checks all headers before any tensor is
//! accessed. [`TensorWriter`] streams tensors to a new file of either format, with a new header, or with the raw header
//! of a [`Shard`] to restore the original file byte for byte.
//!
//! The feature `gguf`, which is on by default, enables GGUF; without it, GGUF files are refused with a clear error.
//!
//! A safetensors file has 8 bytes with the little-endian length of the header; the header, a JSON object that maps
//! tensor names to dtype, shape and byte range; and the data. For GGUF see the module `gguf`.

mod asset;
mod atomic;
mod change;
mod checkpoint;
mod error;
#[cfg(feature = "gguf")]
pub mod gguf;
mod header;
mod index;
mod json;
mod rules;
mod shard;
mod tensor;
mod writer;

pub use asset::{Asset, MAX_ASSET_BYTES};
pub use atomic::{atomic_write, join_inside};
pub use change::Change;
pub use checkpoint::Checkpoint;
pub use error::CheckpointError;
pub use header::{Header, MAX_HEADER_BYTES, parse_detached_header, parse_header};
pub use rules::{HeaderRule, IndexRule, TensorRule};
pub use shard::{Format, Shard};
pub use tensor::{Opaque, TensorInfo, TensorSpec};
#[cfg(feature = "gguf")]
pub use writer::write_gguf;
pub use writer::{TensorWriter, write_safetensors};

/// Metadata of a GGUF, which cannot exist without the feature `gguf`.
#[cfg(not(feature = "gguf"))]
mod gguf {
    #[derive(Debug)]
    pub(crate) enum Metadata {}
}
