//! Keys and values of the tokens so far, in pages, and attention over them.
//!
//! ```text
//! KvLayout (formats by block) --> KvStore --(append)--> pages of 64 tokens, counted by Pages
//!                                    \--(attend)--> queries x pages, kernels by isa
//! ```
//! Nothing is allocated for a token but pages; what [`attend`] works with is a [`Scratch`].

mod attend;
mod error;
mod exp;
mod hadamard;
mod kernel;
mod lanes;
mod layout;
mod lines;
mod pages;
mod plane;
mod scratch;
mod softmax;
mod store;
#[cfg(test)]
mod tests;

pub use attend::{AttentionShape, attend};
pub use error::KvError;
pub use layout::{KvFormat, KvLayout, KvOverride};
pub use pages::{PAGE, Pages};
pub use scratch::Scratch;
pub use store::KvStore;
