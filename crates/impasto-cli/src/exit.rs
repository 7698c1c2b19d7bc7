//! Exit codes, for programs that call the command.

use std::error::Error;
use std::fmt;

use impasto::encode::EncodeError;
use impasto::recover::RecoverError;
use impasto::{CheckpointError, FileError, LiveError};
use impasto_codec::CodecError;
use impasto_container::ContainerError;
use impasto_core::IsaError;
use impasto_eval::EvalError;
use impasto_eval::tasks::TaskError;
use impasto_model::ModelError;
use impasto_runtime::{PackError, RuntimeError};
use impasto_text::TextError;

/// The exit codes, as listed in the command's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Success.
    Success = 0,
    /// System error: files, threads, memory.
    System = 1,
    /// Invalid command line or environment variable, such as an option out of range.
    Usage = 2,
    /// Invalid or unsupported input.
    Invalid = 3,
    /// Units are damaged.
    Damaged = 4,
    /// Units are absent.
    Absent = 5,
    /// The requested size cannot be reached.
    Size = 6,
    /// Other shards are needed.
    Waiting = 7,
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        (code as u8).into()
    }
}

/// A licence of a fine-tune that that of its base does not allow, with `--license-check strict`.
#[derive(Debug)]
pub struct LicenseError(pub String);

impl fmt::Display for LicenseError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for LicenseError {}

/// A combination of options that parses but is not valid.
#[derive(Debug)]
pub struct UsageError(pub &'static str);

impl Error for UsageError {}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// An invalid command line, in the words of its parser.
#[derive(Debug)]
pub struct WordsError(pub String);

impl Error for WordsError {}

impl fmt::Display for WordsError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the exit code for an error.
pub fn code_of(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if cause.is::<UsageError>() || cause.is::<WordsError>() || cause.is::<IsaError>() {
            return Code::Usage;
        } else if cause.is::<LicenseError>() || cause.is::<RecoverError>() {
            return Code::Invalid;
        } else if let Some(EncodeError::Base { error, .. } | EncodeError::Misfit(error)) = cause.downcast_ref() {
            return error.downcast_ref::<FileError>().map_or(Code::System, of_file);
        } else if let Some(error) = cause.downcast_ref::<FileError>() {
            return of_file(error);
        } else if let Some(error) = cause.downcast_ref::<LiveError>() {
            match error {
                LiveError::File(error) => return of_file(error),
                LiveError::Residence => return Code::Usage,
                LiveError::Delta { .. } => return Code::Invalid,
                // The next causes are those of the error of the model.
                LiveError::Run(_) | LiveError::Model(_) => {}
            }
        } else if let Some(error) = cause.downcast_ref::<EncodeError>() {
            return match error {
                EncodeError::TooSmall { .. }
                | EncodeError::TooLarge { .. }
                | EncodeError::TooGood { .. }
                | EncodeError::Missed { .. } => Code::Size,
                EncodeError::Waiting { .. } => Code::Waiting,
                EncodeError::Checkpoint(error) => of_checkpoint(error),
                EncodeError::Container(error) => of_container(error),
                EncodeError::Threads(..) | EncodeError::Codec { error: CodecError::Memory, .. } => Code::System,
                EncodeError::Model(error) => of_network(error),
                EncodeError::LayerOrder
                | EncodeError::Layers { .. }
                | EncodeError::ReorderExact
                | EncodeError::OverBase(_)
                | EncodeError::Residual
                | EncodeError::Quality(_)
                | EncodeError::Portions(_)
                | EncodeError::Trellis
                | EncodeError::PrunedFormats
                | EncodeError::ReorderUnmeasured => Code::Usage,
                _ => Code::Invalid,
            };
        } else if let Some(code) = of_fetch(cause) {
            return code;
        } else if let Some(error) = cause.downcast_ref::<CheckpointError>() {
            return of_checkpoint(error);
        } else if let Some(TaskError::Line { .. } | TaskError::Empty { .. }) = cause.downcast_ref() {
            return Code::Invalid;
        } else if let Some(error) = of_model(cause) {
            match error {
                // The next cause is the error of the weight source.
                ModelError::Tensor { .. } if error.source().is_some() => {}
                error => return of_network(error),
            }
        } else if let Some(error) = of_text(cause) {
            return match error {
                TextError::BadOption { .. } => Code::Usage,
                TextError::System { .. } => Code::System,
                _ => Code::Invalid,
            };
        } else if let Some(PackError::NoContent) = cause.downcast_ref() {
            return Code::Invalid;
        } else if let Some(RuntimeError::Kernel(_)) = cause.downcast_ref() {
            return Code::System;
        } else if cause.is::<RuntimeError>() || cause.is::<EvalError>() {
            return Code::Invalid;
        } else if let Some(error) = cause.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::InvalidData
        {
            return Code::Invalid; // A text that is not UTF-8.
        }
    }
    if error.chain().any(|cause| of_model(cause).is_some()) { Code::Invalid } else { Code::System }
}

/// Whether an error means that a model lacks an asset.
pub fn is_missing_asset(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let of_model = of_model(cause).is_some_and(|error| matches!(error, ModelError::MissingAsset { .. }));
        of_model || of_text(cause).is_some_and(|error| matches!(error, TextError::MissingAsset { .. }))
    })
}

/// The error of a network, also when another crate wraps it.
fn of_model<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a ModelError> {
    match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref()) {
        (Some(RuntimeError::Model(error)), ..)
        | (_, Some(EvalError::Model(error)), _)
        | (_, _, Some(LiveError::Model(error) | LiveError::Run(RuntimeError::Model(error)))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// The error of a tokenizer or template, also when another crate wraps it.
fn of_text<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a TextError> {
    match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref()) {
        (Some(RuntimeError::Text(error)), ..)
        | (_, Some(EvalError::Text(error)), _)
        | (_, _, Some(LiveError::Run(RuntimeError::Text(error)))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

fn of_network(error: &ModelError) -> Code {
    match error {
        ModelError::BadOption { .. } => Code::Usage,
        ModelError::Threads(..) | ModelError::Memory { .. } | ModelError::Mapped(_) => Code::System,
        _ => Code::Invalid,
    }
}

fn of_file(error: &FileError) -> Code {
    match error {
        FileError::Threads { .. } | FileError::Codec { error: CodecError::Memory, .. } => Code::System,
        FileError::Container(error) => of_container(error),
        FileError::Checkpoint(error) => of_checkpoint(error),
        FileError::Exists { .. } | FileError::NoMemory { .. } => Code::System,
        FileError::Budget { .. } => Code::Size,
        FileError::NoLayer { .. } | FileError::NoPart { .. } => Code::Usage,
        FileError::NoBase { .. } => Code::Absent,
        _ => Code::Invalid,
    }
}

#[cfg(feature = "fetch")]
fn of_fetch(cause: &(dyn Error + 'static)) -> Option<Code> {
    use impasto_fetch::FetchError;
    Some(match cause.downcast_ref()? {
        FetchError::Address { .. } | FetchError::Option { .. } | FetchError::Plain { .. } => Code::Usage,
        FetchError::NoLayer { .. } => Code::Usage,
        FetchError::Budget { .. } => Code::Size,
        FetchError::Damaged { .. } => Code::Damaged,
        FetchError::Short { .. } | FetchError::NoMirror { .. } => Code::Absent,
        FetchError::Container(error) => of_container(error),
        FetchError::Changed { .. }
        | FetchError::WrongRoot { .. }
        | FetchError::Coding { .. }
        | FetchError::Redirect { .. }
        | FetchError::RedirectLoop { .. }
        | FetchError::Redirects { .. }
        | FetchError::Depth { .. } => Code::Invalid,
        _ => Code::System,
    })
}

#[cfg(not(feature = "fetch"))]
fn of_fetch(_cause: &(dyn Error + 'static)) -> Option<Code> {
    None
}

fn of_container(error: &ContainerError) -> Code {
    match error {
        ContainerError::Io { .. } => Code::System,
        ContainerError::Damaged { .. } => Code::Damaged,
        ContainerError::Absent { .. } => Code::Absent,
        _ => Code::Invalid,
    }
}

fn of_checkpoint(error: &CheckpointError) -> Code {
    match error {
        CheckpointError::Io { .. } => Code::System,
        _ => Code::Invalid,
    }
}
