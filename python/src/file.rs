//! Open files.

use std::ffi::OsString;
use std::sync::Arc;

use impasto_cli::library;
use numpy::{IntoPyArray, PyArray1, PyReadwriteArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::exception;
use crate::export::Export;
use crate::matrix::{self, Matrix};
use crate::pool;
use crate::work::watched;

/// Dtype, shape, rows and columns of the matrix, bytes and weights of its elements.
type Description<'a> = (&'a str, &'a [u64], [u64; 2], [usize; 2]);

/// An open .impasto file.
#[pyclass(frozen, module = "impasto._impasto")]
pub struct File {
    file: Arc<impasto::File>,
}

#[pymethods]
impl File {
    /// Opens a file with the words of `impasto run`; an address is fetched.
    #[staticmethod]
    #[pyo3(signature = (words, progress=None))]
    fn open(py: Python<'_>, words: Vec<OsString>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<File> {
        let file = watched(py, progress, |watcher| library::open(&words, watcher))?;
        Ok(File { file: Arc::new(file) })
    }

    /// Names of the tensors, in the order of the file.
    fn keys(&self) -> Vec<&str> {
        self.file.tensor_names().collect()
    }

    /// Dtype, shape, rows and columns of the matrix that a tensor is coded as; bytes and weights of an element of it.
    fn tensor(&self, name: &str) -> PyResult<Description<'_>> {
        let meta = self.file.meta(name).map_err(exception)?;
        let number = self.file.reader().find_tensor(name);
        let matrix = number.and_then(|number| self.file.reader().matrix(number));
        let [rows, columns] = matrix.map_or([0, 0], |matrix| [matrix.rows(), matrix.cols()]);
        Ok((meta.dtype_name(), &meta.dims, [rows, columns], [meta.dtype.size(), meta.dtype.weights()]))
    }

    /// Whether a tensor has the bits of the checkpoint.
    fn is_exact(&self, name: &str) -> PyResult<bool> {
        self.file.meta(name).map_err(exception)?;
        Ok(self.file.is_exact(name))
    }

    /// The bytes of a tensor, or of the rows and columns of its matrix from the first to before the second.
    #[pyo3(signature = (name, rows=None, columns=None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        rows: Option<(u64, u64)>,
        columns: Option<(u64, u64)>,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let read = || {
            let tensor = self.file.tensor(name)?;
            let (height, width) = (tensor.matrix().rows(), tensor.matrix().cols());
            let (rows, columns) = (rows.unwrap_or((0, height)), columns.unwrap_or((0, width)));
            Ok(tensor.band(rows.0..rows.1, columns.0..columns.1)?)
        };
        Ok(py.detach(|| pool::install(read)).map_err(exception)?.into_pyarray(py))
    }

    /// Decodes a tensor into an array that has as many bytes.
    fn read_into(&self, py: Python<'_>, name: &str, mut out: PyReadwriteArray1<'_, u8>) -> PyResult<()> {
        let out = out.as_slice_mut()?;
        let read = || Ok(self.file.tensor(name)?.read_into(out)?);
        py.detach(|| pool::install(read)).map_err(exception)
    }

    /// The file in the form of another format.
    fn export(&self, py: Python<'_>, form: &str) -> PyResult<Export> {
        Export::plan(py, self.file.clone(), form)
    }

    /// The name of the format of engines that a tensor is read in; `None` if it has none.
    fn format(&self, py: Python<'_>, name: &str) -> PyResult<Option<&'static str>> {
        let read = || Ok(self.file.tensor(name)?.format());
        Ok(py.detach(|| pool::install(read)).map_err(exception)?.map(|format| format.name()))
    }

    /// Tensors as packed matrices, which share threads: one per processor if `threads` is 0. Inputs are rounded to 8 bits if `int8`.
    fn packed(&self, py: Python<'_>, names: Vec<String>, threads: usize, int8: bool) -> PyResult<Vec<Matrix>> {
        matrix::load(py, self.file.clone(), &names, threads, int8)
    }

    /// Names of the assets.
    fn assets(&self) -> Vec<&str> {
        self.file.asset_names().collect()
    }

    /// The bytes of an asset; `None` if there is none.
    fn asset<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let asset = py.detach(|| pool::install(|| Ok(self.file.asset(name)?))).map_err(exception)?;
        Ok(asset.map(|bytes| PyBytes::new(py, &bytes)))
    }

    /// For each layer: bytes of the file up to it, its divergence if that was measured, whether it is all there.
    fn layers(&self) -> Vec<(u64, Option<f32>, bool)> {
        self.file.layers().into_iter().map(|layer| (layer.bytes, layer.kld, layer.is_whole)).collect()
    }

    /// The base of a delta; `None` if it is no delta.
    fn base<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(base) = self.file.base() else { return Ok(None) };
        let dict = PyDict::new(py);
        dict.set_item("name", &base.name)?;
        dict.set_item("root", impasto::hex(&base.root))?;
        dict.set_item("license", &base.license)?;
        dict.set_item("mirrors", &base.mirrors)?;
        dict.set_item("file", self.file.attached().map(|base| base.reader().name().to_owned()))?;
        Ok(Some(dict))
    }

    /// The BLAKE3 hash of the manifest.
    #[getter]
    fn root(&self) -> String {
        impasto::hex(self.file.reader().root())
    }

    /// Weights of all tensors; tied ones count once.
    #[getter]
    fn weights(&self) -> u64 {
        self.file.weights()
    }

    /// Path of the file.
    #[getter]
    fn path(&self) -> &str {
        self.file.reader().name()
    }

    /// Whether every tensor has the bits of the checkpoint.
    #[getter]
    fn lossless(&self) -> bool {
        self.file.tensor_names().all(|name| self.file.is_exact(name))
    }
}
