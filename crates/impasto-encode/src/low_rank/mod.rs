//! The low-rank part of a tensor (SPEC 19): what it consists of, and whether it pays.
//!
//! | module | contents |
//! |---|---|
//! | `subspace` | the leading singular vectors of a matrix |
//! | `terms` | vectors as factors on a lattice |
//! | `structure` | the low-rank part of a tensor's weights, taken away before they are rounded, if that saves bits |
//! | `residual` | that of what rounding left, in the metric of the error |
//! | `merged` | that of an exact tensor over a base: an adapter that was merged |
//! | `intervals`, `newton`, `solve` | where a merged product lies, and the steps that lead into these intervals |

mod intervals;
mod merged;
mod newton;
mod residual;
mod solve;
mod structure;
mod subspace;
mod terms;

use std::str::FromStr;

use thiserror::Error;

pub use merged::{MOST_WEIGHTS, of_difference, predicted};
pub use residual::of_error;
pub use structure::{of_weights, step_at};

/// What is coded beside the lattice of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// Nothing.
    None,
    /// A low-rank part of the weights, for tensors in which it saves bits.
    #[default]
    Auto,
    /// For each tensor on the lattice, the low-rank matrix of this rank that is nearest to the error of rounding, in the metric
    /// in which that is measured (as in LQER, arXiv 2402.02446, and EoRA, arXiv 2410.21271).
    LowRank(u8),
}

impl FromStr for Residual {
    type Err = ResidualError;

    /// Parses `none`, `auto` or `low-rank=R`.
    fn from_str(text: &str) -> Result<Self, ResidualError> {
        let rank = |rank: &str| rank.parse::<u8>().ok().filter(|&rank| rank > 0);
        match text {
            "none" => Ok(Residual::None),
            "auto" => Ok(Residual::Auto),
            _ => text.strip_prefix("low-rank=").and_then(rank).map(Residual::LowRank).ok_or(ResidualError),
        }
    }
}

/// Error: a text names no [`Residual`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it must be `none`, `auto` or `low-rank=R` with a rank from 1 to 255")]
pub struct ResidualError;

impl Residual {
    /// Returns the rank of the part that approximates the error of rounding, if there is one.
    pub(crate) fn rank(self) -> Option<u8> {
        match self {
            Residual::LowRank(rank) => Some(rank),
            Residual::None | Residual::Auto => None,
        }
    }
}

/// Bytes that a factor of a part of the error of rounding takes, about.
const FACTOR_BYTES: f64 = 0.7;

/// Returns about the bytes of a part of the error of a matrix of these sides.
pub fn residual_bytes(rank: u8, rows: usize, columns: usize) -> u64 {
    let rank = usize::from(rank).min(rows).min(columns);
    ((rows + columns) as f64 * rank as f64 * FACTOR_BYTES) as u64
}
