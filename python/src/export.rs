//! Exports that are read, not written.

use std::sync::Arc;

use impasto::export::{Form, Inputs};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{exception, usage};
use crate::pool;

/// A file in the form of another format.
#[pyclass(frozen, module = "impasto._impasto")]
pub struct Export {
    file: Arc<impasto::File>,
    export: impasto::export::Export,
}

impl Export {
    /// Plans the export of a file.
    pub fn plan(py: Python<'_>, file: Arc<impasto::File>, form: &str) -> PyResult<Export> {
        let form = match form {
            "compressed-tensors" => Form::CompressedTensors(Inputs::Floats),
            "compressed-tensors-8bit" => Form::CompressedTensors(Inputs::EightBits),
            "mlx" => Form::Mlx,
            "safetensors" => Form::Safetensors,
            _ => return Err(usage(format!("there is no form {form:?}"))),
        };
        let plan = || Ok(impasto::export::Export::plan(&file, form)?);
        let export = py.detach(|| pool::install(plan)).map_err(exception)?;
        Ok(Export { file, export })
    }
}

#[pymethods]
impl Export {
    /// Names, dtypes and shapes of the tensors.
    fn tensors(&self) -> Vec<(&str, &str, &[u64])> {
        self.export.tensors().map(|spec| (spec.name.as_str(), spec.dtype.name(), spec.shape.as_slice())).collect()
    }

    /// The bytes of a tensor.
    fn read<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let read = || Ok(self.export.tensor(&self.file, name)?);
        Ok(py.detach(|| pool::install(read)).map_err(exception)?.into_pyarray(py))
    }

    /// Names of the assets.
    fn assets(&self) -> &[String] {
        self.export.assets()
    }

    /// The bytes of an asset; `None` if there is none.
    fn asset<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let asset = py.detach(|| self.export.asset(&self.file, name)).map_err(exception)?;
        Ok(asset.map(|bytes| PyBytes::new(py, &bytes)))
    }

    /// What the format cannot express.
    fn notes(&self) -> &[String] {
        self.export.notes()
    }
}
