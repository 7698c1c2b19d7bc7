//! Errors as exceptions of the package, with the words of the command.

use impasto::FileError;
use impasto_cli::library::{is_cancelled, is_not_found};
use impasto_cli::{Code, code_of, message};
use pyo3::import_exception;
use pyo3::prelude::*;

mod classes {
    use super::import_exception;

    import_exception!(impasto._errors, AbsentError);
    import_exception!(impasto._errors, CancelledError);
    import_exception!(impasto._errors, DamagedError);
    import_exception!(impasto._errors, InvalidError);
    import_exception!(impasto._errors, NotFoundError);
    import_exception!(impasto._errors, SizeError);
    import_exception!(impasto._errors, SystemFailure);
    import_exception!(impasto._errors, TensorNotFoundError);
    import_exception!(impasto._errors, UsageError);
}

/// Returns the exception for an error: its class says what the exit code of the command says.
pub fn exception(error: impl Into<anyhow::Error>) -> PyErr {
    let error = error.into();
    let text = message(&error);
    let is_no_tensor =
        |cause: &(dyn std::error::Error + 'static)| matches!(cause.downcast_ref(), Some(FileError::NoTensor { .. }));
    match code_of(&error) {
        _ if is_cancelled(&error) => classes::CancelledError::new_err(text),
        _ if error.chain().any(is_no_tensor) => classes::TensorNotFoundError::new_err(text),
        _ if is_not_found(&error) => classes::NotFoundError::new_err(text),
        Code::Usage => classes::UsageError::new_err(text),
        Code::Damaged => classes::DamagedError::new_err(text),
        Code::Absent => classes::AbsentError::new_err(text),
        Code::Size => classes::SizeError::new_err(text),
        Code::Success | Code::Invalid | Code::Waiting => classes::InvalidError::new_err(text),
        Code::System => classes::SystemFailure::new_err(text),
    }
}

/// Returns the exception for an option that is out of range.
pub fn usage(text: String) -> PyErr {
    classes::UsageError::new_err(text)
}
