//! What can go wrong when a file is read.

use impasto_checkpoint::CheckpointError;
use impasto_codec::CodecError;
use impasto_container::ContainerError;
use impasto_core::Mode;
use thiserror::Error;

/// A file that cannot be read, or not wholly.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The container is broken, or a unit is absent or damaged.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A unit is whole but does not follow the format.
    #[error("{file}: {unit}: {error}")]
    Codec {
        /// The file.
        file: String,
        /// The unit, its tensor and place.
        unit: String,
        /// The rule that it breaks.
        error: CodecError,
    },
    /// No tensor or asset of that name.
    #[error("{file}: there is no tensor {name:?}")]
    NoTensor {
        /// The file.
        file: String,
        /// The name asked for.
        name: String,
    },
    /// A tensor would need more memory than allowed.
    #[error("{file}: {name:?} takes {bytes} bytes, more than the limit of {limit} (SPEC 11.1)")]
    MemoryLimit {
        /// The file.
        file: String,
        /// Tensor or asset.
        name: String,
        /// Bytes that it takes.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The memory to read a tensor into is not of its size.
    #[error("{file}: {name:?} takes {bytes} bytes, and {given} are given")]
    Length {
        /// The file.
        file: String,
        /// Tensor or asset.
        name: String,
        /// Bytes that it takes.
        bytes: u64,
        /// Bytes given.
        given: u64,
    },
    /// Tiles are coded in a mode that this program does not know; they may be right.
    #[error("{file}: {name:?} is coded in mode {mode}, which this version does not know (SPEC 3.6.1)")]
    UnknownMode {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The mode.
        mode: Mode,
    },
    /// The base alone is larger than what may be taken of the file.
    #[error("{file}: {bytes} bytes are too few: the base takes {base} ({base_bits:.3} bits per weight)")]
    Budget {
        /// The file.
        file: String,
        /// Bytes allowed.
        bytes: u64,
        /// Bytes of a file of the base.
        base: u64,
        /// The same in bits over all weights.
        base_bits: f64,
    },
    /// No layer of that number.
    #[error("{file}: there is no layer {layer}: the file has {}", layers_shown(*layers))]
    NoLayer {
        /// The file.
        file: String,
        /// The number asked for, from 1.
        layer: usize,
        /// How many layers the file has.
        layers: usize,
    },
    /// No tensor is meant by a word.
    #[error("{file}: there is no tensor whose name contains {word:?}")]
    NoPart {
        /// The file.
        file: String,
        /// The word.
        word: String,
    },
    /// An object of which only the name is known cannot be copied.
    #[error("{file}: {name:?} is of class {class}, which this version does not know and cannot copy (SPEC 3.4)")]
    UnknownClass {
        /// The file.
        file: String,
        /// The object.
        name: String,
        /// Its class.
        class: u8,
    },
    /// Two parts of the file would be written to the same path.
    #[error("{file}: two of its parts are called {name:?} and would be written to the same path")]
    SamePath {
        /// The file.
        file: String,
        /// The name.
        name: String,
    },
    /// A file is there already where one would be written.
    #[error("{path}: it is there already, and replacing it (--force) was not asked for")]
    Exists {
        /// The path.
        path: String,
    },
    /// The tensor has no binary32 values.
    #[error("{file}: tensor {name:?} is {dtype}, which has no weights to run")]
    NotFloat {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: String,
    },
    /// The model cannot be written in the wanted form.
    #[error("{file}: it cannot be written as {form}: {rule}")]
    Form {
        /// The file.
        file: String,
        /// The form.
        form: &'static str,
        /// Why.
        rule: String,
    },
    /// The checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A shard's header in the file does not fit its tensors.
    #[error("{file}: asset {asset:?} does not describe tensors of this file: {rule}")]
    ShardHeader {
        /// The file.
        file: String,
        /// The asset.
        asset: String,
        /// What is wrong.
        rule: String,
    },
}

fn layers_shown(layers: usize) -> String {
    match layers {
        0 => "no layers".to_owned(),
        1 => "one".to_owned(),
        layers => format!("layers 1 to {layers}"),
    }
}
