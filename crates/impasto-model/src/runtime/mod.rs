//! Running from the compressed form.
//!
//! The network is that of [`crate::decoder`]; its matrices lie in memory in one of three *residences*: [`packed`] into
//! integers of few bits, entropy-coded as in the file, or (where weights are no integers) as floats of 16 or 32 bits.
//! Keys and values lie in pages ([`kv`]). One token allocates nothing but pages.
//!
//! ```text
//! WeightSource --load--> matrix: packed | coded | dense --\
//! tokens --network--> products, norms, attention over kv --+--> logits
//!                     all on the threads of one pool
//! ```

pub mod dense;
mod elementwise;
pub mod kv;
mod load;
mod matrix;
mod network;
pub mod packed;
pub(crate) mod parts;
pub mod pool;
pub(crate) mod workers;

pub use load::{LoadTimes, Residence};
pub use network::{Runtime, RuntimeOptions};
pub use pool::Pool;
