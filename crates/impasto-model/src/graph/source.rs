//! The network of a configuration, as the tensors of a source have it.

use std::collections::HashSet;

use super::{Block, LinearSpec, Network, describe};
use crate::config::DecoderConfig;
use crate::{ModelError, Result, WeightSource};

/// Most tensors that an error names.
const NAMED: usize = 3;

/// A note on a model that has an output projection although its configuration ties it to the embedding.
pub const OWN_OUTPUT: &str = "config.json says tie_word_embeddings = true, but the output projection is another matrix \
    than the embedding; it is used, as in transformers 5";

pub(super) fn embedding(prefix: &str) -> String {
    format!("{prefix}embed_tokens.weight")
}

/// Returns the prefix of the tensor names of this source, and the name of its output projection.
fn names(source: &dyn WeightSource, config: &DecoderConfig) -> (&'static str, &'static str) {
    let present = |(prefix, _): &&(&'static str, _)| source.shape(&embedding(prefix)).is_some();
    config.names.iter().find(present).or(config.names.first()).copied().unwrap_or(("", ""))
}

/// Describes the network of a configuration by the tensors of a source. A configuration with a tied embedding is
/// changed to one without if the source has an output projection that differs from the embedding, as in transformers 5.
///
/// # Errors
/// [`ModelError::UnusedTensors`] if layers have tensors that the network does not use, so that their weights have
/// another meaning; [`ModelError::Tensor`] if the source cannot compare tensors.
pub fn describe_source(source: &dyn WeightSource, config: &mut DecoderConfig) -> Result<Network> {
    let (prefix, output) = names(source, config);
    if config.tie_word_embeddings && source.shape(output).is_some() {
        let failed = |source| ModelError::Tensor { name: output.into(), source };
        config.tie_word_embeddings = source.is_same(&embedding(prefix), output).map_err(failed)?;
    }
    let network = describe(config, (prefix, output));
    check_used(source, &network)?;
    Ok(network)
}

/// Returns the names of the tensors that a model with this `config.json` has; `None` if it is not one that can be run.
pub fn tensor_names(config: &[u8]) -> Option<HashSet<String>> {
    let config = DecoderConfig::from_json(config).ok()?;
    Some(describe(&config, *config.names.first()?).tensor_names().collect())
}

/// Checks that the linear layers have no tensors but their weights and biases. (An unused bias changes nothing in
/// transformers either.)
fn check_used(source: &dyn WeightSource, network: &Network) -> Result<()> {
    let module = |spec: &'_ LinearSpec| spec.name.strip_suffix("weight").map(str::to_owned);
    let layers = network.blocks.iter().flat_map(Block::layers).chain(network.ends.layers());
    let modules: HashSet<String> = layers.filter_map(module).collect();
    let is_unused = |name: &String| {
        let mut parts = name.match_indices('.').map(|(dot, _)| name.split_at(dot + 1));
        parts.any(|(module, part)| modules.contains(module) && !matches!(part, "weight" | "bias"))
    };
    let unused: Vec<String> = source.tensor_names().into_iter().filter(is_unused).collect();
    match unused.len() {
        0 => Ok(()),
        count => {
            let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
            Err(ModelError::UnusedTensors { names: unused[..count.min(NAMED)].join(", ") + &more })
        }
    }
}
