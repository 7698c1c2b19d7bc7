//! GGUF, the format of ggml and llama.cpp.
//!
//! [`parse_header`] checks everything before the data; [`Checkpoint::open`](crate::Checkpoint::open) maps the file, or all parts
//! of one that is split. [`TensorWriter::gguf`](crate::TensorWriter::gguf) writes one. A tensor of a type that has a
//! [`DType`](impasto_core::DType) is plain or of blocks; every other type of ggml, known here or not, is opaque under its name.

mod cursor;
mod encode;
mod header;
pub mod hf;
mod metadata;
mod open;
mod rules;
mod split;
mod types;
mod value;

pub use encode::encode_header;
pub(crate) use header::parse_header_for;
pub use header::{Header, parse_detached_header, parse_header};
pub use metadata::Metadata;
pub use rules::{GgufRule, SplitRule};
pub(crate) use split::only_file;
pub use value::{Array, Value, ValueType};
