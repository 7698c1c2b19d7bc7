//! Exit codes: what failed, for programs.

use std::error::Error;
use std::fmt;

use impasto::encode::EncodeError;
use impasto::{CheckpointError, FileError};
use impasto_container::ContainerError;
use impasto_core::IsaError;
use impasto_eval::EvalError;
use impasto_eval::tasks::TaskError;
use impasto_model::ModelError;
use impasto_runtime::RuntimeError;
use impasto_text::TextError;

/// Exit codes, as the help of the command lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Success = 0,
    /// The system failed: files, threads, memory.
    System = 1,
    /// The command line is wrong, or a variable that is read like it: an option out of its range.
    Usage = 2,
    /// The input is not valid.
    Invalid = 3,
    /// Units are damaged.
    Damaged = 4,
    /// Units are absent.
    Absent = 5,
    /// The wanted size cannot be met.
    Size = 6,
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        (code as u8).into()
    }
}

/// What is wrong with a command line that parses: options that do not go together.
#[derive(Debug)]
pub struct UsageError(pub &'static str);

impl Error for UsageError {}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The exit code of an error.
pub fn code_of(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if cause.is::<UsageError>() || cause.is::<IsaError>() {
            return Code::Usage;
        } else if let Some(error) = cause.downcast_ref::<FileError>() {
            return of_file(error);
        } else if let Some(error) = cause.downcast_ref::<EncodeError>() {
            return match error {
                EncodeError::TooSmall { .. } | EncodeError::TooLarge { .. } | EncodeError::Missed { .. } => Code::Size,
                EncodeError::Checkpoint(error) => of_checkpoint(error),
                EncodeError::Container(error) => of_container(error),
                EncodeError::Threads(..) => Code::System,
                EncodeError::LayerOrder | EncodeError::Layers { .. } | EncodeError::ExactGguf => Code::Usage,
                _ => Code::Invalid,
            };
        } else if let Some(error) = cause.downcast_ref::<CheckpointError>() {
            return of_checkpoint(error);
        } else if let Some(TaskError::Line { .. } | TaskError::Empty { .. }) = cause.downcast_ref() {
            return Code::Invalid;
        } else if let Some(error) = of_model(cause) {
            match error {
                // What the weights' source says is the next cause.
                ModelError::Tensor { .. } if error.source().is_some() => {}
                ModelError::BadOption { .. } => return Code::Usage,
                _ => return Code::Invalid,
            }
        } else if let Some(error) = of_text(cause) {
            return if matches!(error, TextError::BadOption { .. }) { Code::Usage } else { Code::Invalid };
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

/// A network's own error, whichever crate passes it on.
fn of_model<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a ModelError> {
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(RuntimeError::Model(error)), _) | (_, Some(EvalError::Model(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// A tokenizer's or a template's own error, whichever crate passes it on.
fn of_text<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a TextError> {
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(RuntimeError::Text(error)), _) | (_, Some(EvalError::Text(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

fn of_file(error: &FileError) -> Code {
    match error {
        FileError::Container(error) => of_container(error),
        FileError::Checkpoint(error) => of_checkpoint(error),
        FileError::Exists { .. } => Code::System,
        FileError::Budget { .. } => Code::Size,
        FileError::NoLayer { .. } | FileError::NoPart { .. } => Code::Usage,
        _ => Code::Invalid,
    }
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
