//! Which tensors get a format.

use std::str::FromStr;

use impasto_core::Format;
use thiserror::Error;

use crate::error::EncodeError;
use crate::metric::Metric;

/// Share of the measured weights that are fragile.
const FRAGILE: f64 = 0.1;

/// A set of tensors, told from their names in transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Every tensor that can be coded with loss.
    All,
    /// All of them but embeddings and the output projection.
    Linear,
    /// Embeddings and the output projection.
    Embeddings,
    /// Queries, keys, values and the output of attention.
    Attention,
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// The output of attention.
    O,
    /// The linear layers of MLPs.
    Mlp,
    /// The gate of MLPs.
    Gate,
    /// The other input of an MLP's hidden layer.
    Up,
    /// The output of MLPs.
    Down,
}

impl Selector {
    /// All selectors, from the least to the most specific.
    const ALL: [Selector; 12] = [
        Selector::All,
        Selector::Linear,
        Selector::Embeddings,
        Selector::Attention,
        Selector::Mlp,
        Selector::Q,
        Selector::K,
        Selector::V,
        Selector::O,
        Selector::Gate,
        Selector::Up,
        Selector::Down,
    ];

    /// Returns its name in options.
    pub fn name(self) -> &'static str {
        match self {
            Selector::All => "all",
            Selector::Linear => "linear",
            Selector::Embeddings => "embeddings",
            Selector::Attention => "attention",
            Selector::Q => "q",
            Selector::K => "k",
            Selector::V => "v",
            Selector::O => "o",
            Selector::Mlp => "mlp",
            Selector::Gate => "gate",
            Selector::Up => "up",
            Selector::Down => "down",
        }
    }

    /// Returns the most specific set of a tensor with this name in transformers.
    pub fn of(name: &str) -> Selector {
        Selector::ALL.into_iter().rev().find(|set| set.has(name)).unwrap_or(Selector::All)
    }

    /// Returns whether a tensor with this name in transformers is in the set.
    fn has(self, name: &str) -> bool {
        let ends = |parts: &[&str]| parts.iter().any(|part| name.ends_with(&format!("{part}.weight")));
        let is_embedding = || name.contains("embed") || ends(&["lm_head", "wte", "wpe"]);
        match self {
            Selector::All => true,
            Selector::Linear => !is_embedding(),
            Selector::Embeddings => is_embedding(),
            Selector::Q => ends(&[".q_proj", ".query"]),
            Selector::K => ends(&[".k_proj", ".key"]),
            Selector::V => ends(&[".v_proj", ".value"]),
            Selector::O => ends(&[".o_proj", ".out_proj", "attention.output.dense"]),
            Selector::Attention => {
                let parts = [Selector::Q, Selector::K, Selector::V, Selector::O];
                parts.iter().any(|part| part.has(name)) || ends(&["qkv_proj"])
            }
            Selector::Gate => ends(&["gate_proj"]),
            Selector::Up => ends(&[".up_proj", "fc1", "intermediate.dense"]),
            Selector::Down => ends(&["down_proj", "fc2"]) || (ends(&["output.dense"]) && !Selector::O.has(name)),
            Selector::Mlp => {
                let parts = [Selector::Gate, Selector::Up, Selector::Down];
                parts.iter().any(|part| part.has(name)) || ends(&["gate_up_proj"]) || name.contains(".mlp.")
            }
        }
    }
}

/// The formats of a file. Tensors that none is for are coded as without formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    chosen: Vec<(Selector, Format)>,
    /// The format of the most fragile linear layers: those that raise the KL divergence most, per weight, when weights err by
    /// a share of their size; as many as have 10% of the weights that were measured, but at least one.
    pub fragile: Option<Format>,
}

/// An error in the text of [`Formats`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FormatsError {
    /// There is no such format.
    #[error("{0:?} is no format: use {names}", names = list(Format::ALL.map(Format::name)))]
    Format(String),
    /// There is no such set of tensors.
    #[error("{0:?} is no set of tensors: use {names}", names = list(Selector::ALL.map(Selector::name)))]
    Selector(String),
    /// A set of tensors has two formats.
    #[error("{0} has two formats")]
    Twice(&'static str),
}

fn list<const N: usize>(names: [&str; N]) -> String {
    names.join(", ")
}

impl Formats {
    /// Returns whether no tensor has a format.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty() && self.fragile.is_none()
    }

    /// Returns the format of the tensor with this name in transformers: that of the most specific set that it is in.
    pub fn of(&self, name: &str) -> Option<Format> {
        let rank = |selector: Selector| Selector::ALL.iter().position(|&other| other == selector);
        let found = self.chosen.iter().filter(|(selector, _)| selector.has(name));
        found.max_by_key(|(selector, _)| rank(*selector)).map(|&(_, format)| format)
    }
}

impl Formats {
    /// Returns the format of each tensor, given by its name in transformers, its number of weights and, if it is coded with
    /// loss, its metric.
    ///
    /// # Errors
    /// If a set of tensors with a format has none, or fragile tensors have a format and are not known.
    pub(crate) fn of_tensors(
        &self,
        names: &[&str],
        weights: &[u64],
        metrics: &[Option<Metric>],
    ) -> Result<Vec<Option<Format>>, EncodeError> {
        let is_lossy = |i: usize| metrics.get(i).is_some_and(Option::is_some);
        for (selector, _) in &self.chosen {
            if !(0..names.len()).any(|i| is_lossy(i) && selector.has(names[i])) {
                return Err(EncodeError::FormatOfNothing { set: selector.name() });
            }
        }
        let mut formats: Vec<_> =
            (0..names.len()).map(|i| if is_lossy(i) { self.of(names[i]) } else { None }).collect();
        if let Some(fragile) = self.fragile {
            let found = fragile_tensors(weights, metrics);
            if found.is_empty() {
                return Err(EncodeError::FragileUnmeasured);
            }
            found.into_iter().for_each(|i| formats[i] = Some(fragile));
        }
        Ok(formats)
    }
}

/// Returns the most fragile tensors: those that were measured as such first, as long as they fit into [`FRAGILE`] of the
/// measured weights, but at least one.
fn fragile_tensors(weights: &[u64], metrics: &[Option<Metric>]) -> Vec<usize> {
    let coarseness = |(i, metric): (usize, &Option<Metric>)| Some((metric.as_ref()?.coarseness?, i));
    let mut measured: Vec<(f64, usize)> = metrics.iter().enumerate().filter_map(coarseness).collect();
    measured.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let all: u64 = measured.iter().map(|&(_, i)| weights[i]).sum();
    let (mut found, mut taken) = (vec![], 0);
    for (_, i) in measured {
        if found.is_empty() || (taken + weights[i]) as f64 <= FRAGILE * all as f64 {
            found.push(i);
            taken += weights[i];
        }
    }
    found
}

/// Parses formats separated by commas, each `FORMAT` (of linear layers) or `SET=FORMAT`.
impl FromStr for Formats {
    type Err = FormatsError;

    fn from_str(text: &str) -> Result<Formats, FormatsError> {
        let mut formats = Formats::default();
        for word in text.split(',').map(str::trim) {
            let (set, format) = word.split_once('=').unwrap_or((Selector::Linear.name(), word));
            let found = Selector::ALL.into_iter().find(|selector| selector.name() == set);
            let selector = found.ok_or_else(|| FormatsError::Selector(set.to_owned()))?;
            let format = Format::from_name(format).ok_or_else(|| FormatsError::Format(format.to_owned()))?;
            if formats.chosen.iter().any(|&(other, _)| other == selector) {
                return Err(FormatsError::Twice(selector.name()));
            }
            formats.chosen.push((selector, format));
        }
        Ok(formats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_set_decides() {
        let formats: Formats = "mxfp4,attention=fp8, v=int8,embeddings=nvfp4".parse().expect("formats");
        for (name, format) in [
            ("model.layers.0.self_attn.q_proj.weight", Format::Fp8E4M3),
            ("model.layers.0.self_attn.qkv_proj.weight", Format::Fp8E4M3),
            ("model.layers.0.self_attn.v_proj.weight", Format::Int8),
            ("model.layers.0.mlp.gate_up_proj.weight", Format::Mxfp4),
            ("model.layers.0.mlp.down_proj.weight", Format::Mxfp4),
            ("model.embed_tokens.weight", Format::Nvfp4),
            ("lm_head.weight", Format::Nvfp4),
            ("model.decoder.layers.1.fc1.weight", Format::Mxfp4),
        ] {
            assert_eq!(formats.of(name), Some(format), "{name}");
        }
        assert_eq!("up=int4".parse::<Formats>().expect("formats").of("a.mlp.gate_up_proj.weight"), None);
        let dense = "o=int4,down=int8".parse::<Formats>().expect("formats");
        assert_eq!(dense.of("encoder.layer.0.attention.output.dense.weight"), Some(Format::Int4));
        assert_eq!(dense.of("encoder.layer.0.output.dense.weight"), Some(Format::Int8));
    }

    #[test]
    fn the_most_fragile_are_a_tenth_of_the_weights() {
        let metric = |coarseness| Some(Metric { input: None, relative: 1.0, rows: vec![], coarseness });
        let metrics = [metric(Some(2.0)), metric(Some(-1.0)), None, metric(None), metric(Some(0.5)), metric(Some(1.0))];
        assert_eq!(fragile_tensors(&[60, 5, 900, 900, 30, 5], &metrics), [1, 5], "30 do not fit, 5 do");
        assert_eq!(fragile_tensors(&[1, 99, 0, 0, 0, 0], &metrics)[0], 1, "at least one");
        let formats = Formats { fragile: Some(Format::Fp8E4M3), ..Formats::default() };
        let found = formats.of_tensors(&["a"; 6], &[60, 5, 900, 900, 30, 5], &metrics).expect("formats");
        assert_eq!(found.iter().filter(|format| format.is_some()).count(), 2);
        assert!(matches!(formats.of_tensors(&["a"], &[5], &[metric(None)]), Err(EncodeError::FragileUnmeasured)));
        let q: Formats = "q=int8".parse().expect("formats");
        assert!(matches!(q.of_tensors(&["a"], &[5], &[metric(None)]), Err(EncodeError::FormatOfNothing { set: "q" })));
        let names = ["a.q_proj.weight", "b.q_proj.weight"];
        assert_eq!(q.of_tensors(&names, &[5, 5], &[metric(None), None]).expect("formats"), [Some(Format::Int8), None]);
    }

    #[test]
    fn unknown_names_are_errors_that_list_the_known() {
        let error = |text: &str| text.parse::<Formats>().expect_err("an error").to_string();
        assert!(error("fp4").ends_with("use int4, int8, mxfp4, nvfp4, fp8, fp8-e5m2"), "{}", error("fp4"));
        assert!(error("heads=fp8").contains("all, linear, embeddings, attention, mlp, q"), "{}", error("heads=fp8"));
        assert_eq!(error("int4,linear=int8"), "linear has two formats");
        assert!(error("").contains("is no format"));
    }
}
