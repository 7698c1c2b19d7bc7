//! Running a model: definition, float reference forward, tokenizer, sampling, evaluation.
//!
//! This crate knows no files. A [`WeightSource`] hands it tensors by name and assets (configuration, tokenizer, chat
//! template); what stands behind it may be a checkpoint folder, an `.impasto` file or a table in a test.
//!
//! ```text
//! WeightSource --> config --> decoder (a CausalLm) -+--> generate (sampling, stop) --> text
//!              \-> tokenizer, chat -----------------+--> eval (perplexity, KL divergence)
//! ```
//!
//! The families of models that run are the rows of one table, `config/family.rs`; [`decoder::Decoder`] is the one network
//! for all of them. A [`Probe`] sees what its linear layers see, a [`GradientProbe`] also what they do to the loss.
//!
//! [`Model::load`] is the easy entry; each module also stands alone. All arithmetic is binary32 with the products taken
//! by the `gemm` crate: this is the reference that faster runtimes are compared with.

pub mod cache;
pub mod chat;
pub mod config;
pub mod decoder;
mod error;
pub mod eval;
pub mod generate;
mod model;
mod network;
mod probe;
mod product;
mod rng;
pub mod runtime;
pub mod sampling;
mod source;
mod stop;
mod strftime;
pub mod tokenizer;

pub use cache::KvCache;
pub use error::{ModelError, Result};
pub use model::{Model, RunOptions};
pub use network::{CausalLm, Hidden, Want};
pub use probe::{GradientProbe, LinearInfo, Probe};
pub use product::add_gram;
pub use source::{CodedTensor, Failure, Halves, LatticeBand, LatticeTensor, OpenTensor, WeightSource};
