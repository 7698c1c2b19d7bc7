//! The position of a tile in its matrix (SPEC 4).

use std::ops::Range;

/// The rows and columns that a tile covers in its matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rows of the matrix.
    pub rows: Range<usize>,
    /// Columns of the matrix.
    pub columns: Range<usize>,
}

impl Place {
    /// Returns the number of elements.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}
