//! Statistics of a model on a text: what its linear layers see, and how much their errors weigh.
//!
//! They lie in a safetensors file: `covariance.G`, F32, the lower triangle of the mean of `x x^T` over all tokens, row by
//! row, for each group `G` of linear layers that share an input; `rows.T`, F32, the weight of each row of tensor `T`,
//! where rows differ (embeddings); `info`, U8, JSON as [`Info`].

use std::collections::BTreeMap;
use std::path::Path;

use impasto_checkpoint::{Checkpoint, TensorSpec, TensorWriter};
use impasto_codec::DType;
use serde::{Deserialize, Serialize};

use crate::error::EncodeError;

/// The version of the file's layout.
pub const VERSION: u32 = 1;
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
    /// Tokens that the means are over.
    pub tokens: u64,
    /// Linear layers by the name of their tensor.
    pub linears: BTreeMap<String, Linear>,
}

/// A linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// The group whose covariance its input has; none for an embedding, whose input is one row.
    pub input: Option<String>,
    /// Added to the diagonal of the covariance, as a share of its mean.
    pub damping: f64,
    /// KL divergence in nats for each unit of mean square error of the output, summed over outputs.
    pub sensitivity: f64,
}

/// An opened file of statistics.
pub struct Statistics {
    file: Checkpoint,
    name: String,
    info: Info,
}

impl Statistics {
    /// Opens a file and checks that it is whole: every group has its covariance.
    ///
    /// # Errors
    /// If it is not a safetensors file or not one of statistics.
    pub fn open(path: &Path) -> Result<Statistics, EncodeError> {
        let name = path.display().to_string();
        let file = Checkpoint::open(path)?;
        let broken = |rule: String| EncodeError::Statistics { file: name.clone(), rule };
        let info = file.tensor(INFO).ok_or_else(|| broken("it has no tensor \"info\"".to_owned()))?;
        let info: Info = serde_json::from_slice(file.bytes(info)).map_err(|e| broken(format!("info: {e}")))?;
        if info.version != VERSION {
            return Err(broken(format!("version {}: only {VERSION} is known", info.version)));
        }
        let statistics = Statistics { file, name: name.clone(), info };
        for (tensor, linear) in &statistics.info.linears {
            let good = |x: f64| x.is_finite() && x >= 0.0;
            if !good(linear.damping) || !good(linear.sensitivity) {
                return Err(broken(format!("{tensor:?}: damping and sensitivity are finite and not negative")));
            }
            if let Some(input) = linear.input.as_ref().filter(|input| statistics.inputs(input).is_none()) {
                return Err(broken(format!("{tensor:?}: there is no covariance of {input:?}")));
            }
        }
        Ok(statistics)
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
        let tensor = self.file.tensor(&format!("covariance.{group}"))?;
        let &[length] = &tensor.shape[..] else { return None };
        let n = (length.checked_mul(2)?).isqrt();
        (tensor.dtype == DType::F32 && n.checked_mul(n + 1)? == 2 * length).then_some(n as usize)
    }

    /// The covariance of a group: `n * n`, row-major, its lower triangle filled.
    pub fn covariance(&self, group: &str) -> Option<(usize, Vec<f32>)> {
        let n = self.inputs(group)?;
        let tensor = self.file.tensor(&format!("covariance.{group}"))?;
        let mut values = self.file.bytes(tensor).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            matrix[i * n..=i * n + i].iter_mut().zip(&mut values).for_each(|(m, v)| *m = v);
        }
        self.file.release(tensor);
        Some((n, matrix))
    }

    /// Mean square of the inputs of a group.
    pub fn mean_square(&self, group: &str) -> Option<f64> {
        let (n, covariance) = self.covariance(group)?;
        Some((0..n).map(|i| f64::from(covariance[i * n + i])).sum::<f64>() / n.max(1) as f64)
    }

    /// Weights of the rows of a tensor, if they differ.
    pub fn rows(&self, tensor: &str) -> Option<Vec<f32>> {
        let tensor = self.file.tensor(&format!("rows.{tensor}")).filter(|t| t.dtype == DType::F32)?;
        Some(self.file.bytes(tensor).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }
}

/// Writes statistics: `covariances` by group, each a lower triangle row by row; `rows` by tensor.
///
/// # Errors
/// If the file cannot be written; then what was at `path` stays.
pub fn write(
    path: &Path,
    info: &Info,
    covariances: &BTreeMap<String, Vec<f32>>,
    rows: &BTreeMap<String, Vec<f32>>,
) -> Result<(), EncodeError> {
    let json = serde_json::to_vec(info).map_err(|e| EncodeError::Layout(e.to_string()))?;
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let named = |prefix: &str, map: &BTreeMap<String, Vec<f32>>| {
        map.iter().map(|(name, values)| (format!("{prefix}.{name}"), floats(values))).collect::<Vec<_>>()
    };
    let mut parts: BTreeMap<String, Vec<u8>> = named("covariance", covariances).into_iter().collect();
    parts.extend(named("rows", rows));
    let spec =
        |name: &str, bytes: &[u8], dtype: DType| TensorSpec::new(name, dtype, [(bytes.len() / dtype.size()) as u64]);
    let mut specs: Vec<TensorSpec> = parts.iter().map(|(name, bytes)| spec(name, bytes, DType::F32)).collect();
    specs.push(spec(INFO, &json, DType::U8));
    parts.insert(INFO.to_owned(), json);
    let mut writer = TensorWriter::safetensors(path, None, &specs)?;
    let order: Vec<String> = writer.tensors().iter().map(|t| t.name.clone()).collect();
    for name in order {
        writer.write(&parts[&name])?;
    }
    Ok(writer.finish()?)
}
