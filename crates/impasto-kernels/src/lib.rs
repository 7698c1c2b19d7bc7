//! The computations of a network: products, norms, rotary position embeddings, attention. This crate knows no models.
//!
//! | module | computes |
//! |---|---|
//! | [`pool`] | thread pool that runs the tasks of one product at a time |
//! | [`packed`] | products with weights stored as integers of a few bits |
//! | [`blocks`] | products with the blocks of ggml, as a GGUF file stores them |
//! | [`dense`] | products with weights stored as 16-bit or 32-bit floats, or decoded during the product |
//! | [`low_rank`] | products with matrices of low rank, as two thin products |
//! | [`sparse`] | products with matrices of few weights that are not 0 |
//! | [`stored`] | the other way: matrices as bytes of a file, used in place |
//! | [`kv`] | attention over paged keys and values |
//! | [`elementwise`] | all other operations of a transformer block |
//!
//! Kernels take sizes and slices. The description of a network (`impasto-model`) says which kernels a layer needs;
//! `impasto-runtime` runs them. Each kernel for an instruction set has a scalar reference; [`impasto_core::Isa`]
//! selects among them. Results do not depend on the number of threads.

pub mod blocks;
pub mod dense;
pub mod elementwise;
mod error;
pub mod kv;
pub mod low_rank;
pub mod packed;
mod parts;
pub mod pool;
mod prefetch;
pub mod sparse;
pub mod stored;
mod workers;

pub use error::KernelError;
pub use pool::Pool;
pub use workers::Workers;
