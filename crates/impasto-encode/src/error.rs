//! What can go wrong when a checkpoint is encoded.

use std::ops::ControlFlow;

use impasto_checkpoint::CheckpointError;
use impasto_codec::CodecError;
use impasto_container::ContainerError;
use thiserror::Error;

/// An encoding that failed. What was at the destination stays.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The file cannot be written.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The destination is a file of the checkpoint.
    #[error("{0}: it is a file of the checkpoint, which would be lost")]
    OverInput(String),
    /// A tensor or an asset cannot be coded.
    #[error("{tensor:?}: {error}")]
    Codec {
        /// Name of the tensor or asset.
        tensor: String,
        /// What the codec says.
        error: CodecError,
    },
    /// The tensor is not one that the format can hold.
    #[error("tensor {tensor:?}: {rule}")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The wanted size is below what is coded exactly whatever the rate (assets, norms) and the least that lossy tensors take.
    #[error(
        "a file of {wanted} bytes is too small: the least for this model is about {least} bytes ({least_bpw:.3} bits per weight)"
    )]
    TooSmall {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes of the smallest file.
        least: u64,
        /// The same in bits per weight.
        least_bpw: f64,
    },
    /// No rate fills the wanted size.
    #[error(
        "a file of {wanted} bytes is more than lossy coding fills ({most} bytes at its finest step): use --lossless"
    )]
    TooLarge {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes of the largest lossy file.
        most: u64,
    },
    /// The search ended beside the wanted size.
    #[error(
        "no step gives a file of 99.5% to 100% of {wanted} bytes: its size jumps there; ask for a little more or less"
    )]
    Missed {
        /// Bytes wanted.
        wanted: u64,
    },
    /// Layers that are not in their order.
    #[error("each layer must be larger than the one before it")]
    LayerOrder,
    /// More layers than there may be, or a share of feedback that is none.
    #[error("a file has at most {most} lossy layers, and the share of feedback that they keep is 0 to 1")]
    Layers {
        /// Most lossy layers.
        most: usize,
    },
    /// A GGUF, which loses its blocks and the order of its rows when it is coded with loss.
    #[error(
        "a GGUF is translated for lossy layers, so none on top gives its bits back: use --lossless, or leave `lossless` away"
    )]
    ExactGguf,
    /// The file would break the format.
    #[error("the file cannot be laid out: {0}")]
    Layout(String),
    /// There is nothing that a rate could change.
    #[error(
        "no tensor can be coded with loss (F32, F16 or BF16, two dims or more, {least} weights or more): use --lossless"
    )]
    NothingLossy {
        /// Least number of weights of a lossy tensor.
        least: usize,
    },
    /// The file of statistics breaks a rule.
    #[error("{file}: {rule}")]
    Statistics {
        /// The file.
        file: String,
        /// What is wrong.
        rule: String,
    },
    /// The statistics are of another model.
    #[error("{file}: its statistics are of another model: the hash of the tensors differs")]
    OtherModel {
        /// The file of statistics.
        file: String,
    },
    /// The text has no whole window.
    #[error("the text has {tokens} tokens, not one window of {window}")]
    ShortText {
        /// Its tokens.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// Calibration would take more memory than allowed.
    #[error("calibration takes about {needed} bytes, more than the limit of {limit}: take fewer tokens")]
    Memory {
        /// Bytes that it takes, roughly.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A model that overflows on the text.
    #[error("tensor {name:?}: its {what} on this text are not finite")]
    NotFinite {
        /// Inputs or gradients.
        what: &'static str,
        /// The tensor.
        name: String,
    },
    /// The model cannot run.
    #[error(transparent)]
    Model(#[from] impasto_model::ModelError),
    /// Whoever watched asked for the end. No file was written or replaced.
    #[error("cancelled")]
    Cancelled,
    /// The thread pool cannot be started.
    #[error("cannot start {0} threads: {1}")]
    Threads(usize, String),
}

/// Goes on, or ends as whoever watches says.
pub(crate) fn heard(answer: ControlFlow<()>) -> Result<(), EncodeError> {
    if answer.is_break() { Err(EncodeError::Cancelled) } else { Ok(()) }
}
