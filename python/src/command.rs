//! The command `impasto`, for the script of the wheel.

use std::ffi::OsString;
use std::path::PathBuf;

use impasto_text::TemplateWorker;
use pyo3::prelude::*;

/// Runs the command with these arguments, the first of which is its name. Returns the exit code of the process. Signals are handled
/// for the whole process, as that of a command.
#[pyfunction]
pub fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| impasto_cli::main(arguments, impasto_cli::worker()))
}

/// Sets the program and arguments of the processes that run chat templates: they call [`main`].
#[pyfunction]
pub fn set_template_worker(program: PathBuf, arguments: Vec<OsString>) {
    impasto_cli::set_worker(TemplateWorker::new(program, arguments));
}
