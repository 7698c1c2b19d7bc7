//! Ways to code a whole tile, besides the plain one: in other orders, with learned transforms, by run lengths.

use impasto_codec::CodecError;
use impasto_codec::transform::Setup;
use impasto_codec::transform::learned::Bases;

use super::tools::{Tools, TransformTool};
use super::{klt, orders};
use crate::lines::Lines;

/// How a tile is coded as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    /// Orders of its rows and columns, and transforms of its own.
    pub setup: Setup,
    /// Whether levels are coded by run lengths.
    pub runs: bool,
}

impl Variant {
    /// Returns values of the tile (row-major) in the order in which they are coded.
    pub fn ordered(&self, values: &[f32], width: usize) -> Vec<f32> {
        let height = values.len() / width.max(1);
        let [rows, columns] = &self.setup.orders;
        let row = |r: usize| rows.as_ref().map_or(r, |order| order.places()[r] as usize) * width;
        let rows = (0..height).map(|r| &values[row(r)..][..width]);
        match columns {
            None => rows.flatten().copied().collect(),
            Some(order) => rows.flat_map(|row| order.places().iter().map(|&c| row[c as usize])).collect(),
        }
    }
}

/// Tries variants of a tile one after the other, each on top of the best so far. `attempt` codes the tile and returns the
/// result with its cost. Returns the best variant, with its result and cost.
///
/// # Errors
/// Those of `attempt`.
pub fn best<T>(
    values: &[f32],
    width: usize,
    tools: Tools,
    first: Variant,
    mut attempt: impl FnMut(&Variant) -> Result<(T, f64), CodecError>,
) -> Result<(Variant, T, f64), CodecError> {
    let (coded, cost) = attempt(&first)?;
    let mut best = (first, coded, cost);
    let mut offer = |best: &mut (Variant, T, f64), variant: Variant| {
        let (coded, cost) = attempt(&variant)?;
        if cost < best.2 {
            *best = (variant, coded, cost);
        }
        Ok::<_, CodecError>(())
    };
    for (side, tool) in [TransformTool::RowOrder, TransformTool::ColumnOrder].into_iter().enumerate() {
        if tools.has(tool)
            && let Some(order) = orders::best(&Lines::new(&best.0.ordered(values, width), width, side))
        {
            let mut variant = best.0.clone();
            variant.setup.orders[side] = Some(order);
            offer(&mut best, variant)?;
        }
    }
    if tools.has(TransformTool::Klt) {
        let ordered = best.0.ordered(values, width);
        for side in 0..2 {
            if let Some(learned) = klt::learn(&ordered, width, side) {
                let mut variant = best.0.clone();
                let mut sides = [0, 1].map(|side| variant.setup.bases.learned(side).cloned());
                sides[side] = Some(learned);
                variant.setup.bases = Bases::new(sides);
                offer(&mut best, variant)?;
            }
        }
    }
    if tools.has(TransformTool::Runs) && !best.0.runs {
        let variant = Variant { runs: true, ..best.0.clone() };
        offer(&mut best, variant)?;
    }
    Ok(best)
}
