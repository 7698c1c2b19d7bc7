//! Runs a model: a fast network, its tokenizer and its chat template.
//!
//! [`Runtime`] is the network that `impasto-model` describes. Its matrices are in memory in one of the *residences*:
//! packed into integers of few bits or blocks of ggml, entropy-coded as in the file, or (if the weights are neither on a
//! lattice nor blocks) as floats of 16 or 32 bits. Keys and values are stored in pages. A token allocates nothing but
//! pages. The kernels are in `impasto-kernels`.
//!
//! ```text
//! WeightSource --load--> matrix: packed | blocks | coded | dense --\
//! tokens --network--> products, norms, attention over kv ----------+--> logits --Session--> tokens --Stream--> text
//!                     all on the threads of one pool
//! ```
//!
//! With [`Packs`], packed matrices are kept in files, which later loads map.
//!
//! [`Model::load`] is the simplest entry point: it loads network, tokenizer and chat template from one source. Programs that have
//! a network of their own multiply single matrices: [`WeightMatrix`].

mod compare;
mod drafting;
mod error;
mod generate;
mod kv_upgrade;
mod lattice;
mod layered;
mod load;
mod matrices;
mod matrix;
mod model;
mod network;
mod over;
mod packs;
mod paged;
mod pass;
mod refine;
mod room;
mod view;
mod weights;

pub use compare::Comparison;
pub use drafting::{Drafting, layer_that_drafts};
pub use error::{Result, RuntimeError};
pub use generate::{GenerateOptions, Generation, StopReason, Stream, generate, stream};
pub use impasto_kernels::kv::{KvFormat, KvLayout};
pub use impasto_kernels::packed::{Activations, Packing};
pub use kv_upgrade::{KvUpgrade, Upgrader};
pub use load::{LoadTimes, LoadWarning, Residence};
pub use matrices::WeightMatrix;
pub use model::{Model, RunOptions};
pub use network::{KvMemory, Runtime, RuntimeOptions};
pub use packs::{Pack, PackError, Packs};
pub use refine::{Refined, Refiner};
pub use view::View;
pub use weights::Replacement;
