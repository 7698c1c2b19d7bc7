//! Divides a matrix into tiles: nearly square ones that code to a given size.

use impasto_codec::rans::LANES;
use impasto_container::UnitEntry;
use impasto_container::expansion::RATIO;
use impasto_container::geometry::max_tile_elements;
use impasto_container::unit::ALIGNMENT;
use impasto_core::DType;

/// Target size of a coded tile, and the smallest target. In units of at least 32 KB, the overhead of lane states,
/// hashes and padding is small.
pub const TARGET_BYTES: u64 = 88 << 10;
pub const LEAST_TARGET: u64 = 32 << 10;
/// The largest number of bytes in a tile that codes to almost nothing: half of what readers allow for its entry in the
/// manifest and a unit of 16 bytes (SPEC 11.3), since the unit may be shorter.
pub const EMPTY_TILE: u64 = RATIO * (UnitEntry::SIZE as u64 + ALIGNMENT) / 2;
/// About the elements of a tile of a delta, and the most. They code to little, but are decoded by one thread.
const DELTA_TILE: u64 = 1 << 19;
const MOST_DELTA: u64 = 1 << 22;
/// Columns of a tile are a multiple of this (SPEC 4.2).
const UNIT: u64 = LANES as u64;

/// Returns the rows and columns of the tiles of a matrix that codes to almost nothing, at most [`EMPTY_TILE`] bytes each.
/// Slivers do no harm there.
pub fn empty_tile_shape(rows: u64, columns: u64, dtype: DType) -> (u64, u64) {
    let (rows, columns, most) = (rows.max(1), columns.max(1), (EMPTY_TILE / dtype.size() as u64).max(UNIT));
    let tile_columns = if columns <= most { columns } else { most / UNIT * UNIT };
    ((most / tile_columns).clamp(1, rows), tile_columns)
}

/// Returns the rows and columns of the tiles of a delta: whole tiles of the base, which are `tiles`, as many as make about
/// [`DELTA_TILE`] elements, so that each of them is decoded once.
pub fn delta_tile_shape(rows: u64, columns: u64, tiles: (u64, u64)) -> (u64, u64) {
    let (rows, columns) = (rows.max(1), columns.max(1));
    let (height, width) = (tiles.0.clamp(1, rows), tiles.1.max(1));
    let whole = |length: u64, part: u64, most: u64| {
        if length <= most { length } else { (most / part * part).max(part) }
    };
    let tile_columns = whole(columns, width, DELTA_TILE / height).min(columns);
    // A base of other columns does not occur; a multiple of lanes is a rule all the same (SPEC 4.2).
    let tile_columns =
        if tile_columns < columns { tile_columns.next_multiple_of(UNIT).min(MOST_DELTA) } else { columns };
    if tile_columns == columns && columns > MOST_DELTA {
        return (1, MOST_DELTA);
    }
    let tile_rows = whole(rows, height, DELTA_TILE / tile_columns).clamp(1, (MOST_DELTA / tile_columns).max(1));
    (tile_rows, tile_columns)
}

/// Returns the rows and columns of the tiles of a `rows` x `columns` matrix of `dtype`, such that a tile codes to about
/// `target` bytes at `millibits` / 1000 bits per element. The columns of a tile are a multiple of `unit`, or all.
pub fn tile_shape(rows: u64, columns: u64, millibits: u64, dtype: DType, target: u64, unit: u64) -> (u64, u64) {
    // A part may be twice the target, to avoid a sliver.
    let largest = max_tile_elements(dtype);
    let most = largest / 2;
    let area = (target * 8000 / millibits.max(1)).clamp(1, most);
    if rows.saturating_mul(columns) <= area * 3 / 2 {
        return (rows.max(1), columns.max(1));
    }
    let side = area.isqrt().max(unit);
    // If the matrix has fewer rows than the side, its tiles are wider.
    let wanted = if rows < side { area / rows.max(1) } else { side };
    let tile_columns = part(columns, wanted, unit, most);
    let across = tile_columns.min(columns).max(1);
    let tile_rows = part(rows, area.div_ceil(across), 1, largest / across);
    (tile_rows, tile_columns)
}

/// Returns the size of the parts into which `length` is divided: a multiple of `unit`, at most `most` and, if possible,
/// at least `wanted`, with a last part at least half as large as the others. Nearly equal parts are preferred;
/// otherwise the next larger size without a sliver.
fn part(length: u64, wanted: u64, unit: u64, most: u64) -> u64 {
    let length = length.max(1);
    let parts = (length / wanted.max(1)).max(1);
    let good = |&part: &u64| length.is_multiple_of(part) || length % part * 2 >= part;
    let equal = (1..=parts).rev().take(64).map(|parts| length.div_ceil(parts).next_multiple_of(unit));
    let larger = || (0..1024).map(|i| wanted.max(1).next_multiple_of(unit) + i * unit);
    let best = || larger().filter(|&part| part <= most).max_by_key(|part| length % part * 1000 / part);
    equal.chain(larger()).filter(|&part| part <= most).find(good).or_else(best).unwrap_or(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_container::geometry::MAX_TILE_ELEMENTS;
    use proptest::prelude::*;

    #[test]
    fn tiles_of_real_matrices() {
        assert_eq!(tile_shape(576, 576, 10_500, DType::Bf16, TARGET_BYTES, UNIT), (288, 288));
        assert_eq!(tile_shape(1536, 576, 10_500, DType::Bf16, TARGET_BYTES, UNIT), (256, 288));
        assert_eq!(
            tile_shape(192, 576, 3_300, DType::Bf16, TARGET_BYTES, UNIT),
            (192, 576),
            "small enough to be one tile"
        );
        assert_eq!(tile_shape(1, 576, 8_000, DType::Bf16, TARGET_BYTES, UNIT), (1, 576));
        let (rows, columns) = tile_shape(1967, 8530, 50, DType::Bf16, TARGET_BYTES, UNIT);
        assert!(rows * columns <= MAX_TILE_ELEMENTS, "a constant matrix");
        let (rows, columns) = tile_shape(154, 49_761, 29_076, DType::Bf16, TARGET_BYTES, UNIT);
        assert!(rows == 154 && 49_761 % columns > columns / 2, "a last tile that is not a sliver");
    }

    /// Blocks are large: tiles of constant blocks must also stay within the byte limit of a tile.
    #[test]
    fn blocks_are_bounded_by_bytes() {
        for dtype in DType::BLOCKS {
            let (rows, columns) = tile_shape(40_000, 4_096, 50, dtype, TARGET_BYTES, UNIT);
            assert!(rows * columns <= max_tile_elements(dtype), "{dtype:?}");
        }
    }

    #[test]
    fn tiles_of_deltas_are_whole_tiles_of_the_base() {
        assert_eq!(delta_tile_shape(576, 576, (288, 288)), (576, 576));
        assert_eq!(delta_tile_shape(49_152, 576, (288, 288)), (864, 576));
        assert_eq!(delta_tile_shape(1, 576, (1, 576)), (1, 576));
        assert_eq!(delta_tile_shape(4096, 14_336, (280, 288)), (280, 1728));
    }

    proptest! {
        #[test]
        fn tiles_of_deltas_are_legal(
            rows in 1u64..100_000, columns in 1u64..9_000_000, height in 1u64..20_000, width in 1u64..300_000,
        ) {
            let (r, c) = delta_tile_shape(rows, columns, (height, width.next_multiple_of(32)));
            prop_assert!(c >= columns || c.is_multiple_of(32));
            prop_assert!(r.min(rows) * c.min(columns) <= MAX_TILE_ELEMENTS, "{} x {}", r, c);
        }

        #[test]
        fn tiles_that_code_to_nothing_pay_for_themselves(rows in 1u64..100_000, columns in 1u64..100_000, n in 0usize..39) {
            let dtype = [&DType::PLAIN[..], &DType::BLOCKS[..]].concat()[n];
            let (r, c) = empty_tile_shape(rows, columns, dtype);
            let bytes = r.min(rows) * c.min(columns) * dtype.size() as u64;
            prop_assert!(c >= columns || c.is_multiple_of(32));
            prop_assert!(bytes <= EMPTY_TILE, "{} x {}: {}", r, c, bytes);
        }

        #[test]
        fn tiles_are_legal_and_not_small(rows in 1u64..100_000, columns in 1u64..100_000, millibits in 50u64..64_000) {
            let (r, c) = tile_shape(rows, columns, millibits, DType::Bf16, TARGET_BYTES, UNIT);
            prop_assert!(c >= columns || c.is_multiple_of(32));
            prop_assert!(r.min(rows) * c.min(columns) <= 1 << 24);
            // Every tile, also at the edges, codes to at least 16 KB, or to a quarter of the largest tile if that is
            // less. A small matrix is one tile.
            let last = |length: u64, part: u64| if length.is_multiple_of(part) { part } else { length % part };
            let smallest = last(rows, r) * last(columns, c) * millibits / 8000;
            prop_assert!((r >= rows && c >= columns) || smallest >= (16 << 10).min((MAX_TILE_ELEMENTS / 2) * millibits / 8000 / 4), "{} x {}: {}", r, c, smallest);
        }
    }
}
