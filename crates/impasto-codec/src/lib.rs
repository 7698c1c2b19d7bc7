//! Coding of tensors to units, and decoding: entropy coding, lossless floats, the lattice, transforms.
//!
//! This crate knows neither files nor models: it turns a tile of a matrix into the bytes of a unit, and back. The
//! format is defined by `docs/SPEC.md`, clauses 5 to 10, 12 to 14, 16 to 20; modules use its terms.

pub mod bits;
pub mod blocks;
mod bytes;
pub mod class;
pub mod digits;
mod error;
pub mod exact;
pub mod float;
pub mod format;
pub mod header;
pub mod index;
pub mod low_rank;
pub mod rans;
pub mod refinement;
pub mod sink;
pub mod tables;
pub mod tile;
pub mod transform;
pub mod trellis;

pub use class::Kind;
pub use error::CodecError;
pub use format::Groups;
pub use header::{Body, Refinement, Shape, Steps, TensorHeader};
pub use index::IndexArray;
pub use low_rank::LowRank;
pub use trellis::Trellis;
