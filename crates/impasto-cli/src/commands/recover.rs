//! `impasto encode --recover`: multipliers of rows and weights of norms that are trained after a file is coded.

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

use impasto::CheckpointWeights;
use impasto::encode::{EncodeError, Extent, Layers, Options, Report, Target};
use impasto::recover::{RecoverError, RecoverOptions, Recovering, Recovery, check_memory, recover};
use impasto_model::config::DecoderConfig;
use impasto_model::{ModelError, WeightSource, graph};
use serde_json::{Value, json};

use super::calibrate::first_tokens;
use crate::args::Args;
use crate::model::{bases, memory_limit, open_coded, tokenizer};
use crate::progress::{Step, Watcher};

/// What recovery trains on.
pub struct Training {
    pub steps: usize,
    pub text: Cow<'static, str>,
}

/// What recovery needs to know before a file is coded.
pub struct Prepared {
    tokens: Vec<u32>,
    options: RecoverOptions,
}

/// The result of recovery, and the seconds that it took.
pub struct Done {
    recovery: Recovery,
    steps: usize,
    seconds: f64,
}

impl Training {
    /// Checks that the model can run within the limit on memory, and makes room for what is trained in the sizes of `options`.
    pub fn prepare(&self, args: &Args, weights: &CheckpointWeights, options: &mut Options) -> anyhow::Result<Prepared> {
        let why = "--recover runs the model";
        let json = weights.asset("config.json").ok_or(ModelError::MissingAsset { name: "config.json", why })?;
        let mut config = DecoderConfig::from_json(&json)?;
        let network = graph::describe_source(weights, &mut config)?;
        let usual = RecoverOptions::default();
        let window = usual.window.min(config.max_position_embeddings);
        let memory_limit = Some(memory_limit(args));
        let usual = RecoverOptions { steps: self.steps, window, threads: args.threads, memory_limit, ..usual };
        let tokens = first_tokens(&tokenizer(weights)?, &self.text, usual.tokens())?;
        if tokens.len() / window < 2 {
            return Err(EncodeError::ShortText { tokens: tokens.len(), window }.into());
        }
        check_memory(weights, tokens.len(), &usual)?;
        // Three and a half bits a row, and what an array and its padding take besides; norms become a little longer.
        let layers = network.blocks.iter().flat_map(|block| block.layers());
        let rows = layers.map(|layer| layer.outputs as u64 * 7 / 16 + 32);
        let norms = network.vectors().map(|norm| norm.width as u64 / 8 + 32);
        let bytes = rows.chain(norms).sum();
        let count = |name: &String| weights.shape(name).unwrap_or_default().iter().product::<u64>();
        make_room(options, bytes, weights.tensor_names().iter().map(count).sum());
        Ok(Prepared { tokens, options: RecoverOptions { bytes: Some(bytes), ..usual } })
    }
}

/// Takes the bytes of multipliers, so many in each layer, from the sizes of the layers.
fn make_room(options: &mut Options, bytes: u64, weights: u64) {
    let bits = |layers: usize| (bytes * layers as u64) as f64 * 8.0 / weights.max(1) as f64;
    let below = options.layers.below.iter().enumerate().map(|(n, extent)| match *extent {
        Extent::Size(size) => Extent::Size(size.saturating_sub(bytes * (n as u64 + 1))),
        Extent::BitsPerWeight(size) => Extent::BitsPerWeight(size - bits(n + 1)),
    });
    let layers = options.layers.below.len() + 1;
    options.layers = Layers { below: below.collect(), ..options.layers.clone() };
    options.target = match options.target {
        Target::Size(size) => Target::Size(size.saturating_sub(bytes * layers as u64)),
        Target::BitsPerWeight(size) => Target::BitsPerWeight(size - bits(layers)),
        other => other,
    };
}

impl Prepared {
    /// Recovers the file at `coded`, writes the result to `output`, and brings `report` up to date.
    pub fn run(
        &self,
        args: &Args,
        weights: &CheckpointWeights,
        [coded, output]: [&Path; 2],
        report: &mut Report,
        watcher: &dyn Watcher,
    ) -> anyhow::Result<Done> {
        let begun = Instant::now();
        let mut watch = |layer: usize, step: Recovering| {
            let (count, step) = match step {
                Recovering::Original(block, blocks) => {
                    ([block, blocks], format!("the original, block {} of {blocks}", block + 1))
                }
                Recovering::Measuring => ([0, 0], "measuring".to_owned()),
                Recovering::Step(step, steps) => ([step, steps], format!("step {} of {steps}", step + 1)),
            };
            let layer = if report.layers.is_empty() { String::new() } else { format!("layer {layer}, ") };
            watcher.step(Step::new("recovering", count, format!("recovering: {layer}{step}")))
        };
        let bases = bases(args, true, vec![]);
        let recovery = recover(&bases, coded, output, weights, &self.tokens, &self.options, &mut watch);
        let recovery = recovery.map_err(|error| match error {
            RecoverError::File(error) => anyhow::Error::from(error),
            RecoverError::Train(error) => error.into(),
            error => error.into(),
        })?;
        let file = open_coded(args, output)?;
        report.summary = recovery.summary.clone();
        report.layers.iter_mut().zip(file.layers()).for_each(|(layer, new)| layer.bytes = new.bytes);
        for tensor in report.tensors.iter_mut().filter(|tensor| tensor.mode.is_some()) {
            let number = file.reader().find_tensor(&tensor.name);
            let units = file.reader().units().iter().filter(|unit| Some(unit.object) == number);
            tensor.bytes = units.map(|unit| u64::from(unit.length)).sum();
        }
        Ok(Done { recovery, steps: self.options.steps, seconds: begun.elapsed().as_secs_f64() })
    }
}

impl Done {
    pub fn to_json(&self) -> Value {
        let layers = self.recovery.layers.iter().map(|layer| {
            json!({
                "layer": layer.layer, "kld_before": layer.before, "kld_after": layer.after, "kept": layer.is_kept,
                "rows": layer.rows, "norm_weights": layer.norms,
            })
        });
        let [tokens, held_back_tokens] = self.recovery.tokens;
        json!({
            "steps": self.steps, "tokens": tokens, "held_back_tokens": held_back_tokens, "seconds": self.seconds,
            "layers": layers.collect::<Vec<_>>(),
        })
    }

    pub fn to_text(&self) -> String {
        let layers = self.recovery.layers.iter().map(|layer| {
            let which =
                if self.recovery.layers.len() > 1 { format!(" of layer {}", layer.layer) } else { String::new() };
            let what = match layer.is_kept {
                true if layer.norms > 0 => {
                    format!("with multipliers of {} rows and {} weights of norms", layer.rows, layer.norms)
                }
                true => format!("with multipliers of {} rows", layer.rows),
                false => "so it is left as it was".to_owned(),
            };
            format!("recovery{which}: KLD {:.5} -> {:.5} on held-back text, {what}\n", layer.before, layer.after)
        });
        let [tokens, _] = self.recovery.tokens;
        format!(
            "{}recovery: {} steps over {tokens} tokens in {:.1} s\n",
            layers.collect::<String>(),
            self.steps,
            self.seconds
        )
    }
}
