//! What a network computes with: products, norms, rotary positions, attention. Nothing here knows a model.
//!
//! | module | computes |
//! |---|---|
//! | [`pool`] | runs the tasks of one product after another on threads of its own |
//! | [`packed`] | products with integers of few bits |
//! | [`dense`] | products with floats of 16 or 32 bits, or with weights decoded in the product |
//! | [`kv`] | attention over keys and values in pages |
//! | [`elementwise`] | everything else in a block |
//!
//! Kernels take sizes and slices; which of them a layer needs is said by a description of the network
//! (`impasto-model`), and `impasto-runtime` puts the two together. A kernel for another instruction set stands beside
//! the scalar one, which is its reference, and is chosen by [`impasto_core::Isa`]. Results do not depend on the number
//! of threads.

pub mod dense;
pub mod elementwise;
mod error;
pub mod kv;
pub mod packed;
mod parts;
pub mod pool;
mod workers;

pub use error::KernelError;
pub use pool::Pool;
pub use workers::Workers;
