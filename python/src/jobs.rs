//! The jobs of the command. They take its words, and return what its `--json` prints, as text.

use std::ffi::OsString;

use impasto_cli::library;
use pyo3::prelude::*;

use crate::errors::exception;
use crate::work::{abandonable, watched};

#[pyfunction]
#[pyo3(signature = (words, progress=None))]
pub fn encode(py: Python<'_>, words: Vec<OsString>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<String> {
    watched(py, progress, |watcher| library::encode(&words, watcher)).map(|json| json.to_string())
}

#[pyfunction]
#[pyo3(signature = (words, progress=None))]
pub fn calibrate(py: Python<'_>, words: Vec<OsString>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<String> {
    watched(py, progress, |watcher| library::calibrate(&words, watcher)).map(|json| json.to_string())
}

#[pyfunction]
#[pyo3(signature = (words, progress=None))]
pub fn fetch(py: Python<'_>, words: Vec<OsString>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<String> {
    watched(py, progress, |watcher| library::fetch(&words, watcher)).map(|json| json.to_string())
}

#[pyfunction]
pub fn truncate(py: Python<'_>, words: Vec<OsString>) -> PyResult<String> {
    py.detach(|| library::truncate(&words)).map(|json| json.to_string()).map_err(exception)
}

#[pyfunction]
pub fn verify(py: Python<'_>, words: Vec<OsString>) -> PyResult<String> {
    abandonable(py, move || library::verify(&words)).map(|json| json.to_string())
}
