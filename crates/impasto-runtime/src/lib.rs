//! A model that runs: a fast network, its tokenizer and its chat template.
//!
//! [`Runtime`] is the network that `impasto-model` describes; its matrices lie in memory in one of the *residences*: packed
//! into integers of few bits, entropy-coded as in the file, or (where weights are no integers) as floats of 16 or 32
//! bits. Keys and values lie in pages. One token allocates nothing but pages. What it computes with is `impasto-kernels`.
//!
//! ```text
//! WeightSource --load--> matrix: packed | coded | dense --\
//! tokens --network--> products, norms, attention over kv --+--> logits --Session--> tokens --Stream--> text
//!                     all on the threads of one pool
//! ```
//!
//! [`Model::load`] is the easy entry: network, tokenizer and template of one source.

mod error;
mod generate;
mod load;
mod matrix;
mod model;
mod network;
mod paged;
mod pass;
mod room;
mod weights;

pub use error::{Result, RuntimeError};
pub use generate::{GenerateOptions, Generation, StopReason, Stream, generate, stream};
pub use impasto_kernels::kv::{KvFormat, KvLayout};
pub use impasto_kernels::packed::Activations;
pub use load::{LoadTimes, LoadWarning, Residence};
pub use model::{Model, RunOptions};
pub use network::{Runtime, RuntimeOptions};
pub use weights::Replacement;
