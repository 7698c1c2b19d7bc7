//! Checkpoints in and out: safetensors files and Hugging Face folders.
//!
//! [`Checkpoint::open`] maps a folder or a lone file into memory and checks every header before any
//! tensor is touched. [`SafetensorsWriter`] streams tensors into a new file, with a fresh header or
//! with the raw header of a [`Shard`], which gives the original file back byte for byte.
//!
//! The format is that of the safetensors project: 8 bytes, the little-endian length of the header;
//! the header, a JSON object from tensor names to dtype, shape and byte range; the data.

mod asset;
mod atomic;
mod checkpoint;
mod error;
mod header;
mod index;
mod json;
mod rules;
mod shard;
mod writer;

pub use asset::{Asset, MAX_ASSET_BYTES};
pub use atomic::{atomic_write, join_inside};
pub use checkpoint::Checkpoint;
pub use error::CheckpointError;
pub use header::{Header, MAX_HEADER_BYTES, TensorInfo, parse_detached_header, parse_header};
pub use rules::{HeaderRule, IndexRule, TensorRule};
pub use shard::Shard;
pub use writer::{SafetensorsWriter, TensorSpec, write_safetensors};
