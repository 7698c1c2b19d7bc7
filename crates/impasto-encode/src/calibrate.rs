//! Calibration: what the linear layers of a model see on a text, and how much errors of their outputs weigh.
//!
//! Of each input the mean of `x x^T` is kept, of each output the diagonal of the Fisher information: the mean square of
//! the gradient of `-log p(y)`, `y` drawn from the model itself. An error `e` of the outputs costs about
//! `1/2 sum g^2 e^2` in KL divergence (the second-order expansion of the divergence at its minimum), so with the
//! covariance of the inputs the cost of a change of the weights is known before it is made.

use std::collections::BTreeMap;
use std::path::Path;

use impasto_checkpoint::Checkpoint;
use impasto_model::decoder::{Decoder, Labels};
use impasto_model::{GradientProbe, Probe, add_gram};
use rayon::prelude::*;

use crate::error::EncodeError;
use crate::statistics::{Info, Linear, VERSION, write};

/// Added to the diagonal of a covariance, as a share of its mean.
const DAMPING: f64 = 0.01;
/// Seed of the labels that are drawn.
const SEED: u64 = 1;

/// The sums over all windows.
#[derive(Default)]
struct Sums {
    /// By the name of the first layer that takes the input: `width * width`.
    covariances: BTreeMap<String, (usize, Vec<f32>)>,
    /// The input that each layer takes.
    inputs: BTreeMap<String, String>,
    /// Squared gradients by output of each layer; of the head its exact Fisher information.
    outputs: BTreeMap<String, Vec<f64>>,
    /// Squared gradients, mean over the width, by token.
    embedding: Vec<f64>,
    head: String,
}

impl Probe for Sums {
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize) {
        let Some(first) = names.first() else { return };
        for name in names {
            self.inputs.entry((*name).to_owned()).or_insert_with(|| (*first).to_owned());
        }
        let sum = self.covariances.entry((*first).to_owned()).or_insert_with(|| (width, vec![0.0; width * width]));
        add_gram(&mut sum.1, x, width);
    }
}

impl GradientProbe for Sums {
    fn head(&mut self, name: &str, fisher: &[f32], outputs: usize) {
        self.head = name.to_owned();
        let sums = self.outputs.entry(name.to_owned()).or_insert_with(|| vec![0.0; outputs]);
        fisher.chunks_exact(outputs).for_each(|row| sums.iter_mut().zip(row).for_each(|(s, &f)| *s += f64::from(f)));
    }

    fn linear_gradient(&mut self, name: &str, gradient: &[f32], outputs: usize) {
        let sums = self.outputs.entry(name.to_owned()).or_insert_with(|| vec![0.0; outputs]);
        for row in gradient.chunks_exact(outputs) {
            sums.iter_mut().zip(row).for_each(|(sum, &g)| *sum += f64::from(g) * f64::from(g));
        }
    }

    fn embedding_gradient(&mut self, tokens: &[u32], gradient: &[f32], width: usize) {
        for (&token, row) in tokens.iter().zip(gradient.chunks_exact(width.max(1))) {
            let square: f64 = row.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
            if let Some(sum) = self.embedding.get_mut(token as usize) {
                *sum += square / width as f64;
            }
        }
    }
}

/// Runs `tokens` through a model, `window` at a time (what is left over at the end is not used), and writes the
/// statistics to `path`. `embedding` is the name of the embedding's tensor, `text` the hash of the text. `watch` hears
/// the windows done and to do.
///
/// # Errors
/// If there is no whole window, the model cannot run it, or the file cannot be written.
pub fn calibrate(
    checkpoint: &Checkpoint,
    model: &Decoder,
    tokens: &[u32],
    window: usize,
    text: &blake3::Hash,
    path: &Path,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Info, EncodeError> {
    let windows = tokens.chunks_exact(window.max(1));
    let count = windows.len();
    if count == 0 {
        return Err(EncodeError::ShortText { tokens: tokens.len(), window });
    }
    let embedding = EMBEDDING.to_owned();
    let rows = model.weights(&embedding).map(|w| w.len()).unwrap_or(0);
    let width = model.linears().first().map_or(1, |linear| linear.inputs);
    let mut sums = Sums { embedding: vec![0.0; rows / width.max(1)], ..Sums::default() };
    for (i, tokens) in windows.enumerate() {
        watch(i, count);
        model.backward(tokens, Labels::Sampled { seed: SEED + i as u64 }, &mut sums)?;
    }
    let info = Info {
        version: VERSION,
        model: model_hash(checkpoint).to_hex().to_string(),
        text: text.to_hex().to_string(),
        tokens: (count * window) as u64,
        linears: BTreeMap::new(),
    };
    sums.write(info, path)
}

/// The embedding's tensor in transformers.
const EMBEDDING: &str = "model.embed_tokens.weight";

impl Sums {
    /// Means, sensitivities and weights of rows, into the file.
    fn write(mut self, mut info: Info, path: &Path) -> Result<Info, EncodeError> {
        let tokens = info.tokens as f64;
        let mut covariances = BTreeMap::new();
        let mut mean_squares = BTreeMap::new();
        for (name, (n, sum)) in std::mem::take(&mut self.covariances) {
            let mean = (0..n).map(|i| f64::from(sum[i * n + i])).sum::<f64>() / (n.max(1) as f64 * tokens);
            mean_squares.insert(name.clone(), mean);
            let triangle = (0..n).flat_map(|i| sum[i * n..=i * n + i].iter());
            covariances.insert(name, triangle.map(|&s| (f64::from(s) / tokens) as f32).collect());
        }
        let mut rows = BTreeMap::new();
        for (name, sums) in &self.outputs {
            let Some(input) = self.inputs.get(name) else { continue };
            let mut damping = DAMPING;
            let mut weights: Vec<f64> = sums.iter().map(|s| s / tokens).collect();
            let mean = mean_of(&weights);
            if *name == EMBEDDING && mean > 0.0 {
                // A tied matrix errs twice: in the logits through the covariance, in the embedding as it is.
                let found: Vec<f64> = self.embedding.iter().map(|s| s / tokens).collect();
                let ratio = mean_of(&found) / mean;
                damping += ratio / mean_squares.get(input).copied().unwrap_or(1.0).max(f64::MIN_POSITIVE);
                if ratio > 0.0 && found.len() == weights.len() {
                    weights.iter_mut().zip(found).for_each(|(w, f)| *w = (*w + f / ratio) / 2.0);
                }
            }
            let linear = Linear { input: Some(input.clone()), damping, sensitivity: mean / 2.0 };
            info.linears.insert(name.clone(), linear);
            rows.insert(name.clone(), relative(&weights));
        }
        if self.head != EMBEDDING {
            let weights: Vec<f64> = self.embedding.iter().map(|s| s / tokens).collect();
            let linear = Linear { input: None, damping: 0.0, sensitivity: mean_of(&weights) / 2.0 };
            info.linears.insert(EMBEDDING.to_owned(), linear);
            rows.insert(EMBEDDING.to_owned(), relative(&weights));
        }
        write(path, &info, &covariances, &rows)?;
        Ok(info)
    }
}

fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Values over their mean.
fn relative(values: &[f64]) -> Vec<f32> {
    let mean = mean_of(values).max(f64::MIN_POSITIVE);
    values.iter().map(|v| (v / mean) as f32).collect()
}

/// A hash of all tensors: names, dtypes, shapes and bytes.
pub fn model_hash(checkpoint: &Checkpoint) -> blake3::Hash {
    let hash = |tensor: &impasto_checkpoint::TensorInfo| {
        let hash = blake3::hash(checkpoint.bytes(tensor));
        checkpoint.release(tensor);
        let type_name = tensor.type_name.as_deref().unwrap_or(tensor.dtype.name());
        format!("{:?} {type_name} {:?} {hash}\n", tensor.name, tensor.shape)
    };
    let lines: Vec<String> = checkpoint.tensors().par_iter().map(hash).collect();
    blake3::hash(lines.concat().as_bytes())
}
