//! Tensors to coded units and back: entropy coding, lossless floats, lattice.
//!
//! This crate knows neither files nor models: a tile of a matrix goes in, the bytes of a unit come out, and the reverse. What the
//! bytes mean is `docs/SPEC.md`, clauses 5 to 10 and 12 to 14; modules carry its words.

pub mod bits;
pub mod blocks;
mod bytes;
pub mod class;
pub mod dtype;
mod error;
pub mod exact;
pub mod float;
pub mod head;
pub mod index;
pub mod lattice;
mod level;
pub mod rans;
pub mod refinement;
pub mod tables;
pub mod tile;
pub mod values;
pub mod varint;

pub use class::Kind;
pub use dtype::{DType, FloatLayout};
pub use error::CodecError;
pub use head::{Body, Head, Refinement, Shape, Steps};
pub use index::IndexArray;
pub use level::{Level, LevelError};
