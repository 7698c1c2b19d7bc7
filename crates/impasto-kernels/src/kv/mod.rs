//! Paged storage of keys and values, and attention over it.
//!
//! ```text
//! KvLayout (formats by block) --> KvStore --(append)--> pages of 64 tokens, counted by Pages
//!                                    \--(attend)--> queries x pages, kernels by isa
//! ```
//! A token allocates nothing but pages. The working memory of [`attend`] is a [`Scratch`].

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
