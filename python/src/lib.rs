//! The module `impasto._impasto`: what the Python package does in Rust.
//!
//! Options come as the words of the command, so that their names, rules and messages are the same. Tensors leave as bytes in numpy
//! arrays that own the decoded buffers; dtypes and shapes are the package's.

mod command;
mod errors;
mod export;
mod file;
mod jobs;
mod matrix;
mod model;
mod pool;
mod work;

use pyo3::prelude::*;

#[pymodule]
mod _impasto {
    #[pymodule_export]
    use super::command::{main, set_template_worker};
    #[pymodule_export]
    use super::export::Export;
    #[pymodule_export]
    use super::file::File;
    #[pymodule_export]
    use super::jobs::{calibrate, encode, fetch, truncate, verify};
    #[pymodule_export]
    use super::matrix::Matrix;
    #[pymodule_export]
    use super::model::{Model, Pieces};
    #[pymodule_export]
    use super::work::Progress;
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
