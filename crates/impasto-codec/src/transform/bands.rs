//! The bands of a wavelet transform, and the trees of their coefficients (SPEC 17.13, 17.14).

use std::ops::Range;

use super::wavelet::halved;

/// The coefficients of one frequency range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// Where they lie in the plane: rows.
    pub rows: Range<usize>,
    /// Columns.
    pub columns: Range<usize>,
    /// Halvings of rows and of columns that lead to the band.
    pub halvings: [u8; 2],
    /// Whether it holds the high frequencies of columns (down the rows), and of rows.
    pub high: [bool; 2],
    /// The band with the parents of its coefficients.
    pub parent: Option<usize>,
    /// Whether it is the parent of a band.
    pub is_parent: bool,
    /// Binary logarithms of the coefficients down and across that have the same parent.
    pub shift: [u8; 2],
}

impl Band {
    /// Returns its rows and columns.
    pub fn sides(&self) -> [usize; 2] {
        [self.rows.len(), self.columns.len()]
    }
}

/// Returns the bands of a plane of these sides after halvings of its rows and columns, the coarsest first. None is empty
/// unless there are more halvings than [`most_levels`](super::wavelet::most_levels).
pub fn bands(sides: [usize; 2], levels: [u8; 2]) -> Vec<Band> {
    let at = |level: u8| [0, 1].map(|i| halved(sides[i], level.min(levels[i])));
    let top = levels[0].max(levels[1]);
    let [rows, columns] = at(top).map(|side| 0..side);
    let mut all =
        vec![Band { rows, columns, halvings: levels, high: [false; 2], parent: None, is_parent: false, shift: [0; 2] }];
    for level in (1..=top).rev() {
        let (halves, low, before) = ([0, 1].map(|i| level <= levels[i]), at(level), at(level - 1));
        for high in [[false, true], [true, false], [true, true]] {
            if (high[0] && !halves[0]) || (high[1] && !halves[1]) {
                continue;
            }
            let [rows, columns] = [0, 1].map(|i| if high[i] { low[i]..before[i] } else { 0..low[i] });
            let parent = all.iter().rposition(|band| band.high == high);
            let halvings = [0, 1].map(|i| level.min(levels[i]));
            let shift = parent.map_or([0; 2], |parent| [0, 1].map(|i| all[parent].halvings[i] - halvings[i]));
            if let Some(parent) = parent {
                all[parent].is_parent = true;
            }
            all.push(Band { rows, columns, halvings, high, parent, is_parent: false, shift });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bands_of_a_small_plane() {
        let found = bands([5, 8], [1, 2]);
        let shown: Vec<_> =
            found.iter().map(|b| (b.rows.clone(), b.columns.clone(), b.high, b.parent, b.shift)).collect();
        let (no, yes) = (false, true);
        assert_eq!(
            shown,
            [
                (0..3, 0..2, [no, no], None, [0, 0]),
                (0..3, 2..4, [no, yes], None, [0, 0]),
                (0..3, 4..8, [no, yes], Some(1), [0, 1]),
                (3..5, 0..4, [yes, no], None, [0, 0]),
                (3..5, 4..8, [yes, yes], None, [0, 0]),
            ]
        );
    }

    proptest! {
        /// Bands cover the plane once, and parents come first.
        #[test]
        fn bands_are_a_partition(sides in prop::array::uniform2(1usize..40), levels in prop::array::uniform2(0u8..7)) {
            let mut count = vec![0; sides[0] * sides[1]];
            for (i, band) in bands(sides, levels).iter().enumerate() {
                prop_assert!(band.parent.is_none_or(|parent| parent < i));
                band.rows.clone().for_each(|r| band.columns.clone().for_each(|c| count[r * sides[1] + c] += 1));
            }
            prop_assert!(count.iter().all(|&n| n == 1));
        }
    }
}
