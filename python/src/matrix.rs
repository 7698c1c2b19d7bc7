//! Matrices that stay packed.

use std::sync::Arc;

use anyhow::Context;
use impasto::FileWeights;
use impasto::run::{Activations, RuntimeOptions, WeightMatrix};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::errors::{exception, usage};
use crate::pool;

/// A matrix in memory as packed integers, outputs x inputs.
#[pyclass(frozen, module = "impasto._impasto")]
pub struct Matrix {
    matrix: WeightMatrix,
}

/// Loads tensors of a file.
pub fn load(
    py: Python<'_>,
    file: Arc<impasto::File>,
    names: &[String],
    threads: usize,
    int8: bool,
) -> PyResult<Vec<Matrix>> {
    let activations = if int8 { Activations::Int8 } else { Activations::F32 };
    let options = RuntimeOptions { threads, activations, ..RuntimeOptions::default() };
    let load = || -> anyhow::Result<_> {
        let path = file.reader().name().to_owned();
        let weights = FileWeights::new(file)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        WeightMatrix::load_all(&weights, &names, &options).context(path)
    };
    Ok(py.detach(|| pool::install(load)).map_err(exception)?.into_iter().map(|matrix| Matrix { matrix }).collect())
}

/// Numbers for a result. Memory that is not there is an exception, not the end of the process.
fn zeros(rows: usize, columns: usize) -> PyResult<Vec<f32>> {
    let length = rows.checked_mul(columns).ok_or_else(|| PyMemoryError::new_err(()))?;
    let mut out = Vec::new();
    out.try_reserve_exact(length).map_err(|_| PyMemoryError::new_err(()))?;
    out.resize(length, 0.0);
    Ok(out)
}

#[pymethods]
impl Matrix {
    /// Name of the tensor.
    #[getter]
    fn name(&self) -> &str {
        self.matrix.name()
    }

    /// Outputs and inputs.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        self.matrix.shape().into()
    }

    /// Bytes in memory.
    #[getter]
    fn nbytes(&self) -> usize {
        self.matrix.memory_bytes()
    }

    /// x W^T, for rows x: rows x inputs to rows x outputs.
    fn product<'py>(&self, py: Python<'py>, x: PyReadonlyArray2<'_, f32>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let [outputs, inputs] = self.matrix.shape();
        let (rows, columns) = (x.shape()[0], x.shape()[1]);
        if columns != inputs {
            return Err(usage(format!("{:?} takes rows of {inputs} numbers, not {columns}", self.matrix.name())));
        }
        // The memory of an array in another order would be its transpose.
        if !x.is_c_contiguous() {
            let rule = "the rows do not lie one after the other in memory: use numpy.ascontiguousarray";
            return Err(usage(rule.to_owned()));
        }
        let x = x.as_slice()?;
        let mut out = zeros(rows, outputs)?;
        py.detach(|| self.matrix.multiply(x, &mut out)).map_err(exception)?;
        PyArray1::from_vec(py, out).reshape([rows, outputs])
    }

    /// The weights: outputs x inputs.
    fn decode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let [outputs, inputs] = self.matrix.shape();
        let mut out = zeros(outputs, inputs)?;
        py.detach(|| self.matrix.decode(&mut out)).map_err(exception)?;
        PyArray1::from_vec(py, out).reshape([outputs, inputs])
    }

    fn __repr__(&self) -> String {
        let [outputs, inputs] = self.matrix.shape();
        format!("<impasto.Matrix {:?}, {outputs} x {inputs}>", self.matrix.name())
    }
}
