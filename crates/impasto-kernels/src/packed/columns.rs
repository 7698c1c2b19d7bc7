//! The order of columns in a packed matrix.

use std::io;
use std::sync::Arc;

use super::PackError;
use super::cell::{BLOCK, GROUP};
use crate::stored::{Reader, Writer};

/// The largest number of columns: the index of a column fits 16 bits.
const MOST: usize = 1 << 16;

/// The columns of a matrix with their steps, sorted by the width of their integers, so that the 32 columns of a group
/// have similar widths.
///
/// Cheap to clone: the row groups of a matrix share it.
#[derive(Clone, Debug)]
pub struct ColumnOrder(Arc<Columns>);

#[derive(Debug, PartialEq)]
struct Columns {
    /// The column of the file at each position.
    order: Vec<u16>,
    /// The step of the column at each position.
    steps: Vec<f32>,
}

impl ColumnOrder {
    /// Sorts columns by `widths`, the narrowest first; columns of equal width keep their order.
    ///
    /// - `steps`: the step of each column
    /// - `widths`: any measure of the number of bits that the integers of each column take, such as its class
    ///
    /// # Errors
    /// If the lengths differ, there are more than 2^16 columns, or a step is not finite.
    pub fn new(steps: &[f32], widths: &[i32]) -> Result<ColumnOrder, PackError> {
        PackError::check_count("widths of columns", widths.len(), steps.len())?;
        PackError::check_most("columns", steps.len(), MOST)?;
        PackError::check_steps("column", steps)?;
        let mut order: Vec<u16> = (0..steps.len()).map(|column| column as u16).collect();
        order.sort_by_key(|&c| widths[c as usize]);
        let steps = order.iter().map(|&c| steps[c as usize]).collect();
        Ok(ColumnOrder(Arc::new(Columns { order, steps })))
    }

    /// Returns the number of columns, without padding.
    pub fn inputs(&self) -> usize {
        self.0.order.len()
    }

    /// Returns the column of the file at each position.
    pub(super) fn order(&self) -> &[u16] {
        &self.0.order
    }

    /// Returns the step at each position.
    pub(super) fn steps(&self) -> &[f32] {
        &self.0.steps
    }

    /// Returns the number of groups of columns; the last one is padded.
    pub(super) fn groups(&self) -> usize {
        self.inputs().div_ceil(GROUP)
    }

    /// Returns the number of blocks of columns; the last one may have fewer groups.
    pub(super) fn blocks(&self) -> usize {
        self.inputs().div_ceil(BLOCK)
    }

    /// Returns the number of positions, including padding.
    pub(super) fn padded(&self) -> usize {
        self.groups() * GROUP
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(self.order()) + size_of_val(self.steps())
    }

    pub(super) fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.array(self.order())?;
        to.array(self.steps())
    }

    /// Reads `inputs` columns; `None` if kernels could not use them.
    pub(super) fn read(inputs: usize, from: &mut Reader) -> Option<ColumnOrder> {
        PackError::check_most("columns", inputs, MOST).ok()?;
        let (order, steps) = (from.array::<u16>(inputs)?, from.array::<f32>(inputs)?);
        PackError::check_steps("column", &steps).ok()?;
        // Products gather activations at these columns without further checks, and each column has one position.
        let mut seen = vec![false; inputs];
        let is_new = |&column: &u16| seen.get_mut(column as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        order.iter().all(is_new).then(|| ColumnOrder(Arc::new(Columns { order, steps })))
    }
}

impl PartialEq for ColumnOrder {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}
