//! The facade: open, read, verify and decode .impasto files, and make them.
//!
//! ```no_run
//! use impasto::File;
//!
//! let file = File::open("smollm2.impasto".as_ref())?;
//! let query = file.tensor("model.layers.0.self_attn.q_proj.weight")?;
//! let first_rows = query.band(0..64, 0..query.matrix().cols())?; // reads only the units of these rows
//! # Ok::<(), impasto::FileError>(())
//! ```

mod cut;
mod error;
pub mod export;
mod file;
#[cfg(any(feature = "encode", feature = "run"))]
mod lattice;
mod tensor;
mod truncate;
pub mod verify;
mod view;
#[cfg(any(feature = "encode", feature = "run"))]
mod weights;

pub use cut::{Cut, Layer};
pub use error::FileError;
pub use file::{File, MEMORY_LIMIT};
pub use impasto_checkpoint::{Checkpoint, CheckpointError};
#[cfg(feature = "encode")]
pub use impasto_encode::{
    CalibrateOptions, Calibrated, Calibrating, EncodeError, Extent, Floors, Info, LayerReport, Layers, Options,
    Progress, Report, Sequential, Statistics, TEXT, Target, TensorReport, Watch, calibrate, encode, encode_calibrated,
};
pub use tensor::Tensor;
pub use truncate::{record_klds, truncate};
pub use view::{Origin, View};
#[cfg(any(feature = "encode", feature = "run"))]
pub use weights::{CheckpointWeights, FileWeights};
