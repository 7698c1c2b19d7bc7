//! An encoding on several machines: each codes a *portion* of the tensors, and [`merge`] joins the portions to the file that one
//! machine writes.
//!
//! Tensors have owners (`assign`). What decides about the whole file is the same code as on one machine, and runs in every
//! portion; what it needs of tensors of other portions comes through files in a folder that all machines see (`file`,
//! `exchange`). A portion goes as far as it can, and stops with [`EncodeError::Waiting`](crate::EncodeError::Waiting) where
//! files of other portions are missing. Run again, it goes on from its own files. The stages of a file of a requested size:
//!
//! | stage | what a portion publishes of its tensors |
//! |---|---|
//! | `scales` | hash, mean square of the weights: metrics are relative to the mean over all tensors |
//! | `fixed` | bytes of tensors that do not depend on a step |
//! | `rates` | rates at steps half an octave apart: the forecast of the size, from which the step follows |
//! | `units` | units, wave by wave (`pace`): what a wave takes changes the steps of the next |
//!
//! A file without a size has no `fixed` and `rates`, and a lossless one has no `scales` either.

mod assign;
mod exchange;
mod facts;
mod file;
mod job;
mod merge;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use exchange::{Exchange, survey};
pub(crate) use file::{Card, Opened, VERSION, folder, limits, name, open, opened, parsed};
pub use job::{PortionReport, encode_portion};
pub(crate) use merge::found as folder_stages;
pub use merge::{Merged, fuzz_portion, merge};

/// Most portions of an encoding.
pub const MOST_PORTIONS: usize = 65536;

/// One of the portions of an encoding, counted from 1: `2/8` is the second of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    number: usize,
    of: usize,
}

impl Portion {
    /// Returns portion `number` of `of`; `None` unless `1 <= number <= of <= 65536`.
    ///
    /// ```
    /// use impasto_encode::Portion;
    /// assert_eq!(Portion::new(2, 8).map(|portion| portion.to_string()), Some("2/8".to_owned()));
    /// assert_eq!(Portion::new(9, 8), None);
    /// ```
    pub fn new(number: usize, of: usize) -> Option<Portion> {
        (1..=of).contains(&number).then_some(Portion { number, of }).filter(|_| of <= MOST_PORTIONS)
    }

    /// Returns its number, from 1.
    pub fn number(self) -> usize {
        self.number
    }

    /// Returns the number of portions.
    pub fn of(self) -> usize {
        self.of
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Portion {
    type Err = String;

    fn from_str(text: &str) -> Result<Portion, String> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let portion = numbers.and_then(|(number, of)| Portion::new(number, of));
        portion.ok_or_else(|| format!("not a portion such as 2/8, with 1 to {MOST_PORTIONS} portions counted from 1"))
    }
}
