//! The encoding job: calibration, steps, rounding, tables, mode decision; a checkpoint to one file.
//!
//! [`encode`] runs it. One module, one idea:
//!
//! | module | does |
//! |---|---|
//! | `job` | the whole: a lossless file, one of a wanted size, one in layers |
//! | `inputs` | what is encoded: tensors as matrices (`matrix`), the scales of their weights (`scales`), how errors count (`metric`) |
//! | `planner`, `plan` | mode, tables and tiles of each tensor, and what that will take |
//! | `rate` | one search for the step that meets a size: by forecast, then by what was coded |
//! | [`feedback`] | rounding with error feedback (GPTQ, LDLQ), column by column, with checkpoints |
//! | `lattice` | steps of a matrix, its integers by error and cost, their classes |
//! | `trial`, `tools`, `shapes` | mode decision: tools that try a tile or tables, chosen by `D + lambda R` |
//! | `code`, `write` | tensors to units, units to the file |
//! | `layers`, `layered`, `aside` | nested lattices; files in layers, their units by what they gain |
//! | `drift` | inputs as coded layers see them |
//! | [`calibrate`], [`statistics`] | what the metric is made of |
//!
//! **A new coding tool** is one implementation of `trial::Tool`; the docs of `trial` say where it plugs in.
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
mod inputs;
mod job;
mod lattice;
mod layered;
mod layers;
mod layout;
mod matrix;
mod metric;
mod model;
mod options;
mod plan;
mod planner;
mod rate;
mod report;
mod scales;
mod shapes;
mod spool;
pub mod statistics;
mod text;
mod tiles;
mod tools;
mod trial;
mod write;

pub use calibrate::{CalibrateOptions, Calibrating, calibrate, model_hash};
pub use drift::Sequential;
pub use error::EncodeError;
pub use job::{encode, encode_calibrated};
pub use layers::{Extent, Layers};
pub use metric::Floors;
pub use options::{Calibrated, LEAST_WEIGHTS, Options, Progress, Target, Watch};
pub use report::{LayerReport, Report, TensorReport};
pub use statistics::{Info, Statistics};
pub use text::TEXT;
