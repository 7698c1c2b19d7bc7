//! The encoding job: scales, rates, mode decision, a checkpoint to one file.
//!
//! [`encode`] runs it. A tensor is seen as a matrix (`matrix`), its row and column scales are fitted
//! (`scales`), its symbols counted under their classes and the cheapest tables chosen (`plan`). In a lossy file each tensor's error has its measure (`metric`), which gives its steps;
//! its rows are rounded with feedback ([`feedback`], `lattice`), and one global step is moved until the
//! forecast meets the wanted size (`rate`). Then everything is coded and written (`code`, `job`).
//! [`calibrate`] makes the statistics that a metric is made of (`statistics`).
//!
//! The bytes depend on the checkpoint, the statistics and the options only: sums have a fixed order, and logarithms
//! are integers (`arithmetic`).

mod arithmetic;
mod aside;
mod calibrate;
mod code;
mod drift;
mod error;
pub mod feedback;
mod job;
mod lattice;
mod layered;
mod layers;
mod layout;
mod matrix;
mod metric;
mod model;
mod plan;
mod rate;
mod report;
mod scales;
mod spool;
pub mod statistics;
mod text;
mod tiles;

pub use calibrate::{CalibrateOptions, Calibrating, calibrate, model_hash};
pub use drift::Sequential;
pub use error::EncodeError;
pub use job::{Calibrated, LEAST_WEIGHTS, Options, Progress, Target, encode, encode_calibrated};
pub use layers::{Extent, Layers};
pub use metric::Floors;
pub use report::{LayerReport, Report, TensorReport};
pub use statistics::{Info, Statistics};
pub use text::TEXT;
