//! The order of units: by quality gained per byte, over the whole model.
//!
//! The value of an increment is the reduction of the model's error over its bytes. The increments of a tile row stay in
//! order: one that gains more per byte than the one before it counts together with it (the convex hull of rate and
//! distortion, as in JPEG 2000's EBCOT: Taubman, IEEE Trans. Image Processing 9(7), 2000).

/// What one layer adds to a tile row: all its units there.
#[derive(Clone, Debug, PartialEq)]
pub struct Increment {
    /// Reduction of the model's error; only the ratio between increments matters.
    pub gain: f64,
    /// Bytes of its units.
    pub bytes: u64,
}

/// Orders all increments of all tile rows, best first. Returns pairs of tile row and increment indices.
pub fn order(tile_rows: &[Vec<Increment>]) -> Vec<(usize, usize)> {
    let mut all: Vec<(f64, usize, usize)> = Vec::new();
    for (tile_row, increments) in tile_rows.iter().enumerate() {
        let slopes = hull(increments);
        all.extend(slopes.into_iter().enumerate().map(|(increment, slope)| (slope, tile_row, increment)));
    }
    // Slopes of a tile row never increase, so comparing equal ones by increment first keeps its increments in order.
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.2, a.1).cmp(&(b.2, b.1))));
    all.into_iter().map(|(_, tile_row, increment)| (tile_row, increment)).collect()
}

/// Returns the slope of each increment on the convex hull; it is never more than that of the one before.
fn hull(increments: &[Increment]) -> Vec<f64> {
    // Runs of increments that count together: gain, bytes, number.
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
