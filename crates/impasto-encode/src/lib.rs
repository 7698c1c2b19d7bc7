//! The encoding job: from a checkpoint to one file, by calibration, rounding and mode decision.
//!
//! [`encode`] runs it. The modules:
//!
//! | module | contents |
//! |---|---|
//! | `job` | the whole job: a lossless file, one of a requested size, or a layered one |
//! | `inputs` | the input: tensors as matrices (`matrix`), the scales of their weights (`scales`), their metrics
//! (`metric`) |
//! | `planner`, `plan` | mode, tables and tiles of each tensor, with a forecast of its size |
//! | `quality` | the search for the step that meets a KL divergence |
//! | `memory` | what encoding holds in memory, within a limit |
//! | `portion` | an encoding on several machines: portions, and how they are joined |
//! | `rate`, `pace` | the search for the step that meets a size: by forecasts, then by what tensors take as they are coded |
//! | [`feedback`] | rounding with error feedback (GPTQ, LDLQ), column by column, with checkpoints |
//! | `prune` | weights that become 0, by a criterion and a pattern |
//! | `lattice` | steps of a matrix, its integers chosen by error and cost, their classes |
//! | `low_rank`, `eigen` | low-rank parts of tensors: whether they pay, how their vectors are found |
//! | `trial`, `tools`, `shapes` | mode decision: tools that try a tile or tables, chosen by `D + lambda R` |
//! | `formats` | formats of engines as targets: which tensor gets which, scales of groups, rounding |
//! | [`transform`] | the encoder of mode transform |
//! | [`reorder`] | orders of hidden units and attention heads, which the network absorbs; `lines`: how they are found |
//! | [`sensitivity`](mod@sensitivity) | how much the error of each tensor matters: estimators, and the measured divergence |
//! | [`analysis`] | what each tool of mode transform earns on the tensors of a checkpoint |
//! | `code`, `write` | tensors to units, units to the file |
//! | `decoded` | tensors as a decoder finds them, to predict others from them |
//! | `over` | the base of a delta: which tensors are like those of it |
//! | `layers`, `layered`, `aside` | nested lattices; layered files, with units in order of gain per byte |
//! | `drift` | covariances after coded layers |
//! | `quantize`, `ggml` | a GGUF in the block types of llama.cpp: which types, and rounding to them |
//! | [`recover`](mod@recover) | multipliers of rows, trained so that a coded network predicts what the original does |
//! | [`calibrate`], [`statistics`] | the measurements that metrics are based on |
//!
//! **To add a coding tool**, implement `trial::Tool`; its module says where to register it.
//!
//! The bytes of a file depend only on the checkpoint, the statistics and the options: sums have a fixed order, and
//! logarithms are integers (`arithmetic`).

pub mod analysis;
mod arithmetic;
mod aside;
mod calibrate;
mod check;
mod code;
mod decoded;
mod drift;
mod eigen;
mod error;
pub mod feedback;
mod formats;
#[cfg(feature = "gguf")]
mod ggml;
mod inputs;
mod job;
mod lattice;
mod layered;
mod layers;
mod layout;
mod lines;
mod low_rank;
mod matrix;
mod memory;
mod metric;
mod model;
mod options;
mod over;
mod pace;
mod plan;
mod planner;
mod portion;
mod prune;
mod quality;
#[cfg(feature = "gguf")]
mod quantize;
mod rate;
pub mod recover;
pub mod reorder;
mod report;
mod scales;
pub mod sensitivity;
mod shapes;
mod spool;
pub mod statistics;
mod text;
mod tiles;
mod tools;
pub mod transform;
mod trial;
mod write;

#[doc(hidden)]
pub use calibrate::fuzz_sums;
pub use calibrate::{
    CalibrateOptions, Calibrating, calibrate, calibrate_portion, is_calibration, merge_statistics, model_hash,
};
pub use check::{GuideKind, check};
pub use drift::Sequential;
pub use error::EncodeError;
pub use formats::{Formats, FormatsError, Selector};
pub use impasto_codec::Trellis;
pub use job::{encode, encode_calibrated, encode_to_quality, is_input};
pub use layers::{Extent, Layers};
pub use low_rank::{Residual, ResidualError};
pub use metric::Floors;
pub use options::{Calibrated, LEAST_WEIGHTS, Options, Preset, Progress, Target, Watch};
pub use over::{BaseAsset, BaseError, BaseFile};
#[doc(hidden)]
pub use portion::fuzz_portion;
pub use portion::{Merged, Portion, PortionReport, encode_portion, merge};
pub use prune::{Criterion, Pattern, Pruning};
pub use quality::{Judge, Judged, Quality};
#[cfg(feature = "gguf")]
pub use quantize::{GgufMix, QuantizeOptions, QuantizeReport, QuantizedTensor, quantize};
pub use report::{LayerReport, Report, TensorReport};
pub use statistics::{Info, Statistics};
pub use text::TEXT;
