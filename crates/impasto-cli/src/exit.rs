//! Exit codes: what failed, for programs.

use impasto::{CheckpointError, EncodeError, FileError};
use impasto_container::ContainerError;
use impasto_model::ModelError;

/// Exit codes, as the help of the command lists them. 2 is the command line's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Done.
    Success = 0,
    /// The system failed: files, threads, memory.
    System = 1,
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

/// The exit code of an error.
pub fn code_of(error: &anyhow::Error) -> Code {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<FileError>() {
            return of_file(error);
        } else if let Some(error) = cause.downcast_ref::<EncodeError>() {
            return match error {
                EncodeError::TooSmall { .. } | EncodeError::TooLarge { .. } | EncodeError::Missed { .. } => Code::Size,
                EncodeError::Checkpoint(error) => of_checkpoint(error),
                EncodeError::Container(error) => of_container(error),
                EncodeError::Threads(..) => Code::System,
                _ => Code::Invalid,
            };
        } else if let Some(error) = cause.downcast_ref::<CheckpointError>() {
            return of_checkpoint(error);
        } else if cause.downcast_ref::<ModelError>().is_some() {
            return Code::Invalid;
        }
    }
    Code::System
}

fn of_file(error: &FileError) -> Code {
    match error {
        FileError::Container(error) => of_container(error),
        FileError::Checkpoint(error) => of_checkpoint(error),
        FileError::MemoryLimit { .. } => Code::System,
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
