//! Errors of packing.

use impasto_core::DType;
use thiserror::Error;

/// Error: integers or blocks cannot be packed, or row groups do not form a matrix. The caller adds the name of the tensor.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum PackError {
    /// A number of elements does not match the shape.
    #[error("{what}: there are {found}, not {expected}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: usize,
        /// The number expected.
        expected: usize,
    },
    /// More columns, or more integers in a row group, than kernels can address.
    #[error("{what}: {found} is more than the {most} that kernels can address")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: usize,
        /// The largest number allowed.
        most: usize,
    },
    /// Integers are so large that a sum of products with them does not fit 32 bits.
    #[error("row {row} of the row group: sums of products with its integers do not fit 32 bits")]
    Integers {
        /// The row within the row group.
        row: usize,
    },
    /// A step is infinite or NaN.
    #[error("the step {value} of {what} {index}: steps must be finite")]
    Step {
        /// `row` or `column`.
        what: &'static str,
        /// Index of the row or column.
        index: usize,
        /// The step.
        value: f32,
    },
    /// Blocks of this dtype have no packed form.
    #[error("blocks of {} have no packed form", .0.name())]
    Dtype(DType),
    /// A row group was packed with another column order than that of the matrix.
    #[error("row group {0} was packed with another order of columns")]
    OtherColumns(usize),
}

impl PackError {
    pub(crate) fn check_count(what: &'static str, found: usize, expected: usize) -> Result<(), PackError> {
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
