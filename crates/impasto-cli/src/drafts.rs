//! Options for speculation, shared by `run`, `chat`, `serve` and `bench run`.

use std::str::FromStr;

use clap::Args;
use impasto::{Cut, File};
use impasto_container::Source;
use impasto_model::speculation::{DraftLength, Speculator};
use impasto_runtime::{Drafting, Model, layer_that_drafts};

use crate::exit::UsageError;

/// The longest draft, unless a length is given.
const LONGEST: usize = 8;

/// What guesses tokens ahead.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Speculation")]
pub struct DraftArgs {
    /// Guess tokens ahead, which the model then checks together: the output is the same, or has the same distribution with a
    /// temperature. K: with layer K of the file (`inspect` lists them), below the one in use; all are in memory. `ngram`:
    /// with earlier text. `auto`: with whichever is faster, of earlier text and, if the layer in use is exact, of a layer
    /// below it.
    #[arg(long, value_name = "K|auto|ngram|none")]
    pub draft_layer: Option<DraftLayer>,
    /// Guess this many tokens at a time [default: as many as pay, up to 8].
    #[arg(long, value_name = "N", requires = "draft_layer", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub draft_tokens: Option<u8>,
    /// Whether all layers below the one in use are in memory, so that it can be changed.
    #[arg(skip)]
    pub keep_layers: bool,
}

/// The values of `--draft-layer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftLayer {
    /// A layer of the file, counted from 1.
    Layer(usize),
    Auto,
    Ngram,
    None,
}

impl FromStr for DraftLayer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(DraftLayer::Auto),
            "ngram" => Ok(DraftLayer::Ngram),
            "none" => Ok(DraftLayer::None),
            _ => match text.parse() {
                Ok(layer) if layer > 0 => Ok(DraftLayer::Layer(layer)),
                _ => Err("not auto, ngram, none, or the number of a layer, counted from 1"),
            },
        }
    }
}

impl DraftArgs {
    /// Returns whether a file with layers is needed.
    pub fn needs_layers(&self) -> bool {
        self.keep_layers || matches!(self.draft_layer, Some(DraftLayer::Layer(_)))
    }

    /// Returns them for all models of a server.
    #[cfg(feature = "serve")]
    pub fn of_server(&self) -> impasto_serve::models::Drafts {
        use impasto_serve::models::{DraftLayers, Drafts};

        let layers = match self.draft_layer {
            Some(DraftLayer::Layer(layer)) => DraftLayers::One(layer),
            Some(DraftLayer::Auto) => DraftLayers::Auto,
            Some(DraftLayer::Ngram | DraftLayer::None) | None => DraftLayers::None,
        };
        let lookup = matches!(self.draft_layer, Some(DraftLayer::Ngram | DraftLayer::Auto));
        Drafts { lookup, layers, length: self.length() }
    }

    /// Returns the layers of a file that are in memory beside the one in use, counted from 1: those that propose tokens, of
    /// what `cut` leaves of it.
    pub fn layers<S: Source>(&self, file: &File<S>, cut: Option<&Cut>) -> anyhow::Result<Vec<usize>> {
        let all = file.layers();
        let above = match cut {
            None => all.len(),
            Some(Cut::Layer(layer)) => (*layer).min(all.len()),
            // Whatever of the file is used, its base is below.
            Some(_) => all.len().min(2),
        };
        let is_exact = file.tensor_names().all(|name| file.is_exact(name));
        match self.draft_layer {
            _ if self.keep_layers && all.len() < 2 => {
                Err(UsageError("--keep-layers needs a file with layers (`impasto encode --layers`)").into())
            }
            _ if self.keep_layers => Ok((1..above).collect()),
            // An exact layer in use is floats, which need no layer below. Otherwise those between are loaded too: in
            // several steps, the integers take less memory than in one.
            Some(DraftLayer::Layer(layer)) if layer < above => {
                Ok(if is_exact { vec![layer] } else { (layer..above).collect() })
            }
            Some(DraftLayer::Auto) => {
                let sizes: Vec<u64> = all[..above.min(all.len())].iter().map(|layer| layer.bytes).collect();
                Ok(layer_that_drafts(&sizes, is_exact).into_iter().collect())
            }
            Some(DraftLayer::Layer(_)) if all.len() < 2 => {
                Err(UsageError("--draft-layer needs a file with layers (`impasto encode --layers`), or `ngram`").into())
            }
            Some(DraftLayer::Layer(_)) => Err(UsageError("--draft-layer needs a layer below the one in use").into()),
            _ => Ok(vec![]),
        }
    }

    /// Creates what draws the tokens of a model, which was loaded with these layers in memory.
    pub fn speculator(&self, model: &Model, seed: u64) -> anyhow::Result<Option<Speculator<'static>>> {
        let drafting = match self.draft_layer.unwrap_or(DraftLayer::None) {
            DraftLayer::Layer(layer) if self.keep_layers => Drafting::Layer(layer - 1),
            DraftLayer::Layer(_) => Drafting::Layer(0),
            // Which of several layers would pay depends on the one that is in use.
            DraftLayer::Auto if self.keep_layers => Drafting::Lookup,
            DraftLayer::Auto => Drafting::Auto,
            DraftLayer::Ngram => Drafting::Lookup,
            DraftLayer::None => Drafting::None,
        };
        Ok(model.speculator(drafting, self.length(), seed)?)
    }

    fn length(&self) -> DraftLength {
        self.draft_tokens.map_or(DraftLength::Adaptive(LONGEST), |tokens| DraftLength::Fixed(tokens.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!("3".parse(), Ok(DraftLayer::Layer(3)));
        assert_eq!("auto".parse(), Ok(DraftLayer::Auto));
        for bad in ["", "0", "-1", "Auto", "1.5", "layer"] {
            assert!(bad.parse::<DraftLayer>().is_err(), "{bad:?}");
        }
    }
}
