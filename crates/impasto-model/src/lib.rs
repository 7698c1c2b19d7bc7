//! A decoder-only network: its description and its reference implementation.
//!
//! This crate knows no files and no text. A [`WeightSource`] provides the configuration and tensors by name: a
//! checkpoint folder, an `.impasto` file, or a table in a test. Token ids go in, logits come out.
//!
//! ```text
//! WeightSource --> config --> graph --> decoder (a CausalLm): ids --> logits --> sampling
//!                                          \-- backward, Walk: for calibration
//! CausalLm + KvCache + Sampler = Session: generation, one step per call
//! ```
//!
//! The supported model families are the rows of one table, `config/family.rs`. A configuration becomes a description of
//! the network ([`graph`]), which [`decoder::Decoder`] and faster networks run. A [`Probe`] receives the inputs of
//! linear layers, a [`GradientProbe`] also the gradients of their outputs.
//!
//! All arithmetic is binary32, with products by the `gemm-f32` crate. Faster networks (`impasto-runtime`) are compared with
//! this reference.

pub mod cache;
pub mod config;
#[cfg(feature = "decoder")]
pub mod decoder;
mod error;
pub mod graph;
mod network;
mod probe;
#[cfg(feature = "decoder")]
mod product;
pub mod sampling;
mod session;
mod source;
pub mod speculation;

pub use cache::KvCache;
pub use error::{ModelError, Result};
pub use network::{CausalLm, Hidden, Want, check_tokens};
pub use probe::{GradientProbe, LinearInfo, Probe};
#[cfg(feature = "decoder")]
pub use product::{add_gram, row_products};
pub use session::{PREFILL, Prefill, Session, Step};
pub use source::{
    Blocks, CodedTensor, Difference, Failure, HalfTensor, LatticeRows, LatticeTensor, LowRankFactors, SparseRows,
    WeightSource,
};
