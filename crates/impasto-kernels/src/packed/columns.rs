//! The order in which a packed matrix has its columns.

use std::sync::Arc;

use super::PackError;
use super::cell::{BLOCK, GROUP};

/// Most columns: an index of a column, and of four times as many bytes, fits 32 bits.
const MOST: usize = 1 << 24;

/// The columns of a matrix, sorted by how wide their integers are, so that each group of 32 needs one width; with
/// their steps.
///
/// Cheap to clone: the bands of a matrix share it.
#[derive(Clone, Debug)]
pub struct ColumnOrder(Arc<Columns>);

#[derive(Debug, PartialEq)]
struct Columns {
    /// The file's column at each place.
    order: Vec<u32>,
    /// The step of the column at each place.
    steps: Vec<f32>,
}

impl ColumnOrder {
    /// The order of columns of these steps by `widths`, the narrowest first; equal ones keep their order.
    ///
    /// `steps`: the step of each column; `widths`: any measure of how many bits its integers take, such as its class.
    ///
    /// # Errors
    /// If there are not as many widths as steps, more than 2^24 columns, or a step is not finite.
    pub fn new(steps: &[f32], widths: &[i32]) -> Result<ColumnOrder, PackError> {
        PackError::check_count("widths of columns", widths.len(), steps.len())?;
        PackError::check_most("columns", steps.len(), MOST)?;
        PackError::check_steps("column", steps)?;
        let mut order: Vec<u32> = (0..steps.len() as u32).collect();
        order.sort_by_key(|&c| widths[c as usize]);
        let steps = order.iter().map(|&c| steps[c as usize]).collect();
        Ok(ColumnOrder(Arc::new(Columns { order, steps })))
    }

    /// Columns of the file.
    pub fn inputs(&self) -> usize {
        self.0.order.len()
    }

    /// The file's column at each place.
    pub(super) fn order(&self) -> &[u32] {
        &self.0.order
    }

    /// The step at each place.
    pub(super) fn steps(&self) -> &[f32] {
        &self.0.steps
    }

    /// Groups of columns, the last one padded.
    pub(super) fn groups(&self) -> usize {
        self.inputs().div_ceil(GROUP)
    }

    /// Blocks of columns, the last of which may have fewer groups.
    pub(super) fn blocks(&self) -> usize {
        self.inputs().div_ceil(BLOCK)
    }

    /// Places, those of the padding among them.
    pub(super) fn padded(&self) -> usize {
        self.groups() * GROUP
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.order()) + size_of_val(self.steps())
    }
}

impl PartialEq for ColumnOrder {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}
