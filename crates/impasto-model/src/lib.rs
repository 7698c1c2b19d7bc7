//! A decoder-only network: what it is, and its reference.
//!
//! This crate knows no files and no text. A [`WeightSource`] hands it tensors by name and the configuration; what stands
//! behind it may be a checkpoint folder, an `.impasto` file or a table in a test. Token ids go in, logits come out.
//!
//! ```text
//! WeightSource --> config --> graph --> decoder (a CausalLm): ids --> logits --> sampling
//!                                          \-- backward, Walk: what calibration needs
//! CausalLm + KvCache + Sampler = Session: generation by steps that the caller drives
//! ```
//!
//! The families of models that run are the rows of one table, `config/family.rs`. A configuration becomes a description of
//! the network ([`graph`]), which [`decoder::Decoder`] and faster networks carry out. A [`Probe`] sees what linear layers see,
//! a [`GradientProbe`] also what they do to the loss.
//!
//! All arithmetic is binary32 with the products taken by the `gemm` crate: this is the reference that faster networks
//! (`impasto-runtime`) are compared with.

pub mod cache;
pub mod config;
pub mod decoder;
mod error;
pub mod graph;
mod network;
mod probe;
mod product;
pub mod sampling;
mod session;
mod source;

pub use cache::KvCache;
pub use error::{ModelError, Result};
pub use network::{CausalLm, Hidden, Want, check_tokens};
pub use probe::{GradientProbe, LinearInfo, Probe};
pub use product::add_gram;
pub use session::{PREFILL, Prefill, Session, Step};
pub use source::{CodedTensor, Failure, Halves, LatticeBand, LatticeTensor, WeightSource};
