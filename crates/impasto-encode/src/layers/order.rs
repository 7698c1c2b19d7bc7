//! The order of units: by quality gained for each byte, over the whole model.
//!
//! An increment of a tile row is worth what it takes from the model's error over what it takes of the file. Those of one tile row come
//! in their order: one that gains more a byte than the one before it counts together with that (the convex hull of the
//! tile row's rate and distortion, as in JPEG 2000's EBCOT: Taubman, IEEE Trans. Image Processing 9(7), 2000).

/// What one layer adds to one tile row: all its units there.
#[derive(Clone, Debug, PartialEq)]
pub struct Increment {
    /// What it takes from the error of the model; what counts is the ratio between increments.
    pub gain: f64,
    /// Bytes of its units.
    pub bytes: u64,
}

/// The order of all increments of all tile rows, best first: number of the tile row, number of the increment in it.
pub fn order(tile_rows: &[Vec<Increment>]) -> Vec<(usize, usize)> {
    let mut all: Vec<(f64, usize, usize)> = Vec::new();
    for (tile_row, increments) in tile_rows.iter().enumerate() {
        let slopes = hull(increments);
        all.extend(slopes.into_iter().enumerate().map(|(increment, slope)| (slope, tile_row, increment)));
    }
    // Slopes of one tile row never climb, so equal ones leave increments in their order.
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.2, a.1).cmp(&(b.2, b.1))));
    all.into_iter().map(|(_, tile_row, increment)| (tile_row, increment)).collect()
}

/// The slope of each increment on the convex hull: never more than that of the one before.
fn hull(increments: &[Increment]) -> Vec<f64> {
    // Runs of increments that count together: gain, bytes, how many.
    let mut runs: Vec<(f64, f64, usize)> = Vec::new();
    for increment in increments {
        let gain = if increment.gain.is_finite() { increment.gain } else { 0.0 };
        let mut run = (gain, increment.bytes.max(1) as f64, 1);
        while let Some(&before) = runs.last() {
            if before.0 * run.1 > run.0 * before.1 {
                break;
            }
            runs.pop();
            run = (before.0 + run.0, before.1 + run.1, before.2 + run.2);
        }
        runs.push(run);
    }
    runs.iter().flat_map(|&(gain, bytes, count)| std::iter::repeat_n(gain / bytes, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn increment(gain: f64, bytes: u64) -> Increment {
        Increment { gain, bytes }
    }

    #[test]
    fn best_first() {
        let tile_rows = [vec![increment(8.0, 2), increment(1.0, 2)], vec![increment(9.0, 3), increment(3.0, 3)]];
        assert_eq!(order(&tile_rows), [(0, 0), (1, 0), (1, 1), (0, 1)]);
        let late = [vec![increment(1.0, 10), increment(20.0, 10)], vec![increment(5.0, 5)]];
        assert_eq!(order(&late), [(0, 0), (0, 1), (1, 0)], "an increment that waits for a better one counts with it");
    }

    proptest! {
        #[test]
        fn every_increment_once_and_in_order(tile_rows in prop::collection::vec(prop::collection::vec((-1.0..100.0f64, 0u64..99), 0..6), 0..20)) {
            let tile_rows: Vec<Vec<Increment>> = tile_rows.iter().map(|b| b.iter().map(|&(g, n)| increment(g, n)).collect()).collect();
            let mut next = vec![0; tile_rows.len()];
            for (tile_row, increment) in order(&tile_rows) {
                prop_assert_eq!(next[tile_row], increment);
                next[tile_row] += 1;
            }
            prop_assert!(next.iter().zip(&tile_rows).all(|(&n, b)| n == b.len()));
        }
    }
}
