//! Vocabulary shared by all crates: dtypes and their bit fields, coding modes, lattice reconstruction.
//!
//! These definitions are separate from the codec so that crates that need only them (checkpoints, the container, the
//! kernels) do not compile an entropy coder.
//!
//! | module | defines | SPEC |
//! |---|---|---|
//! | [`dtype`] | element types, and the bit fields of floats ([`FloatLayout`]) | 3.5, 9, 14 |
//! | [`values`] | conversion of elements to binary32 | 3.5 |
//! | [`blocks`] | ggml's blocks of quantized weights, to and from binary32 | 3.5.1 |
//! | [`format`](mod@format) | formats of engines: integers and small floats under scales of groups ([`Format`]) | 20 |
//! | [`json`] | JSON as Python writes it | |
//! | [`lattice`] | reconstruction of weights from integers | 10.2, 10.3, 12.4 |
//! | [`mode`] | coding modes of units ([`Mode`]) | 5 |
//! | [`varint`] | LEB128 and zigzag | 1.2, 1.3 |
//! | [`isa`] | instruction sets of kernels ([`Isa`]) | |
//! | [`kind`] | what a file is, told from its first bytes ([`FileKind`]) | |
//! | [`name`] | names of files, and characters that a terminal must not see | 3.4.4 |
//! | `files` | atomically written files, memory maps (feature `files`) | |
//! | [`rng`] | a random stream that is the same on every platform | |
//!
//! ```
//! use impasto_core::{DType, Mode, lattice};
//!
//! assert_eq!(DType::from_name("BF16"), Some(DType::Bf16));
//! assert_eq!(Mode::LATTICE.name(), Some("lattice"));
//! assert_eq!(lattice::weight(-3, 0.0, 0.5, lattice::scale(16)), -3.0); // scale(16) is one octave: 2
//! ```

pub mod blocks;
pub mod dtype;
#[cfg(feature = "files")]
pub mod files;
pub mod format;
pub mod isa;
pub mod json;
pub mod kind;
pub mod lattice;
pub mod mode;
pub mod name;
mod place;
pub mod rng;
pub mod values;
pub mod varint;

pub use dtype::{DType, FloatLayout};
pub use format::Format;
pub use isa::{Isa, IsaError};
pub use kind::FileKind;
pub use mode::Mode;
pub use place::Place;
