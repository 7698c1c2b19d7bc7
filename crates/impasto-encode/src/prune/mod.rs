//! Pruning: weights that become 0, chosen by a criterion, as many as a pattern asks for.
//!
//! A pruned weight is the integer 0 of the lattice, so the format knows nothing of it; the tables learn that 0 is
//! frequent. Its error is that of any rounding: error feedback compensates it by the columns that are not yet rounded.
//!
//! [`Pruning`] is the option; `scores` has the choice.

mod scores;

use std::fmt;
use std::str::FromStr;

use crate::analysis::matches;
use crate::error::EncodeError;
use crate::model::Tensor;
pub use scores::{KeepZeros, Scores};

/// Most weights of a group of [`Pattern::Groups`].
const MOST: u8 = 64;
/// Parts of the names of tensors that are no linear layers of blocks: embeddings, positions, output projections.
const OTHERS: [&str; 6] = ["embed", "wte", "wpe", "position", "lm_head", "token_embd"];
/// The name of an output projection that says no more.
const OUTPUT: &str = "output.weight";

/// What weights are compared by; the least become 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// The magnitude of the weight.
    Magnitude,
    /// The magnitude times the norm of the input (Wanda, arXiv 2306.11695).
    Wanda,
    /// The error that is left once the best correction by earlier columns is made, of weights that are corrected for
    /// the errors of later columns (SparseGPT, arXiv 2301.00774).
    SparseGpt,
}

impl Criterion {
    /// All criteria with their names.
    pub const ALL: [(Criterion, &'static str); 3] =
        [(Criterion::Magnitude, "magnitude"), (Criterion::Wanda, "wanda"), (Criterion::SparseGpt, "sparsegpt")];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        Criterion::ALL.into_iter().find(|(criterion, _)| *criterion == self).map_or("", |(_, name)| name)
    }

    /// Returns whether it needs the covariance of the inputs.
    pub fn needs_calibration(self) -> bool {
        self != Criterion::Magnitude
    }
}

/// Which weights are compared with each other, and how many of them become 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// This share of the weights, above 0 and below 1. Compared are those of a row, and by SparseGPT those of 16 rows and
    /// 64 columns.
    Share(f64),
    /// At most `kept` of `of` neighbours in a row are not 0 (`2:4`). The last group of a row may be shorter.
    Groups {
        /// From 1, and less than `of`.
        kept: u8,
        /// At most 64.
        of: u8,
    },
}

/// How a file is pruned, such as `wanda:2:4` or `magnitude:50%`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pruning {
    /// What weights are compared by.
    pub criterion: Criterion,
    /// How many become 0.
    pub pattern: Pattern,
    /// Patterns of which a tensor's name must match one; `*` stands for any characters. Without any, all tensors that are
    /// coded with loss are pruned, unless their names are those of an embedding or an output projection.
    pub tensors: Vec<String>,
}

impl Pruning {
    /// Returns an error if the pattern violates its rule, or if no tensor that is coded with loss is pruned or has one of
    /// the names.
    pub(crate) fn check<'a>(&self, lossy: impl Iterator<Item = &'a Tensor<'a>>) -> Result<(), EncodeError> {
        self.pattern.check().map_err(|rule| EncodeError::PrunePattern { rule })?;
        let lossy: Vec<&Tensor> = lossy.collect();
        let nothing = |rule: String| Err(EncodeError::NothingToPrune { rule });
        for pattern in &self.tensors {
            if !lossy.iter().any(|tensor| matches(pattern, &tensor.name)) {
                return nothing(format!("has a name that matches {pattern}"));
            }
        }
        match lossy.iter().any(|tensor| self.includes(tensor)) {
            true => Ok(()),
            false => nothing("has a name that is not that of an embedding or an output projection".into()),
        }
    }

    /// Returns whether a tensor that is coded with loss is pruned.
    pub(crate) fn includes(&self, tensor: &Tensor) -> bool {
        if !self.tensors.is_empty() {
            return self.tensors.iter().any(|pattern| matches(pattern, &tensor.name));
        }
        let name = tensor.hf_name.to_ascii_lowercase();
        name != OUTPUT && !OTHERS.iter().any(|part| name.contains(part))
    }
}

impl FromStr for Pruning {
    type Err = String;

    fn from_str(text: &str) -> Result<Pruning, String> {
        let names = || Criterion::ALL.map(|(_, name)| name).join(", ");
        let Some((criterion, pattern)) = text.split_once(':') else {
            return Err("a criterion and a pattern are needed, such as wanda:50% or wanda:2:4".into());
        };
        let criterion = Criterion::ALL.iter().find(|(_, name)| *name == criterion);
        let criterion = criterion.ok_or_else(|| format!("the criterion is none of {}", names()))?.0;
        Ok(Pruning { criterion, pattern: pattern.parse()?, tensors: vec![] })
    }
}

impl Pattern {
    /// Returns its rule if it violates that.
    fn check(self) -> Result<(), String> {
        match self {
            Pattern::Share(share) if share > 0.0 && share < 1.0 => Ok(()),
            Pattern::Share(_) => Err("a share is above 0% and below 100%, such as 50%".into()),
            Pattern::Groups { kept, of } if 1 <= kept && kept < of && of <= MOST => Ok(()),
            Pattern::Groups { .. } => {
                Err(format!("of a group N:M, N weights are kept: N is from 1 to M - 1, and M at most {MOST}"))
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        let share = || Some(Pattern::Share(text.strip_suffix('%')?.parse::<f64>().ok()? / 100.0));
        let groups = || {
            let (kept, of) = text.split_once(':')?;
            Some(Pattern::Groups { kept: kept.parse().ok()?, of: of.parse().ok()? })
        };
        let pattern = share().or_else(groups).ok_or("a pattern is a share such as 50%, or N:M such as 2:4")?;
        pattern.check().map(|()| pattern)
    }
}

impl fmt::Display for Pruning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = self.criterion.name();
        match self.pattern {
            Pattern::Share(share) => write!(f, "{name}:{}%", share * 100.0),
            Pattern::Groups { kept, of } => write!(f, "{name}:{kept}:{of}"),
        }
    }
}

#[cfg(test)]
mod tests;
