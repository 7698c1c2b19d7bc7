//! Statistics of a model on a text: what its linear layers see, and how much their errors weigh.
//!
//! They lie in a safetensors file: `covariance.G`, F32, the lower triangle of the mean of `x x^T` over all tokens, row by
//! row, for each group `G` of linear layers that share an input; `rows.T`, F32, the weight of each row of tensor `T` over
//! their mean; `info`, U8, JSON as [`Info`].

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

/// What the statistics are of, and of each linear layer what is not a matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the layout.
    pub version: u32,
    /// BLAKE3 of the model's tensors, hexadecimal.
    pub model: String,
    /// BLAKE3 of the text, hexadecimal.
    pub text: String,
    /// Tokens in a window; each window began with an empty context.
    pub window: u64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Tokens, the first of these, that gradients were made of.
    pub gradient_tokens: u64,
    /// Tokens, the last of these, that were held back while the dampings were found.
    pub held_back_tokens: u64,
    /// Groups of linear layers that share an input, by the name of the first of them.
    pub groups: BTreeMap<String, Group>,
    /// Linear layers by the name of their tensor.
    pub linears: BTreeMap<String, Linear>,
}

/// Linear layers that share an input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Number of inputs, n.
    pub inputs: u64,
    /// Tokens that the covariance is over: those that went through these layers.
    pub tokens: u64,
    /// The damping that was found, as a share of the mean diagonal.
    pub damping: f64,
    /// On the tokens held back, the error of rounding with the covariance of the others, over the error that this
    /// covariance would have it: 1 if they were as forecast. None if nothing was held back.
    pub held_back: Option<f64>,
}

/// A linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// The group whose covariance its input has; none for an embedding, whose input is one row, and where the input was
    /// always 0.
    pub input: Option<String>,
    /// Added to the diagonal of the covariance, as a share of its mean: what was found for the group, and for a tied
    /// embedding what its errors as an embedding weigh.
    pub damping: f64,
    /// KL divergence in nats for each unit of mean square error of the output, summed over outputs.
    pub sensitivity: f64,
    /// Tokens that went through it.
    pub tokens: u64,
}

/// An opened file of statistics.
pub struct Statistics {
    file: Checkpoint,
    name: String,
    info: Info,
}

impl Statistics {
    /// Opens a file and checks all that is in it: that every group has its covariance, every number its range.
    ///
    /// # Errors
    /// If it is not a safetensors file or not one of statistics.
    pub fn open(path: &Path) -> Result<Statistics, EncodeError> {
        let name = path.display().to_string();
        let file = Checkpoint::open(path)?;
        match check::info(&file).and_then(|info| check::all(&file, &info).map(|()| info)) {
            Ok(info) => Ok(Statistics { file, name, info }),
            Err(rule) => Err(EncodeError::Statistics { file: name, rule }),
        }
    }

    /// What they are of.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of inputs of a group, if its covariance is there.
    pub fn inputs(&self, group: &str) -> Option<usize> {
        usize::try_from(self.info.groups.get(group)?.inputs).ok()
    }

    /// The covariance of a group: `n * n`, row-major, its lower triangle filled.
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

    /// Mean square of the inputs of a group.
    pub fn mean_square(&self, group: &str) -> Option<f64> {
        let n = self.inputs(group)?;
        let tensor = self.file.tensor(&covariance_name(group))?;
        let diagonal = (0..n).filter_map(|i| Some(f64::from(value(&self.file, tensor, i * (i + 3) / 2)?)));
        Some(diagonal.sum::<f64>() / n.max(1) as f64)
    }

    /// Weights of the rows of a tensor, if they differ.
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
