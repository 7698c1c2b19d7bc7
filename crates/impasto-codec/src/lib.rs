//! Tensors to coded units and back: entropy coding, lossless floats, lattice.
//!
//! This crate knows neither files nor models: a tile of a matrix goes in, the bytes of a unit come out, and the reverse. What the
//! bytes mean is `docs/SPEC.md`, clauses 5 to 10 and 12 to 14; modules carry its words.

pub mod bits;
mod bytes;
pub mod class;
mod error;
pub mod exact;
pub mod float;
pub mod header;
pub mod index;
pub mod rans;
pub mod refinement;
pub mod sink;
pub mod tables;
pub mod tile;

pub use class::Kind;
pub use error::CodecError;
pub use header::{Body, Refinement, Shape, Steps, TensorHeader};
pub use index::IndexArray;
