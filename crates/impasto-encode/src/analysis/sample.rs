//! The tiles of a tensor that are looked at.

use impasto_core::Place;

/// Rows and columns of a tile; of a smaller one, if so few weights are wanted.
const SIDE: usize = 128;
const SMALL_SIDE: usize = 64;

/// Returns tiles with about `weights` weights of a matrix in all, spread over it. A matrix of no more weights is one tile.
/// The first tile is as good a sample as any single one.
pub fn places(rows: usize, columns: usize, weights: usize) -> Vec<Place> {
    if rows.saturating_mul(columns) <= weights {
        return vec![Place { rows: 0..rows, columns: 0..columns }];
    }
    let usual = if weights < SIDE * SIDE { SMALL_SIDE } else { SIDE };
    // Where the matrix is narrower, a tile is longer.
    let side = |other: usize| if other < usual { usual * usual / other.max(1) } else { usual };
    let (height, width) = (side(columns).min(rows), side(rows).min(columns));
    let [down, across] = [rows / height, columns / width];
    let all = down * across;
    let count = (weights / (height * width)).clamp(1, all);
    let place = |i: usize| {
        // In the middle of equal parts, one column further to the right in each row, so that no column is preferred.
        let at = (2 * i + 1) * all / (2 * count);
        let (row, column) = (at / across, (at % across + at / across) % across);
        let (top, left) = (row * rows / down, column * columns / across);
        let (top, left) = (top.min(rows - height), left.min(columns - width));
        Place { rows: top..top + height, columns: left..left + width }
    };
    let mut places: Vec<Place> = (0..count).map(place).collect();
    places.rotate_left(count / 2);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_inside_and_apart() {
        for (rows, columns, weights) in [
            (576, 576, 1 << 15),
            (49152, 576, 1 << 18),
            (1, 9000, 4096),
            (9000, 1, 4096),
            (3, 5, 1),
            (130, 130, 16384),
            (60, 4000, 1 << 16),
            (384, 240, 1 << 16),
            (128, 129, 1),
        ] {
            let places = places(rows, columns, weights);
            let sum: usize = places.iter().map(Place::elements).sum();
            assert!(sum > 0 && (sum <= weights || places.len() == 1), "{rows} {columns}: {places:?}");
            for (i, a) in places.iter().enumerate() {
                assert!(a.rows.end <= rows && a.columns.end <= columns, "{a:?}");
                let apart = |b: &Place| {
                    let apart =
                        |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| a.end <= b.start || b.end <= a.start;
                    apart(&a.rows, &b.rows) || apart(&a.columns, &b.columns)
                };
                assert!(places[..i].iter().all(apart), "{rows} {columns}: {places:?}");
            }
        }
        assert_eq!(places(200, 300, 60000), [Place { rows: 0..200, columns: 0..300 }]);
        assert_eq!(places(1536, 576, 1 << 17).len(), 8);
    }
}
