//! Compressed neural network weights: encode `.impasto` files, read any part of them, run models from them.
//!
//! # Read
//!
//! A file is mapped into memory, and a tensor is decoded on request. A *band* of a tensor (some rows, some columns)
//! reads only the units of that band. Damage is an error that names the unit.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.impasto");
//! # let tiny = impasto::Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny").as_ref())?;
//! # let options = impasto::encode::Options::new(impasto::encode::Target::Lossless);
//! # impasto::encode::encode(&tiny, &path, &options, &|_| std::ops::ControlFlow::Continue(()))?;
//! use impasto::File;
//!
//! let file = File::open(&path)?;
//! let query = file.tensor("model.layers.0.self_attn.q_proj.weight")?;
//! let weights = query.bytes()?; // little-endian, row-major
//! let first_rows = query.band(0..8, 0..query.matrix().cols())?;
//! assert_eq!(weights[..first_rows.len()], first_rows);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A layered file contains coarser models: [`File::cut`] limits how much of it is read, and [`truncate`] writes a
//! smaller file. [`export`](mod@export) restores a checkpoint, and [`verify`](mod@verify) checks every unit.
//!
//! # Encode
//!
//! [`mod@encode`] makes a file from a [`Checkpoint`]: a Hugging Face folder, a safetensors file or a GGUF. With
//! statistics of a text, from [`mod@calibrate`], a lossy file has its errors where they affect the model least.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.impasto");
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny");
//! use std::ops::ControlFlow;
//!
//! use impasto::Checkpoint;
//! use impasto::encode::{Options, Target, encode};
//!
//! let checkpoint = Checkpoint::open(model.as_ref())?;
//! let options = Options::new(Target::BitsPerWeight(4.0));
//! let report = encode(&checkpoint, &path, &options, &|_progress| ControlFlow::Continue(()))?; // or Break, to cancel
//! assert!(report.summary.file_length * 8 <= report.weights * 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Run
//!
//! [`run`](mod@run) generates text from the compressed weights and streams it as it is generated.
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.impasto");
//! # let tiny = impasto::Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny").as_ref())?;
//! # let options = impasto::encode::Options::new(impasto::encode::Target::Lossless);
//! # impasto::encode::encode(&tiny, &path, &options, &|_| std::ops::ControlFlow::Continue(()))?;
//! use std::ops::ControlFlow;
//!
//! use impasto::run::{GenerateOptions, Model, RunOptions};
//! use impasto::{File, FileWeights};
//!
//! let weights = FileWeights::new(File::open(&path)?)?;
//! let model = Model::load(&weights, &RunOptions::default())?;
//! let prompt = model.tokenizer()?.encode("The sea", true)?;
//! let options = GenerateOptions { max_tokens: 8, ..model.generate_options() };
//! let generation = model.generate(&prompt, &options, &mut |piece| {
//!     print!("{piece}");
//!     ControlFlow::Continue(()) // or Break, to stop
//! })?;
//! assert!(generation.tokens.len() <= 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! | feature | enables |
//! |---|---|
//! | `encode` | [`mod@encode`] and [`mod@calibrate`]; with `gguf` also [`mod@quantize`] |
//! | `run` | [`mod@run`] |
//! | `gguf` | GGUF files as checkpoints and as exports |
//! | `onnx` | folders for ONNX Runtime as exports |
//!
//! All features are on by default. Without them, the crate reads, verifies, decodes, truncates and exports safetensors;
//! calibration, tokenizer, templates and matrix products are not compiled.

#[cfg(any(feature = "encode", feature = "run"))]
mod adapter;
mod arriving;
mod base;
mod bases;
mod cut;
mod error;
pub mod export;
mod file;
#[cfg(any(feature = "encode", feature = "run"))]
mod halves;
#[cfg(any(feature = "encode", feature = "run"))]
mod lattice;
mod left_out;
#[cfg(feature = "run")]
mod live;
#[cfg(feature = "encode")]
mod over;
#[cfg(feature = "encode")]
pub mod recover;
mod tensor;
#[cfg(any(feature = "encode", feature = "run"))]
mod threads;
mod truncate;
pub mod verify;
mod view;
#[cfg(any(feature = "encode", feature = "run"))]
mod weights;

#[cfg(any(feature = "encode", feature = "run"))]
pub use adapter::AdapterWeights;
pub use arriving::{Arriving, Stage};
pub use base::{MAX_DEPTH, hex};
pub use bases::Bases;
pub use cut::{Cut, Layer};
pub use error::{FileError, WrongBase};
pub use file::{File, MEMORY_LIMIT, is_impasto};
pub use impasto_checkpoint::{Change, Checkpoint, CheckpointError};
pub use impasto_core::Format;
pub use left_out::LeftOut;
#[cfg(feature = "run")]
pub use live::{Live, LiveError};
pub use tensor::Tensor;
pub use truncate::{record_klds, truncate};
pub use view::{Origin, View};
#[cfg(any(feature = "encode", feature = "run"))]
pub use weights::{CheckpointWeights, FileWeights, weights_of};

/// The parts of a file: types of the container, the codec and the core that occur in the signatures of this crate.
pub mod format {
    pub use impasto_codec::{Body, CodecError, IndexArray, Kind, Refinement, Shape, Steps, TensorHeader};
    pub use impasto_container::{
        Base, BaseLink, BaseUsage, ContainerError, CountingSource, Fetched, GrowingSource, Header, LayerMark,
        LayerUnits, Limits, Matrix, MmapSource, Object, ObjectKind, ObjectUnits, Opaque, Reader, Source, Summary,
        TensorMeta, TileRect, UnitEntry, UnitHealth, UnitState,
    };
    pub use impasto_core::{DType, Isa, IsaError, Mode};
}

/// Encoding checkpoints to files.
#[cfg(feature = "encode")]
pub mod encode {
    pub use crate::over::EncodeBase;
    pub use impasto_encode::BaseFile;
    pub use impasto_encode::reorder::{ReorderBy, Reordered, Reordering, TensorOrder};
    pub use impasto_encode::transform::{Effort, Tools, TransformTool};
    pub use impasto_encode::{
        Criterion, EncodeError, Extent, Floors, Formats, FormatsError, GuideKind, Judge, Judged, LayerReport, Layers,
        Merged, Options, Pattern, Portion, PortionReport, Preset, Progress, Pruning, Quality, Report, Residual,
        ResidualError, Selector, Sequential, Target, TensorReport, Trellis, Watch, check, encode, encode_calibrated,
        encode_portion, encode_to_quality, is_input, merge,
    };
    #[doc(hidden)]
    pub use impasto_encode::{fuzz_portion, fuzz_sums};
}

/// Writing a GGUF in the block types of llama.cpp, with calibrated rounding.
#[cfg(all(feature = "encode", feature = "gguf"))]
pub mod quantize {
    pub use impasto_encode::{GgufMix, QuantizeOptions, QuantizeReport, QuantizedTensor, quantize};
}

/// Finding out what each tool of mode transform earns on the tensors of a checkpoint.
#[cfg(feature = "encode")]
pub mod analysis {
    pub use impasto_encode::analysis::{
        Analysis, AnalysisOptions, AnalysisProgress, AnalysisWatch, BlockChoice, LowRankAnalysis, Means, Rates, SCHEMA,
        Share, Shares, TensorAnalysis, TileAnalysis, ToolAnalysis, ToolMeans, analyze,
    };
}

/// Finding out how much the error of each tensor of a model matters.
#[cfg(feature = "encode")]
pub mod sensitivity {
    pub use impasto_encode::sensitivity::{
        Correlation, Estimate, Estimator, SENSITIVITY_SCHEMA, Sensitivities, SensitivityOptions, SensitivityProgress,
        SensitivityRun, SensitivityWatch, TensorSensitivity, sensitivity,
    };
}

/// Measuring statistics of a model on a text, which improve lossy files.
#[cfg(feature = "encode")]
pub mod calibrate {
    pub use impasto_encode::statistics::{Group, Linear};
    pub use impasto_encode::{
        CalibrateOptions, Calibrated, Calibrating, Info, Statistics, TEXT, calibrate, calibrate_portion,
        is_calibration, merge_statistics,
    };
    pub use impasto_model::WeightSource;
}

/// Running models: network, tokenizer, chat template, generation.
#[cfg(feature = "run")]
pub mod run {
    pub use impasto_kernels::kv::KvError;
    pub use impasto_model::sampling::SamplingParams;
    pub use impasto_model::{
        CausalLm, CodedTensor, Difference, Failure, HalfTensor, Hidden, KvCache, LatticeRows, LatticeTensor,
        LowRankFactors, ModelError, Prefill, Session, SparseRows, Step, Want, WeightSource, config::DecoderConfig,
        decoder::Decoder,
    };
    pub use impasto_runtime::{
        Activations, GenerateOptions, Generation, KvFormat, KvLayout, KvUpgrade, LoadTimes, LoadWarning, Model,
        Refined, Refiner, Replacement, Residence, RunOptions, Runtime, RuntimeError, RuntimeOptions, StopReason,
        Stream, WeightMatrix, generate, stream,
    };
    pub use impasto_text::{ChatOptions, ChatTemplate, Message, TemplateWorker, TextError, TextStream, Tokenizer};
}
