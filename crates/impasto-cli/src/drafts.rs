//! Options for speculation, shared by `run`, `chat`, `serve` and `bench run`.

use std::str::FromStr;

use clap::Args;
use impasto::{Cut, File};
use impasto_container::Source;
use impasto_model::speculation::{DraftLength, Speculator};
use impasto_runtime::{Drafting, Model};

use crate::exit::UsageError;

/// The longest draft, unless a length is given.
const LONGEST: usize = 8;

/// What guesses tokens ahead.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Speculation")]
pub struct DraftArgs {
    /// Guess tokens ahead, which the model then checks together: the output is the same, or has the same distribution with a
    /// temperature. K: with layer K of the file (`inspect` lists them), below the one in use; all are in memory. `ngram`:
    /// with earlier text. `auto`: with whichever of these is fastest.
    #[arg(long, value_name = "K|auto|ngram|none")]
    pub draft_layer: Option<DraftLayer>,
    /// Guess this many tokens at a time [default: as many as pay, up to 8].
    #[arg(long, value_name = "N", requires = "draft_layer", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub draft_tokens: Option<u8>,
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
    /// Returns whether layers of the file propose tokens.
    pub fn needs_layers(&self) -> bool {
        matches!(self.draft_layer, Some(DraftLayer::Layer(_) | DraftLayer::Auto))
    }

    /// Returns them for all models of a server.
    #[cfg(feature = "serve")]
    pub fn of_server(&self) -> impasto_serve::models::Drafts {
        use impasto_serve::models::{DraftLayers, Drafts};

        let layers = match self.draft_layer {
            Some(DraftLayer::Layer(layer)) => DraftLayers::One(layer),
            Some(DraftLayer::Auto) => DraftLayers::All,
            Some(DraftLayer::Ngram | DraftLayer::None) | None => DraftLayers::None,
        };
        let lookup = matches!(self.draft_layer, Some(DraftLayer::Ngram | DraftLayer::Auto));
        Drafts { lookup, layers, length: self.length() }
    }

    /// Returns the layers of a file that propose tokens, counted from 1: those below what `cut` leaves of it.
    pub fn layers<S: Source>(&self, file: &File<S>, cut: Option<&Cut>) -> anyhow::Result<Vec<usize>> {
        let all = file.layers();
        let above = match cut {
            None => all.len(),
            Some(Cut::Layer(layer)) => (*layer).min(all.len()),
            // Whatever of the file is used, its base is below.
            Some(_) => all.len().min(2),
        };
        match self.draft_layer {
            // An exact layer in use is floats, which need no layer below. Otherwise those between are loaded too: in
            // several steps, the integers take less memory than in one.
            Some(DraftLayer::Layer(layer)) if layer < above => {
                let is_exact = file.tensor_names().all(|name| file.is_exact(name));
                Ok(if is_exact { vec![layer] } else { (layer..above).collect() })
            }
            Some(DraftLayer::Auto) if above > 1 => Ok((1..above).collect()),
            Some(DraftLayer::Layer(_) | DraftLayer::Auto) if all.len() < 2 => {
                Err(UsageError("--draft-layer needs a file with layers (`impasto encode --layers`), or `ngram`").into())
            }
            Some(DraftLayer::Layer(_) | DraftLayer::Auto) => {
                Err(UsageError("--draft-layer needs a layer below the one in use").into())
            }
            _ => Ok(vec![]),
        }
    }

    /// Creates what draws the tokens of a model, which was loaded with these layers in memory.
    pub fn speculator(&self, model: &Model, seed: u64) -> anyhow::Result<Option<Speculator<'static>>> {
        let drafting = match self.draft_layer.unwrap_or(DraftLayer::None) {
            DraftLayer::Layer(_) => Drafting::Layer(0),
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
