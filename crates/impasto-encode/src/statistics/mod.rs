//! Statistics of a model on a text: the inputs of its linear layers, and how much errors of their outputs matter.
//!
//! They are stored in a safetensors file. The covariance of each group `G` of linear layers that share an input is the mean
//! of `x x^T` over all tokens. `mean_squares.G` (F32) is its diagonal. `correlations.G` (I16) has, for each entry below the
//! diagonal, row-major, its ratio to the root of the product of the two diagonal entries, in units of 1/32767. `rows.T` (F32)
//! has the weight of each row of tensor `T`, relative to their mean. `info` (U8) is JSON: [`Info`].

mod check;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use impasto_checkpoint::{Checkpoint, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::error::EncodeError;
pub(crate) use write::write;

/// The version of the file's layout.
pub const VERSION: u32 = 3;
/// A correlation of 1, as it is stored.
const WHOLE: f64 = 32767.0;
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
        let squares = self.stored_squares(group)?;
        let deviations: Vec<f64> = squares.iter().map(|&square| f64::from(square).sqrt()).collect();
        let tensor = self.file.tensor(&correlations_name(group))?;
        let mut below = correlations(&self.file, tensor);
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            let own = deviations[i] / WHOLE;
            let row = matrix[i * n..].iter_mut().zip(&deviations[..i]).zip(&mut below);
            row.for_each(|((m, other), c)| *m = (f64::from(c) * own * other) as f32);
            matrix[i * n + i] = squares[i];
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
        Some(self.stored_squares(group)?.into_iter().map(f64::from).collect())
    }

    fn stored_squares(&self, group: &str) -> Option<Vec<f32>> {
        let n = self.inputs(group)?;
        let squares: Vec<f32> = values(&self.file, self.file.tensor(&squares_name(group))?).collect();
        (squares.len() == n).then_some(squares)
    }

    /// Returns the row weights of a tensor, or `None` if the file has none.
    pub fn rows(&self, tensor: &str) -> Option<Vec<f32>> {
        let tensor = self.file.tensor(&rows_name(tensor))?;
        Some(values(&self.file, tensor).collect())
    }
}

fn squares_name(group: &str) -> String {
    format!("mean_squares.{group}")
}

fn correlations_name(group: &str) -> String {
    format!("correlations.{group}")
}

fn rows_name(tensor: &str) -> String {
    format!("rows.{tensor}")
}

fn values<'a>(file: &'a Checkpoint, tensor: &TensorInfo) -> impl Iterator<Item = f32> + use<'a> {
    file.bytes(tensor).as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

fn correlations<'a>(file: &'a Checkpoint, tensor: &TensorInfo) -> impl Iterator<Item = i16> + use<'a> {
    file.bytes(tensor).as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes))
}
