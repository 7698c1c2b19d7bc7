//! Weights that become 0, whatever their targets.

use std::ops::Range;

use super::multiply::Row;

/// Chooses weights that become 0 while rows are rounded.
///
/// The columns of a matrix are divided into groups of neighbours. The weights of a group are chosen together, just before
/// its last column is rounded: columns are rounded from last to first, so the columns after the group are rounded then.
pub trait Pruner: Sync {
    /// Returns the first column of the group that `column` belongs to.
    fn group(&self, column: usize) -> usize;

    /// Chooses among the weights of a group, in up to 16 rows. `targets` are the weights, corrected for the errors of the
    /// columns after the group. All have one entry per column. Bit `lane` of an entry of `pruned` becomes 1 if the weight
    /// in row `rows.start + lane` is to become 0, and 0 otherwise.
    fn choose(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        weights: &[Row<f32>],
        targets: &[Row<f32>],
        pruned: &mut [u16],
    );
}
