//! Statistics of a model on a text: the inputs of its linear layers, and how much errors of their outputs matter.
//!
//! They are stored in a safetensors file. `covariance.G` (F32) is the lower triangle of the mean of `x x^T` over all
//! tokens, row-major, for each group `G` of linear layers that share an input. `rows.T` (F32) has the weight of each
//! row of tensor `T`, relative to their mean. `info` (U8) is JSON: [`Info`].

mod check;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use impasto_checkpoint::{Checkpoint, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::error::EncodeError;
pub(crate) use write::write;

/// The version of the file's layout.
pub const VERSION: u32 = 2;
const INFO: &str = "info";

/// The origin of the statistics, and everything about groups and linear layers that is not a matrix or a vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the layout.
    pub version: u32,
    /// BLAKE3 of the model's tensors, hexadecimal.
    pub model: String,
    /// BLAKE3 of the text, hexadecimal.
    pub text: String,
    /// Tokens per window. Each window started with an empty context.
    pub window: u64,
    /// Tokens that were evaluated.
    pub tokens: u64,
    /// Tokens for the gradients, taken from the start of these.
    pub gradient_tokens: u64,
    /// Held-out tokens, taken from the end of these, on which the dampings were searched.
    pub held_back_tokens: u64,
    /// Groups of linear layers that share an input, by the name of their first layer.
    pub groups: BTreeMap<String, Group>,
    /// Linear layers, by the name of their tensor.
    pub linears: BTreeMap<String, Linear>,
}

/// Linear layers that share an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Number of inputs, n.
    pub inputs: u64,
    /// Tokens that the covariance is the mean over: those that passed through these layers.
    pub tokens: u64,
    /// Damping found by the search, as a share of the mean diagonal.
    pub damping: f64,
    /// Error of rounding with the covariance of the other tokens, measured on the held-out tokens, over the error that
    /// this covariance predicts; 1 if the prediction holds. `None` if nothing was held out.
    pub held_back: Option<f64>,
}

/// A linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// The group with the covariance of its input. `None` for an embedding, whose input is one row, and for inputs that
    /// were always 0.
    pub input: Option<String>,
    /// Damping, as a share of the mean diagonal of the covariance: that of the group, plus, for a tied embedding, the
    /// weight of its errors as an embedding.
    pub damping: f64,
    /// KL divergence in nats per unit of mean square error of the output, summed over outputs.
    pub sensitivity: f64,
    /// Tokens that passed through it.
    pub tokens: u64,
}

/// An open file of statistics.
pub struct Statistics {
    file: Checkpoint,
    name: String,
    info: Info,
}

impl Statistics {
    /// Opens a file and validates it: every group has its covariance, and every number is in range.
    ///
    /// # Errors
    /// If it is not a safetensors file, or not a valid file of statistics.
    pub fn open(path: &Path) -> Result<Statistics, EncodeError> {
        let name = path.display().to_string();
        let file = Checkpoint::open(path)?;
        match check::info(&file).and_then(|info| check::all(&file, &info).map(|()| info)) {
            Ok(info) => Ok(Statistics { file, name, info }),
            Err(rule) => Err(EncodeError::Statistics { file: name, rule }),
        }
    }

    /// Returns everything that is not a matrix or a vector.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Returns the name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns an error if the file became shorter, so that numbers may have been read as zeros.
    ///
    /// # Errors
    /// [`impasto_checkpoint::CheckpointError::Io`].
    pub fn check(&self) -> Result<(), EncodeError> {
        Ok(self.file.check()?)
    }

    /// Returns the number of inputs of a group, or `None` if there is no such group.
    pub fn inputs(&self, group: &str) -> Option<usize> {
        usize::try_from(self.info.groups.get(group)?.inputs).ok()
    }

    /// Returns the number of inputs n of a group and its covariance: `n * n`, row-major, with only the lower triangle
    /// filled.
    pub fn covariance(&self, group: &str) -> Option<(usize, Vec<f32>)> {
        let n = self.inputs(group)?;
        let tensor = self.file.tensor(&covariance_name(group))?;
        let mut values = values(&self.file, tensor);
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            matrix[i * n..=i * n + i].iter_mut().zip(&mut values).for_each(|(m, v)| *m = v);
        }
        self.file.release(tensor);
        Some((n, matrix))
    }

    /// Returns the mean square of the inputs of a group.
    pub fn mean_square(&self, group: &str) -> Option<f64> {
        let squares = self.mean_squares(group)?;
        Some(squares.iter().sum::<f64>() / squares.len().max(1) as f64)
    }

    /// Returns the mean square of each input of a group.
    pub fn mean_squares(&self, group: &str) -> Option<Vec<f64>> {
        let n = self.inputs(group)?;
        let tensor = self.file.tensor(&covariance_name(group))?;
        (0..n).map(|i| Some(f64::from(value(&self.file, tensor, i * (i + 3) / 2)?))).collect()
    }

    /// Returns the row weights of a tensor, or `None` if the file has none.
    pub fn rows(&self, tensor: &str) -> Option<Vec<f32>> {
        let tensor = self.file.tensor(&rows_name(tensor))?;
        Some(values(&self.file, tensor).collect())
    }
}

fn covariance_name(group: &str) -> String {
    format!("covariance.{group}")
}

fn rows_name(tensor: &str) -> String {
    format!("rows.{tensor}")
}

fn values<'a>(file: &'a Checkpoint, tensor: &TensorInfo) -> impl Iterator<Item = f32> + use<'a> {
    file.bytes(tensor).as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

fn value(file: &Checkpoint, tensor: &TensorInfo, at: usize) -> Option<f32> {
    file.bytes(tensor).as_chunks::<4>().0.get(at).map(|&bytes| f32::from_le_bytes(bytes))
}
