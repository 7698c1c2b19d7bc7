//! Tensors to coded units and back: entropy coding, lossless floats, lattice.

pub mod dtype;

pub use dtype::{DType, FloatLayout};
