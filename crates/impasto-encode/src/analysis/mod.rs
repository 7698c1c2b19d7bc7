//! What each tool of mode transform earns on the tensors of a checkpoint, and what a low-rank part does: [`analyze`].
//!
//! | module | contents |
//! |---|---|
//! | `report` | the result: [`Analysis`] |
//! | `sample` | the tiles of a tensor that are looked at |
//! | `sets` | the sets of tools that are compared |
//! | `curve` | rates at equal error |
//! | `shares` | how much of a tile each choice takes |
//! | `low_rank` | the low-rank part of a tensor |
//! | `tensor` | the analysis of a tensor |
//!
//! Nothing here decides how a file is coded; rates are those of units that the encoder makes.

mod curve;
mod low_rank;
mod report;
mod sample;
mod sets;
mod shares;
mod tensor;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use impasto_checkpoint::Checkpoint;

pub use report::{
    Analysis, BlockChoice, LowRankAnalysis, Means, Rates, SCHEMA, Share, Shares, TensorAnalysis, TileAnalysis,
    ToolAnalysis, ToolMeans,
};

use crate::error::{EncodeError, heard};
use crate::inputs::Inputs;
use crate::low_rank::Residual;
use crate::options::{LEAST_WEIGHTS, Options, Target};
use crate::rate::{Found, Rates as MeasuredRates, search, usual_step};
use crate::transform::{Effort, Tools, TransformTool};

/// Options of an analysis.
#[derive(Clone, Debug)]
pub struct AnalysisOptions {
    /// The rate that the step is set for: bits per weight on the lattice, over all tensors that are coded with loss.
    pub bits_per_weight: f64,
    /// The set that is called *all*. Its tools are looked at one by one.
    pub tools: Tools,
    /// How much time the search for a tile may take.
    pub effort: Effort,
    /// Patterns of which a tensor's name must match one; all tensors match if there is none. `*` stands for any
    /// characters.
    pub tensors: Vec<String>,
    /// About the number of weights of each tensor that are looked at; eight times as many where tools earn.
    pub weights: usize,
    /// Number of threads; 0 means one per core. The result does not depend on it, except for times.
    pub threads: usize,
    /// See [`Options::memory_limit`].
    pub memory_limit: Option<u64>,
}

impl Default for AnalysisOptions {
    fn default() -> Self {
        AnalysisOptions {
            bits_per_weight: 4.0,
            tools: Tools::ALL,
            effort: Effort::Fast,
            tensors: vec![],
            weights: 1 << 14,
            threads: 0,
            memory_limit: None,
        }
    }
}

/// Progress of an analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnalysisProgress<'a> {
    /// Searching for the step that gives the requested rate: number of the pass.
    Measuring(usize),
    /// Analysing a tensor: its name, tensors done, tensors in all. Reported before each tile that is coded.
    Tensor(&'a str, usize, usize),
}

/// A callback that is called before each stage, from several threads; it cancels the analysis by returning `Break`.
pub type AnalysisWatch<'a> = &'a (dyn Fn(AnalysisProgress) -> ControlFlow<()> + Sync);

/// Finds out what each tool of mode transform earns on each tensor of a checkpoint that can be coded with loss.
///
/// # Errors
/// If no tensor can be coded with loss, none has a wanted name, no step gives the wanted rate, a file of the checkpoint
/// cannot be read, or the watcher cancels.
pub fn analyze(
    checkpoint: &Checkpoint,
    options: &AnalysisOptions,
    watch: AnalysisWatch<'_>,
) -> Result<Analysis, EncodeError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|e| EncodeError::Threads(e.to_string()))?;
    let analysis = pool.install(|| run(checkpoint, options, watch));
    // That a file became shorter explains any other error.
    checkpoint.check()?;
    analysis
}

fn run(checkpoint: &Checkpoint, options: &AnalysisOptions, watch: AnalysisWatch<'_>) -> Result<Analysis, EncodeError> {
    let AnalysisOptions { bits_per_weight, tools, threads, memory_limit, .. } = *options;
    // Tools of the encoder are off, because nothing is encoded; so are low-rank parts, which are looked at one by one.
    let target = Target::BitsPerWeight(bits_per_weight);
    let plain = Options { tools: Tools::NONE, residual: Residual::None, ..Options::new(target) };
    let encoding = Options { threads, memory_limit, ..plain };
    let mut inputs = Inputs::new(checkpoint, &encoding, None, None, None)?;
    if tools.has(TransformTool::CoLocated) {
        inputs.find_references();
    }
    let chosen = chosen(&inputs, &options.tensors)?;
    let step = find_step(&inputs, bits_per_weight, watch)?;
    let mut tensors = Vec::new();
    for (done, &i) in chosen.iter().enumerate() {
        let heard = || heard(watch(AnalysisProgress::Tensor(&inputs.tensors[i].name, done, chosen.len())));
        heard()?;
        if let Some(lossy) = inputs.lossy(i)? {
            tensors.push(tensor::analyze(&inputs.tensors[i], &lossy, step, options, &heard)?);
        }
        inputs.release(i);
    }
    Ok(Analysis { schema: SCHEMA, bits_per_weight, relative_step: step, tools: sets::names(tools), tensors })
}

/// Returns the tensors that can be coded with loss and have a name that matches one of the patterns.
pub(crate) fn chosen(inputs: &Inputs, patterns: &[String]) -> Result<Vec<usize>, EncodeError> {
    let lossy: Vec<usize> = (0..inputs.len()).filter(|&i| inputs.is_lossy(i)).collect();
    if lossy.is_empty() {
        return Err(EncodeError::NothingToAnalyze { least: LEAST_WEIGHTS });
    }
    for pattern in patterns {
        if lossy.iter().any(|&i| matches(pattern, &inputs.tensors[i].name)) {
            continue;
        }
        let exact = inputs.tensors.iter().any(|tensor| matches(pattern, &tensor.name));
        let rule = if exact {
            "it is never coded with loss: only matrices of F32, F16 or BF16 of some size are, and tied ones once"
        } else {
            "the model has no tensor of this name"
        };
        return Err(EncodeError::Tensor { tensor: pattern.clone(), rule });
    }
    let wanted =
        |i: &usize| patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, &inputs.tensors[*i].name));
    Ok(lossy.into_iter().filter(wanted).collect())
}

/// Returns whether a name matches a pattern, in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

/// Returns the global step at which all lossy tensors take so many bits per weight on the lattice.
fn find_step(inputs: &Inputs, bits_per_weight: f64, watch: AnalysisWatch<'_>) -> Result<f64, EncodeError> {
    let rates = MeasuredRates::default();
    let weights = inputs.lossy_weights();
    let bytes = |bits: f64| (bits * weights as f64 / 8.0) as u64;
    let mut pass = 0;
    let size = |step: f64| {
        pass += 1;
        heard(watch(AnalysisProgress::Measuring(pass)))?;
        let mut sum = 0.0;
        for i in 0..inputs.len() {
            if let Some(lossy) = inputs.lossy(i)? {
                let rate = rates.at(i, step, false, |step| Ok::<_, EncodeError>(lossy.measure(step)))?.lattice;
                sum += rate.bits / 8.0 * inputs.tensors[i].weights() as f64 + rate.header_bytes;
                inputs.release(i);
            }
        }
        Ok::<_, EncodeError>(sum as u64)
    };
    let wanted = bytes(bits_per_weight);
    let bits = |bytes: u64| bytes as f64 * 8.0 / weights.max(1) as f64;
    match search(wanted, wanted / 500, weights, usual_step(bits_per_weight), size)? {
        Found::Step(step) => Ok(step),
        Found::LeastIs(least) => Err(EncodeError::NoRate { wanted: bits_per_weight, limit: bits(least) }),
        Found::MostIs(most) => Err(EncodeError::NoRate { wanted: bits_per_weight, limit: bits(most) }),
    }
}
