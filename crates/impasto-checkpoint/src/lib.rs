//! Checkpoints in and out: safetensors files, Hugging Face folders, and GGUF files.
//!
//! [`Checkpoint::open`] maps a folder or a lone file into memory and checks every header before any
//! tensor is touched. [`TensorWriter`] streams tensors into a new file of either format, with a fresh
//! header or with the raw header of a [`Shard`], which gives the original file back byte for byte.
//!
//! GGUF is behind the feature `gguf`, on by default; without it a GGUF is refused by name.
//!
//! Safetensors is the format of the project of that name: 8 bytes, the little-endian length of the
//! header; the header, a JSON object from tensor names to dtype, shape and byte range; the data. For
//! GGUF see the module `gguf`.

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

/// The metadata of a GGUF: without the feature `gguf` there are none.
#[cfg(not(feature = "gguf"))]
mod gguf {
    #[derive(Debug)]
    pub(crate) enum Metadata {}
}
