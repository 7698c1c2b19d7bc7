//! GGUF, the format of ggml and llama.cpp.
//!
//! [`parse_header`] checks everything before the data. [`Checkpoint::open`](crate::Checkpoint::open) maps a file, or
//! all parts of a split one, and [`TensorWriter::gguf`](crate::TensorWriter::gguf) writes one. Tensors of types with a
//! [`DType`](impasto_core::DType) are plain or blocks; all other types of ggml, known or not, are opaque under their
//! names.

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
