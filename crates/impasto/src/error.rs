//! Errors of reading a file.

use impasto_checkpoint::CheckpointError;
use impasto_codec::CodecError;
use impasto_container::ContainerError;
use impasto_core::Mode;
use thiserror::Error;

/// An error of reading, cutting or exporting a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// The container is invalid, or a unit is absent or damaged.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A unit has the right hash but violates the format.
    #[error("{file}: {unit}: {error}")]
    Codec {
        /// The file.
        file: String,
        /// The unit, with its tensor and place.
        unit: String,
        /// The rule that it violates.
        error: CodecError,
    },
    /// There is no tensor with that name.
    #[error("{file}: there is no tensor {name:?}")]
    NoTensor {
        /// The file.
        file: String,
        /// The requested name.
        name: String,
    },
    /// A tensor or asset would exceed the memory limit.
    #[error("{file}: {name:?} takes {bytes} bytes of memory, more than the limit of {limit} (SPEC 11.1)")]
    MemoryLimit {
        /// The file.
        file: String,
        /// Name of the tensor or asset.
        name: String,
        /// The bytes of memory that it takes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Threads cannot be started.
    #[error("cannot start threads: {reason}")]
    Threads {
        /// The reason that the system gave.
        reason: String,
    },
    /// The system does not have the memory.
    #[error("{file}: the system does not have the {bytes} bytes of memory that {name:?} takes")]
    NoMemory {
        /// The file.
        file: String,
        /// Name of the tensor or asset.
        name: String,
        /// The bytes of memory that it takes.
        bytes: u64,
    },
    /// The output buffer has the wrong length.
    #[error("{file}: {name:?} has {bytes} bytes, but the buffer has {given}")]
    Length {
        /// The file.
        file: String,
        /// Name of the tensor or asset.
        name: String,
        /// Its length in bytes.
        bytes: u64,
        /// Length of the buffer in bytes.
        given: u64,
    },
    /// Tiles have a coding mode that this version does not support. They may be valid.
    #[error("{file}: {name:?} is coded in mode {mode}, which this version does not support (SPEC 3.6.1)")]
    UnknownMode {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// The mode.
        mode: Mode,
    },
    /// The file is a delta, and the file that it is a delta of is not there.
    #[error(
        "{file}: it is a delta of {name:?} and needs that file, whose root is {root}: name it by --base, or put it next to this file{} (SPEC 21.1)",
        mirrors_shown(mirrors)
    )]
    NoBase {
        /// The file.
        file: String,
        /// The name of the base.
        name: String,
        /// The root of the base.
        root: String,
        /// Where it may be found, as the delta says.
        mirrors: Vec<String>,
    },
    /// A base was given for a file that needs none.
    #[error("{file}: it is not a delta, so it has no base (SPEC 21.1)")]
    NotDelta {
        /// The file.
        file: String,
    },
    /// The base is another file than the one that the delta was made from.
    #[error(transparent)]
    WrongBase(Box<WrongBase>),
    /// An adapter cannot run, or does not fit its base.
    #[error("{file}: the adapter cannot run: {rule}")]
    Adapter {
        /// The file.
        file: String,
        /// What is wrong.
        rule: String,
    },
    /// An object of the base does not fit that of the delta.
    #[error("{file}: what {name:?} takes from {base} {what} (SPEC 21.2)")]
    BaseObject {
        /// The file.
        file: String,
        /// The tensor or asset.
        name: String,
        /// The base.
        base: String,
        /// What does not fit.
        what: &'static str,
    },
    /// There are too many files in a chain of deltas.
    #[error("{file}: it is the end of a chain of more than {most} files, each a delta of the next (SPEC 21.8)")]
    Depth {
        /// The file.
        file: String,
        /// The most files.
        most: usize,
    },
    /// The base is larger than the budget.
    #[error("{file}: {bytes} bytes are too few: the base takes {base} ({base_bits:.3} bits per weight)")]
    Budget {
        /// The file.
        file: String,
        /// The budget in bytes.
        bytes: u64,
        /// Length of a file of the base, in bytes.
        base: u64,
        /// The same in bits per weight.
        base_bits: f64,
    },
    /// There is no layer with that number.
    #[error("{file}: there is no layer {layer}: the file has {}", layers_shown(*layers))]
    NoLayer {
        /// The file.
        file: String,
        /// The requested number, from 1.
        layer: usize,
        /// The number of layers of the file.
        layers: usize,
    },
    /// No tensor's name contains the word.
    #[error("{file}: there is no tensor whose name contains {word:?}")]
    NoPart {
        /// The file.
        file: String,
        /// The word.
        word: String,
    },
    /// An object of unknown class cannot be copied.
    #[error("{file}: {name:?} is of class {class}, which this version cannot copy (SPEC 3.4)")]
    UnknownClass {
        /// The file.
        file: String,
        /// The object.
        name: String,
        /// Its class.
        class: u8,
    },
    /// Two outputs have the same path.
    #[error("{file}: two files named {name:?} would be written to the same path")]
    SamePath {
        /// The file.
        file: String,
        /// The name.
        name: String,
    },
    /// The output file exists.
    #[error("{path}: it already exists (use --force to replace it)")]
    Exists {
        /// The path.
        path: String,
    },
    /// The tensor has no float values.
    #[error("{file}: tensor {name:?} is {dtype}, which has no float values")]
    NotFloat {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: String,
    },
    /// A weight is too large for the requested dtype.
    #[error("{file}: tensor {tensor:?} has a weight of {value:e}, which {dtype} cannot hold; F32 can")]
    Range {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The weight.
        value: f32,
        /// The dtype.
        dtype: &'static str,
    },
    /// The model cannot be written in the requested format.
    #[error("{file}: it cannot be written as {form}: {rule}")]
    Form {
        /// The file.
        file: String,
        /// The format.
        form: &'static str,
        /// The reason.
        rule: String,
    },
    /// The checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A shard's header does not match the tensors of the file.
    #[error("{file}: asset {asset:?} does not match the tensors of this file: {rule}")]
    ShardHeader {
        /// The file.
        file: String,
        /// The asset.
        asset: String,
        /// What is wrong.
        rule: String,
    },
}

/// A file that is not the base of a delta.
#[derive(Debug, Error)]
#[error("{file}: {base} is not its base: it has the root {found}, not {wanted}, and differs in {} of the {objects} objects that the delta uses: {} (SPEC 21.2)", differing.len(), some(differing))]
pub struct WrongBase {
    /// The delta.
    pub file: String,
    /// The file that is not its base.
    pub base: String,
    /// The root that the delta names.
    pub wanted: String,
    /// The root of the file.
    pub found: String,
    /// The number of objects that take something from the base.
    pub objects: usize,
    /// Those of them that are another object there, or none.
    pub differing: Vec<String>,
}

/// Shows the first of some names.
fn some(names: &[String]) -> String {
    const MOST: usize = 3;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > MOST { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn mirrors_shown(mirrors: &[String]) -> String {
    let shown: Vec<String> = mirrors.iter().map(|mirror| format!("{mirror:?}")).collect();
    if shown.is_empty() { String::new() } else { format!("; it may be found at {}", shown.join(", ")) }
}

fn layers_shown(layers: usize) -> String {
    match layers {
        0 => "no layers".to_owned(),
        1 => "one".to_owned(),
        layers => format!("layers 1 to {layers}"),
    }
}
