//! Choosing the width of each cell of a strip.

use super::cell::{self, CELL, Line, WIDEST};

/// Cost of an outlier, in bytes: its memory (4 bytes), plus the bytes that could be read in the time that it takes.
const OUTLIER: u32 = 20;

/// Cost of a cell whose width differs from that of the previous cell, in the same unit: the branch on the width is
/// often mispredicted.
const CHANGE: u32 = 64;

/// Number of widths to choose from.
pub(super) const CHOICES: usize = WIDEST as usize + 1;

/// Appends the widths of least cost for the cells of a strip to `widths`.
///
/// Adjacent cells should share a width, so the cells are not independent: the result is the cheapest path through all
/// of them (Viterbi, 1967).
#[inline(always)]
pub(super) fn choose(cells: &[[i16; CELL]], paths: &mut Vec<[u8; CHOICES]>, widths: &mut Vec<u8>) {
    paths.clear();
    let mut costs = [0; CHOICES];
    for cell in cells {
        let (cheapest, least) = cheapest(&costs);
        let mut from = [0; CHOICES];
        let mut outliers = u16::MAX;
        for (width, (cost, from)) in costs.iter_mut().zip(&mut from).enumerate() {
            // What fits a width fits every wider one.
            if outliers > 0 {
                outliers = beyond(cell, width as u8);
            }
            *from = width as u8;
            if !paths.is_empty() && least + CHANGE < *cost {
                (*from, *cost) = (cheapest as u8, least + CHANGE);
            }
            *cost += OUTLIER * u32::from(outliers) + (width * size_of::<Line>()) as u32;
        }
        paths.push(from);
    }
    let start = widths.len();
    let (mut width, _) = cheapest(&costs);
    for from in paths.iter().rev() {
        widths.push(width as u8);
        width = usize::from(from[width]);
    }
    widths[start..].reverse();
}

fn cheapest(costs: &[u32; CHOICES]) -> (usize, u32) {
    // Among equals the widest, which has the fewest outliers.
    let (width, cost) = costs.iter().enumerate().rev().min_by_key(|&(_, cost)| cost).unwrap_or((0, &0));
    (width, *cost)
}

/// Returns the number of integers that do not fit a width.
#[inline(always)]
fn beyond(cell: &[i16; CELL], width: u8) -> u16 {
    let (least, most) = (-cell::bias(width) as i16, cell::most(width) as i16);
    cell.iter().map(|&z| u16::from(z < least) | u16::from(z > most)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the cost of a choice.
    fn cost(cells: &[[i16; CELL]], widths: &[u8]) -> u32 {
        let each =
            |(cell, &width): (&[i16; CELL], &u8)| OUTLIER * u32::from(beyond(cell, width)) + 64 * u32::from(width);
        let changes = widths.windows(2).filter(|pair| pair[0] != pair[1]).count() as u32;
        cells.iter().zip(widths).map(each).sum::<u32>() + CHANGE * changes
    }

    #[test]
    fn no_other_choice_is_cheaper() {
        let mut rng = impasto_core::rng::SplitMix64::new(11);
        let mut differ = 0;
        for _ in 0..30 {
            let mut cell =
                |spread: f64| std::array::from_fn(|_| ((rng.next_f64() + rng.next_f64() - 1.0) * spread) as i16);
            let cells: [[i16; CELL]; 3] = [cell(2.3), cell(4.1), cell(2.2)];
            let mut widths = Vec::new();
            choose(&cells, &mut Vec::new(), &mut widths);
            let choices = (0..CHOICES.pow(3)).map(|n| [n % 9, n / 9 % 9, n / 81].map(|width| width as u8));
            let best = choices.map(|widths| cost(&cells, &widths)).min();
            assert_eq!(Some(cost(&cells, &widths)), best, "{widths:?}");
            differ += usize::from(widths[0] != widths[1]);
        }
        assert!(differ < 30, "a change costs something");
        let mut none = Vec::new();
        choose(&[], &mut Vec::new(), &mut none);
        assert!(none.is_empty());
    }
}
