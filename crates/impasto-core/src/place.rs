//! Where a tile lies in its matrix (SPEC 4).

use std::ops::Range;

/// The rows and columns of its matrix that a tile covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rows of the matrix.
    pub rows: Range<usize>,
    /// Columns of the matrix.
    pub columns: Range<usize>,
}

impl Place {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}
