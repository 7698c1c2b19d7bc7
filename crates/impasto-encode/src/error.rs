//! Errors of encoding.

use std::ops::ControlFlow;

use impasto_checkpoint::CheckpointError;
use impasto_codec::CodecError;
use impasto_container::ContainerError;
use thiserror::Error;

use crate::over::BaseError;

/// An error of encoding or calibration. Whatever was at the destination stays.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The file cannot be written.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The destination is a file of the checkpoint, or of the base.
    #[error("{0}: the output would overwrite a file of the checkpoint, or its base")]
    OverInput(String),
    /// A tensor or an asset cannot be coded.
    #[error("{tensor:?}: {error}")]
    Codec {
        /// Name of the tensor or asset.
        tensor: String,
        /// The error of the codec.
        error: CodecError,
    },
    /// The base of a delta cannot be read.
    #[error("{tensor:?} in the base: {error}")]
    Base {
        /// Name of the tensor or asset.
        tensor: String,
        /// The error of reading it.
        error: BaseError,
    },
    /// A checkpoint does not fit its base.
    #[error(transparent)]
    Misfit(BaseError),
    /// An option cannot be used for a delta.
    #[error("a file over a base cannot have {0}")]
    OverBase(&'static str),
    /// The format cannot hold the tensor.
    #[error("tensor {tensor:?}: {rule}")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// The rule that it violates.
        rule: &'static str,
    },
    /// The requested size is less than assets, norms and other exactly coded tensors take, plus the least for lossy
    /// tensors.
    #[error(
        "{wanted} bytes are too few: the smallest file of this model has about {least} bytes ({least_bpw:.3} bits per weight)"
    )]
    TooSmall {
        /// Requested bytes.
        wanted: u64,
        /// Bytes of the smallest possible file.
        least: u64,
        /// The same in bits per weight.
        least_bpw: f64,
    },
    /// The requested size is more than lossy coding can use.
    #[error("{wanted} bytes are more than lossy coding can use ({most} bytes at its finest step): use --lossless")]
    TooLarge {
        /// Requested bytes.
        wanted: u64,
        /// Bytes of the largest lossy file.
        most: u64,
    },
    /// The search for a step did not meet the requested size.
    #[error(
        "no step gives a file of 99.5% to 100% of {wanted} bytes, because the size jumps there: request a little more or less"
    )]
    Missed {
        /// Requested bytes.
        wanted: u64,
    },
    /// A quality was requested that cannot be searched for.
    #[error("a divergence as the target is {0}")]
    Quality(&'static str),
    /// The network cannot be measured.
    #[error("cannot measure the divergence: {0}")]
    Judge(Box<dyn std::error::Error + Send + Sync>),
    /// No step reaches the requested divergence.
    #[error(
        "no step gives a divergence of {wanted} nats or less; the least that was measured is {least:.6}: use --lossless"
    )]
    TooGood {
        /// The requested divergence.
        wanted: f64,
        /// The least divergence that was measured.
        least: f64,
    },
    /// The preset of JPEG has no place for another option.
    #[error("the preset jpeg is for lossy files without layers and without calibration")]
    Preset,
    /// Formats are lossy, and the preset of JPEG has no place for them.
    #[error("formats are for lossy files, without the preset jpeg")]
    FormatsLossless,
    /// The target is that of formats, but there is none.
    #[error("a file without a size needs a format")]
    NoFormats,
    /// A set of tensors gets a format, and is empty.
    #[error("no tensor that can be coded with loss is in {set}, which has a format")]
    FormatOfNothing {
        /// The name of the set.
        set: &'static str,
    },
    /// The most fragile tensors are not known.
    #[error("which tensors are fragile is known from calibration, and no linear layer was measured")]
    FragileUnmeasured,
    /// Formats decide the size.
    #[error("every tensor that can be coded with loss has a format, so these decide the size: request none")]
    FormatsDecide,
    /// Formats leave nothing to layers.
    #[error("formats decide the size of all tensors, so there is no layer below theirs: use one lossy layer")]
    FormatsBelow,
    /// Reordering has no place in a file that restores the checkpoint.
    #[error(
        "hidden units and heads cannot be reordered in a lossless file, or below a lossless layer: these restore the order of the checkpoint"
    )]
    ReorderExact,
    /// Pruning and formats were both requested.
    #[error("a file in formats cannot be pruned")]
    PrunedFormats,
    /// A trellis was requested where there is no place for it.
    #[error(
        "a trellis is for lossy weights: not with --lossless, the preset jpeg, pruning, or a format for every tensor"
    )]
    Trellis,
    /// Widths were to fit where nothing has any, or several layers do.
    #[error(
        "widths in memory are those of integers on the lattice: not with --lossless, --layers, a trellis, the preset jpeg, or a format for every tensor"
    )]
    Widths,
    /// A part of the error of rounding was requested where there is no place for it.
    #[error("a low-rank part of the error of rounding is for lossy files without layers, and not for the preset jpeg")]
    Residual,
    /// An order by activation was requested without statistics.
    #[error("an order by activation needs calibration, which measures the inputs of linear layers")]
    ReorderUnmeasured,
    /// The network has neither hidden units nor heads whose order is free.
    #[error("this model has no hidden units or attention heads whose order is free")]
    NothingToReorder,
    /// Pruning has no place in a file that restores the checkpoint.
    #[error("pruning is not for a lossless file or layer, which keeps every weight, nor for the preset jpeg")]
    PruneExact,
    /// A criterion was requested that needs the inputs of linear layers.
    #[error("pruning by {criterion} needs calibration, which measures the inputs of linear layers")]
    PruneUnmeasured {
        /// Name of the criterion.
        criterion: &'static str,
    },
    /// A pattern of pruning violates its rule.
    #[error("pruning: {rule}")]
    PrunePattern {
        /// The rule.
        rule: String,
    },
    /// No tensor that is coded with loss has a name that is to be pruned.
    #[error("no tensor that is coded with loss {rule}, so there is nothing to prune")]
    NothingToPrune {
        /// What the names were to be like.
        rule: String,
    },
    /// A GGUF cannot express the model.
    #[error("it cannot become a GGUF: {0}")]
    Gguf(String),
    /// Layers are not in ascending order.
    #[error("each layer must be larger than the one before it")]
    LayerOrder,
    /// There are too many layers, or the share of feedback is not in 0..=1.
    #[error("a file has at most {most} lossy layers, and their share of feedback must be from 0 to 1")]
    Layers {
        /// Largest number of lossy layers.
        most: usize,
    },
    /// The file would violate the format.
    #[error("cannot lay out the file: {0}")]
    Layout(String),
    /// The checkpoint has no tensor that can be coded with loss.
    #[error(
        "no tensor can be coded with loss (F32, F16 or BF16, at least 2 dimensions and {least} weights): use --lossless"
    )]
    NothingLossy {
        /// Fewest weights of a lossy tensor.
        least: usize,
    },
    /// The checkpoint has no tensor whose tools can be analysed.
    #[error(
        "no tensor can be coded with loss (F32, F16 or BF16, at least 2 dimensions and {least} weights), so there is nothing to analyse"
    )]
    NothingToAnalyze {
        /// Fewest weights of a lossy tensor.
        least: usize,
    },
    /// No step gives the requested rate.
    #[error("no step gives {wanted} bits per weight; the nearest rate is {limit:.3}")]
    NoRate {
        /// Requested bits per weight.
        wanted: f64,
        /// The nearest rate.
        limit: f64,
    },
    /// The file of statistics violates a rule.
    #[error("{file}: {rule}")]
    Statistics {
        /// Name of the file.
        file: String,
        /// What is wrong.
        rule: String,
    },
    /// An option needs the whole file at once, so that portions cannot be coded apart.
    #[error("--shard is not for {0}")]
    Portions(&'static str),
    /// A file of a portion violates a rule.
    #[error("{file}: {rule}")]
    PortionFile {
        /// Name of the file.
        file: String,
        /// What is wrong.
        rule: String,
    },
    /// Portions are needed that are not there, or not of this encoding.
    #[error(
        "{} missing at stage {stage}, or of another job: run `impasto {} --shard` for {} again, then this",
        shards(.portions),
        if stage == "sums" { "calibrate" } else { "encode" },
        if .portions.len() == 1 { "it" } else { "them" }
    )]
    Waiting {
        /// Their numbers, from 1.
        portions: Vec<usize>,
        /// The stage whose files are missing.
        stage: String,
    },
    /// The statistics belong to another model.
    #[error("{file}: these are statistics of another model: the hash of the tensors differs")]
    OtherModel {
        /// Name of the file of statistics.
        file: String,
    },
    /// The text has no complete window.
    #[error("the text has only {tokens} tokens, not one window of {window}")]
    ShortText {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens per window.
        window: usize,
    },
    /// A tensor would exceed the memory limit while it is coded.
    #[error("tensor {tensor:?}: its encoding takes about {needed} bytes, more than the limit of {limit}")]
    TensorMemory {
        /// Name of the tensor that takes most.
        tensor: String,
        /// Estimated memory, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Calibration would exceed the memory limit.
    #[error(
        "calibration takes about {needed} bytes, more than the limit of {limit}: use fewer tokens (one window takes {least})"
    )]
    Memory {
        /// Estimated memory, in bytes.
        needed: u64,
        /// The same for a text of one window.
        least: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Joining the shards of a calibration would exceed the memory limit.
    #[error("joining the shards takes about {needed} bytes of memory, more than the limit of {limit}")]
    MergeMemory {
        /// Estimated memory, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Recovery would exceed the memory limit.
    #[error("recovery takes about {needed} bytes, more than the limit of {limit}")]
    RecoverMemory {
        /// Estimated memory, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// An analysis of sensitivity would exceed the memory limit.
    #[error(
        "running the model with one tensor coded at a time takes about {needed} bytes, more than the limit of {limit}"
    )]
    SensitivityMemory {
        /// Estimated memory, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The model overflows on the text.
    #[error("tensor {name:?}: {what} on this text are not finite")]
    NotFinite {
        /// `inputs` or `gradients`.
        what: &'static str,
        /// Name of the tensor.
        name: String,
    },
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] impasto_model::ModelError),
    /// The caller cancelled. No file was written or replaced.
    #[error("cancelled")]
    Cancelled,
    /// The thread pool cannot be started.
    #[error("cannot start threads: {0}")]
    Threads(String),
}

/// Returns the numbers of portions in words, with a verb.
fn shards(portions: &[usize]) -> String {
    let numbers: Vec<String> = portions.iter().map(usize::to_string).collect();
    match &numbers[..] {
        [one] => format!("shard {one} is"),
        _ => format!("shards {} are", numbers.join(", ")),
    }
}

/// Returns [`EncodeError::Cancelled`] if a watcher breaks.
pub(crate) fn heard(answer: ControlFlow<()>) -> Result<(), EncodeError> {
    if answer.is_break() { Err(EncodeError::Cancelled) } else { Ok(()) }
}
