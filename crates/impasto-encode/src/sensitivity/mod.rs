//! How much the error of each tensor matters: what estimators say, and what is measured ([`sensitivity`]).
//!
//! Each tensor is coded alone at the same rate, with the error feedback that a file would have. The *measured* sensitivity is the KL
//! divergence of the network with only this tensor coded, on text that is held back. Each [`Estimator`] says from other data what it
//! should be. For bit allocation only the proportions between tensors count, and they are compared by rank, per weight.
//!
//! | module | contents |
//! |---|---|
//! | `coded` | tensors coded alone at a rate |
//! | `estimators` | names of the estimators, and those that need no run |
//! | `forecast` | estimators from inputs and gradients |
//! | `perturb` | the measured divergence |
//! | `ranks` | rank correlation |
//! | `report` | the result: [`Sensitivities`] |

mod coded;
mod estimators;
mod forecast;
mod perturb;
mod ranks;
mod report;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use impasto_checkpoint::Checkpoint;
use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Decoder, Labels};
use impasto_model::{ModelError, WeightSource};

pub use estimators::Estimator;
pub use report::{Correlation, Estimate, SENSITIVITY_SCHEMA, Sensitivities, TensorSensitivity};

use crate::analysis::chosen;
use crate::calibrate::model_hash;
use crate::error::{EncodeError, heard};
use crate::formats::Selector;
use crate::inputs::Inputs;
use crate::low_rank::Residual;
use crate::options::{Options, Target};
use crate::statistics::Statistics;
use crate::transform::Tools;
use coded::Coded;
use forecast::{Estimates, Forecasts};
use perturb::Perturbation;

/// Options of an analysis of sensitivity.
#[derive(Clone, Debug)]
pub struct SensitivityOptions {
    /// Bits per weight that each tensor is coded at.
    pub bits_per_weight: f64,
    /// Tokens per window. Each window starts with an empty context.
    pub window: usize,
    /// Parts of the calibration text that estimates are made from, each on its own.
    pub shards: usize,
    /// Windows of each shard.
    pub windows: usize,
    /// Windows of the held-back text.
    pub held_back: usize,
    /// Patterns of which a tensor's name must match one; all tensors match if there is none. `*` stands for any characters.
    pub tensors: Vec<String>,
    /// Number of threads; 0 means one per core.
    pub threads: usize,
    /// Approximate limit on memory, in bytes; `None` for no limit.
    pub memory_limit: Option<u64>,
}

impl Default for SensitivityOptions {
    fn default() -> Self {
        SensitivityOptions {
            bits_per_weight: 3.0,
            window: 256,
            shards: 4,
            windows: 4,
            held_back: 2,
            tensors: vec![],
            threads: 0,
            memory_limit: None,
        }
    }
}

/// What a network is run with.
#[derive(Clone, Copy)]
pub struct SensitivityRun<'a> {
    /// The weights of the checkpoint.
    pub weights: &'a dyn WeightSource,
    /// Tokens for the estimates: one shard after another.
    pub calibration: &'a [u32],
    /// Tokens for the measured divergence, which should be others.
    pub held_back: &'a [u32],
}

impl SensitivityRun<'_> {
    /// Checks that the texts are long enough.
    ///
    /// # Errors
    /// [`EncodeError::ShortText`] if there are fewer tokens than the windows have, or no windows.
    pub fn check(&self, options: &SensitivityOptions) -> Result<(), EncodeError> {
        let shards = options.shards.saturating_mul(options.windows);
        for (tokens, windows) in [(self.calibration, shards), (self.held_back, options.held_back)] {
            let window = options.window.saturating_mul(windows);
            if window == 0 || tokens.len() < window {
                return Err(EncodeError::ShortText { tokens: tokens.len(), window });
            }
        }
        Ok(())
    }
}

/// Progress of an analysis of sensitivity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensitivityProgress<'a> {
    /// Coding a tensor: its name, tensors done, tensors in all.
    Coding(&'a str, usize, usize),
    /// Estimating from a window: windows done, windows in all.
    Estimating(usize, usize),
    /// Measuring with a tensor coded: its name, tensors done, tensors in all.
    Measuring(&'a str, usize, usize),
}

/// A callback that is called before each stage; it cancels the analysis by returning `Break`.
pub type SensitivityWatch<'a> = &'a dyn Fn(SensitivityProgress) -> ControlFlow<()>;

/// Codes each tensor of a checkpoint alone, and finds out how much that matters. Without a `run` of the network, only estimates are
/// found that need none; `statistics` are used by the feedback of rounding and by some of these.
///
/// # Errors
/// If no tensor can be coded with loss, none has a wanted name, the statistics are those of another model, the network cannot be run,
/// a text is too short, memory would exceed the limit, or the watcher cancels.
pub fn sensitivity(
    checkpoint: &Checkpoint,
    statistics: Option<&Statistics>,
    run: Option<SensitivityRun<'_>>,
    options: &SensitivityOptions,
    watch: SensitivityWatch<'_>,
) -> Result<Sensitivities, EncodeError> {
    if let Some(statistics) = statistics
        && statistics.info().model != model_hash(checkpoint)?.to_hex().as_str()
    {
        return Err(EncodeError::OtherModel { file: statistics.name().to_owned() });
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|e| EncodeError::Threads(e.to_string()))?;
    let encoding = Options {
        tools: Tools::NONE,
        residual: Residual::None,
        threads: options.threads,
        memory_limit: options.memory_limit,
        ..Options::new(Target::BitsPerWeight(options.bits_per_weight))
    };
    let inputs = pool.install(|| Inputs::new(checkpoint, &encoding, statistics, None, None))?;
    let chosen = chosen(&inputs, &options.tensors)?;
    let network = run.map(|run| Network::load(run, &inputs, &chosen, options)).transpose()?;
    let mut coded = BTreeMap::new();
    let mut left_out = Vec::new();
    for (done, &tensor) in chosen.iter().enumerate() {
        let name = &inputs.tensors[tensor].name;
        heard(watch(SensitivityProgress::Coding(name, done, chosen.len())))?;
        match pool.install(|| coded::code(&inputs, tensor, options.bits_per_weight))? {
            Some(found) => drop(coded.insert(inputs.tensors[tensor].hf_name.clone(), found)),
            None => left_out.push(name.clone()),
        }
    }
    // That a file became shorter explains any other error.
    inputs.check()?;
    let mut result = Sensitivities::new(options, left_out);
    let blocks = coded.keys().filter_map(|name| estimators::block_of(name)).max().map_or(0, |last| last + 1);
    for (name, coded) in &coded {
        let tensor = &inputs.tensors[coded.tensor];
        let mut found = TensorSensitivity {
            name: tensor.name.clone(),
            kind: Selector::of(name).name(),
            shape: tensor.info.shape.clone(),
            weights: coded.error.len() as u64,
            bits: coded.bits,
            relative_error: coded.square() / coded.error.len().max(1) as f64 / coded.mean_square,
            measured: None,
            halves: None,
            estimates: BTreeMap::new(),
        };
        for (estimator, value) in pool.install(|| estimators::without_run(name, coded, blocks, statistics)) {
            found.estimates.insert(estimator, Estimate::of(vec![value]));
        }
        result.tensors.push(found);
    }
    if let Some(network) = network {
        network.fill(&mut result, &coded, &inputs, watch)?;
    }
    result.correlate();
    Ok(result)
}

/// The network, with the texts that it is run on.
struct Network<'a> {
    run: SensitivityRun<'a>,
    options: &'a SensitivityOptions,
    config: DecoderConfig,
    decoder: Decoder,
}

impl<'a> Network<'a> {
    fn load(
        run: SensitivityRun<'a>,
        inputs: &Inputs,
        chosen: &[usize],
        options: &'a SensitivityOptions,
    ) -> Result<Self, EncodeError> {
        run.check(options)?;
        let window = options.window;
        let missing = ModelError::MissingAsset { name: "config.json", why: "a model cannot be run without it" };
        let config = DecoderConfig::from_json(&run.weights.asset("config.json").ok_or(missing)?)?;
        let coded: u64 = chosen.iter().map(|&tensor| inputs.tensors[tensor].weights()).sum();
        let (width, vocab) = (config.hidden_size as u64, config.vocab_size as u64);
        let streams = 2 * config.blocks.len() as u64 * window as u64 * width * (options.held_back as u64 + 8);
        let floats = inputs.weights() + coded + 2 * vocab * width + streams + 3 * (1u64 << 24).max(vocab);
        let needed = floats.saturating_mul(4);
        if let Some(limit) = options.memory_limit.filter(|&limit| needed > limit) {
            return Err(EncodeError::SensitivityMemory { needed, limit });
        }
        let decoder = Decoder::load(run.weights, config.clone(), options.threads)?;
        Ok(Network { run, options, config, decoder })
    }

    /// Adds the estimates that need a run, and the measured divergence.
    fn fill(
        mut self,
        result: &mut Sensitivities,
        coded: &BTreeMap<String, Coded>,
        inputs: &Inputs,
        watch: SensitivityWatch<'_>,
    ) -> Result<(), EncodeError> {
        let names: Vec<String> = coded.keys().cloned().collect();
        let shards = self.estimates(coded, watch)?;
        for (tensor, name) in result.tensors.iter_mut().zip(&names) {
            let mut values: BTreeMap<Estimator, Vec<f64>> = BTreeMap::new();
            for (estimator, value) in shards.iter().flat_map(|shard| shard.get(name).into_iter().flatten()) {
                values.entry(*estimator).or_default().push(*value);
            }
            tensor.estimates.extend(values.into_iter().map(|(estimator, values)| (estimator, Estimate::of(values))));
        }
        let (window, threads) = (self.options.window, self.options.threads);
        let tokens = &self.run.held_back[..self.options.held_back * window];
        let mut perturbation =
            Perturbation::new(&mut self.decoder, self.run.weights, self.config, threads, tokens, window)?;
        for (done, (tensor, name)) in result.tensors.iter_mut().zip(&names).enumerate() {
            let coded = &coded[name];
            heard(watch(SensitivityProgress::Measuring(&inputs.tensors[coded.tensor].name, done, names.len())))?;
            // Not every tensor is a layer of the network.
            if !perturbation.has(name) {
                continue;
            }
            let windows = perturbation.measure(name, &coded.error)?;
            let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
            tensor.measured = Some(mean(&windows));
            let (first, second) = windows.split_at(windows.len() / 2);
            tensor.halves = (!first.is_empty()).then(|| [mean(first), mean(second)]);
        }
        Ok(())
    }

    /// Returns what the estimators say, by shard and tensor.
    fn estimates(
        &self,
        coded: &BTreeMap<String, Coded>,
        watch: SensitivityWatch<'_>,
    ) -> Result<Vec<Estimates>, EncodeError> {
        let SensitivityOptions { window, shards, windows, .. } = *self.options;
        let mut parts = self.run.calibration.chunks_exact(window).enumerate();
        let mut found = Vec::with_capacity(shards);
        for _ in 0..shards {
            let mut forecasts = Forecasts::new(coded);
            for (index, tokens) in parts.by_ref().take(windows) {
                heard(watch(SensitivityProgress::Estimating(index, shards * windows)))?;
                self.decoder.backward(tokens, Labels::Sampled { seed: index as u64 + 1 }, &mut forecasts)?;
                let (tokens, labels) = (&tokens[..window - 1], &tokens[1..]);
                forecasts.is_labelled = true;
                self.decoder.backward(tokens, Labels::Given(labels), &mut forecasts)?;
                forecasts.is_labelled = false;
            }
            found.push(forecasts.estimates());
        }
        Ok(found)
    }
}
