//! What cannot be packed.

use thiserror::Error;

/// Why integers cannot be packed, or bands not be put together. Who knows the tensor adds its name.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum PackError {
    /// A number of elements is not what the shape asks for.
    #[error("{what}: there are {found}, not {expected}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// More columns, or more integers in a band, than kernels address.
    #[error("{what}: {found} are more than {most}, the most that kernels address")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The most there may be.
        most: usize,
    },
    /// Integers so large that a sum of products with them does not fit 32 bits.
    #[error("row {row} of the band: sums of products with its integers do not fit 32 bits")]
    Integers {
        /// Their row in the band.
        row: usize,
    },
    /// A step that is infinite or not a number.
    #[error("the step {value} of {what} {index}: steps are finite")]
    Step {
        /// `row` or `column`.
        what: &'static str,
        /// Which one.
        index: usize,
        /// The step.
        value: f32,
    },
    /// A band was packed under other columns than the matrix has.
    #[error("band {0} was packed under another order of columns")]
    OtherColumns(usize),
}

impl PackError {
    pub(super) fn check_count(what: &'static str, found: usize, expected: usize) -> Result<(), PackError> {
        if found == expected { Ok(()) } else { Err(PackError::Count { what, found, expected }) }
    }

    pub(super) fn check_most(what: &'static str, found: usize, most: usize) -> Result<(), PackError> {
        if found <= most { Ok(()) } else { Err(PackError::TooLarge { what, found, most }) }
    }

    pub(super) fn check_steps(what: &'static str, steps: &[f32]) -> Result<(), PackError> {
        match steps.iter().position(|step| !step.is_finite()) {
            None => Ok(()),
            Some(index) => Err(PackError::Step { what, index, value: steps[index] }),
        }
    }
}
