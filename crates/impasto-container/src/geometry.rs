//! Matrices and their tiles (SPEC 4).

use std::ops::Range;

use impasto_core::{DType, Place};

/// The largest number of elements in a tile (SPEC 4.2).
pub const MAX_TILE_ELEMENTS: u64 = 1 << 24;

/// The largest size of the elements of a tile, in bytes (SPEC 4.2).
pub const MAX_TILE_BYTES: u64 = 1 << 27;

/// The largest number of weights of a tensor, of bytes of an opaque tensor, and of bytes of an asset (SPEC 3.4.3).
pub const MAX_ELEMENTS: u64 = 1 << 48;

/// Returns the largest number of elements in a tile of `dtype`; elements are blocks for a block dtype (SPEC 4.2).
pub fn max_tile_elements(dtype: DType) -> u64 {
    MAX_TILE_ELEMENTS.min(MAX_TILE_BYTES / dtype.size() as u64)
}

/// The matrix that an object is coded as, of `rows` x `cols` elements. It is divided into tiles of `tile_rows` x
/// `tile_cols`, smaller at the lower and right edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    rows: u64,
    cols: u64,
    tile_rows: u64,
    tile_cols: u64,
    /// Tiles per tile row, and number of all tiles; both 0 if there are no elements.
    across: u32,
    tiles: u32,
}

/// Error: the size or the tiles of a matrix violate SPEC 3.4.3, 3.4 or 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixError {
    /// More elements than [`MAX_ELEMENTS`].
    Elements,
    /// A tile without rows or columns.
    EmptyTile,
    /// A tile with more than [`MAX_TILE_ELEMENTS`] elements.
    TileElements,
    /// 2^32 tiles or more.
    TileCount,
}

/// The rows and columns of the matrix that a tile covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileRect {
    /// Rows of the matrix.
    pub rows: Range<u64>,
    /// Columns of the matrix.
    pub cols: Range<u64>,
}

impl From<TileRect> for Place {
    fn from(rect: TileRect) -> Place {
        let range = |r: Range<u64>| r.start as usize..r.end as usize;
        Place { rows: range(rect.rows), columns: range(rect.cols) }
    }
}

impl TileRect {
    /// Returns the number of rows; at most 2^24 (SPEC 4.2).
    pub fn height(&self) -> usize {
        (self.rows.end - self.rows.start) as usize
    }

    /// Returns the number of columns; at most 2^24 (SPEC 4.2).
    pub fn width(&self) -> usize {
        (self.cols.end - self.cols.start) as usize
    }
}

impl Matrix {
    /// Creates a matrix of `rows` x `cols` elements with tiles of `tile_rows` x `tile_cols`.
    ///
    /// # Errors
    /// [`MatrixError`]. The rules about multiples of 32 columns and the bytes of a tile depend on the object, so
    /// [`crate::Object::matrix`] checks them.
    pub fn new(rows: u64, cols: u64, tile_rows: u64, tile_cols: u64) -> Result<Matrix, MatrixError> {
        let elements = rows.checked_mul(cols).filter(|&n| n <= MAX_ELEMENTS).ok_or(MatrixError::Elements)?;
        if tile_rows == 0 || tile_cols == 0 {
            return Err(MatrixError::EmptyTile);
        }
        let tile = tile_rows.min(rows).checked_mul(tile_cols.min(cols));
        if tile.is_none_or(|n| n > MAX_TILE_ELEMENTS) {
            return Err(MatrixError::TileElements);
        }
        let (across, tiles) = if elements == 0 {
            (0, 0)
        } else {
            let across = cols.div_ceil(tile_cols);
            let tiles = rows.div_ceil(tile_rows).checked_mul(across).and_then(|n| u32::try_from(n).ok());
            // There is at least one tile row, so `across` is at most `tiles` and fits u32 too.
            (across as u32, tiles.ok_or(MatrixError::TileCount)?)
        };
        Ok(Matrix { rows, cols, tile_rows, tile_cols, across, tiles })
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> u64 {
        self.cols
    }

    /// Returns the number of rows of a whole tile.
    pub fn tile_rows(&self) -> u64 {
        self.tile_rows
    }

    /// Returns the number of columns of a whole tile.
    pub fn tile_cols(&self) -> u64 {
        self.tile_cols
    }

    /// Returns the number of elements; at most [`MAX_ELEMENTS`].
    pub fn elements(&self) -> u64 {
        self.rows * self.cols
    }

    /// Returns the number of tiles.
    pub fn tile_count(&self) -> u32 {
        self.tiles
    }

    /// Returns the number of tiles per tile row (`n` of SPEC 4.3); 0 if there are no tiles.
    pub fn tiles_across(&self) -> u32 {
        self.across
    }

    /// Returns the rows and columns of tile `index` (SPEC 4.3); `None` if there is no such tile.
    pub fn tile(&self, index: u32) -> Option<TileRect> {
        if index >= self.tiles {
            return None;
        }
        let row = u64::from(index / self.across) * self.tile_rows;
        let col = u64::from(index % self.across) * self.tile_cols;
        Some(TileRect {
            rows: row..row.saturating_add(self.tile_rows).min(self.rows),
            cols: col..col.saturating_add(self.tile_cols).min(self.cols),
        })
    }

    /// Returns the tiles that intersect a band of rows and columns, in ascending order. Parts of the band outside the
    /// matrix are ignored.
    pub fn tiles_meeting(&self, rows: Range<u64>, cols: Range<u64>) -> impl Iterator<Item = u32> + use<> {
        // Without elements there can still be rows, too many to iterate over.
        let rows = if self.tiles == 0 { 0..0 } else { rows };
        let down = span(rows, self.rows, self.tile_rows);
        let right = span(cols, self.cols, self.tile_cols);
        let across = u64::from(self.across);
        // Every number is below `tiles`, so it fits u32.
        down.flat_map(move |row| right.clone().map(move |col| (row * across + col) as u32))
    }
}

/// Returns the tiles along one side that intersect `band`; the side has `length` elements, a tile `tile`.
fn span(band: Range<u64>, length: u64, tile: u64) -> Range<u64> {
    let end = band.end.min(length);
    if band.start >= end { 0..0 } else { band.start / tile..end.div_ceil(tile) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tiles_of_a_ragged_matrix() {
        let matrix = Matrix::new(5, 70, 2, 32).unwrap();
        assert_eq!((matrix.tile_count(), matrix.tiles_across(), matrix.elements()), (9, 3, 350));
        assert_eq!(matrix.tile(8), Some(TileRect { rows: 4..5, cols: 64..70 }));
        assert_eq!(matrix.tile(9), None);
        assert_eq!(matrix.tiles_meeting(1..3, 31..32).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(matrix.tiles_meeting(4..99, 0..70).collect::<Vec<_>>(), [6, 7, 8]);
        assert_eq!(matrix.tiles_meeting(2..2, 0..70).count(), 0);
    }

    #[test]
    fn refused_divisions() {
        use MatrixError::*;
        for (matrix, error) in [
            ((1 << 32, 1 << 32, 1, 1), Elements),
            ((1 << 24, (1 << 24) + 1, 1, 1), Elements),
            ((4, 4, 0, 4), EmptyTile),
            ((4, 4, 4, 0), EmptyTile),
            ((1 << 20, 32, 1 << 20, 32), TileElements),
            ((1 << 40, 1, u64::MAX, u64::MAX), TileElements),
            ((1 << 40, 1, 1, 1), TileCount),
            ((1 << 16, 1 << 16, 1, 1), TileCount),
        ] {
            let (rows, cols, tile_rows, tile_cols) = matrix;
            assert_eq!(Matrix::new(rows, cols, tile_rows, tile_cols), Err(error), "{matrix:?}");
        }
    }

    #[test]
    fn only_blocks_are_bounded_by_bytes() {
        assert!(DType::PLAIN.iter().all(|&dtype| max_tile_elements(dtype) == MAX_TILE_ELEMENTS));
        assert_eq!(max_tile_elements(DType::Opaque), MAX_TILE_ELEMENTS);
        assert_eq!(max_tile_elements(DType::Q8_0), 3_947_580);
        assert!(DType::BLOCKS.iter().all(|&dtype| max_tile_elements(dtype) < MAX_TILE_ELEMENTS));
    }

    #[test]
    fn extremes_that_are_allowed() {
        let most = Matrix::new(1 << 24, 1 << 24, 1 << 10, 1 << 14).unwrap();
        assert_eq!(most.tile_count(), 1 << 24);
        let wide = Matrix::new(3, 5, u64::MAX, u64::MAX).unwrap();
        assert_eq!(wide.tile(0), Some(TileRect { rows: 0..3, cols: 0..5 }));
        for (rows, cols) in [(0, u64::MAX), (u64::MAX, 0), (0, 0)] {
            let empty = Matrix::new(rows, cols, 1, 1).unwrap();
            assert_eq!((empty.tile_count(), empty.tile(0)), (0, None));
            assert_eq!(empty.tiles_meeting(0..u64::MAX, 0..u64::MAX).count(), 0);
        }
    }

    proptest! {
        #[test]
        fn tiles_cover_every_element_once(rows in 0u64..20, cols in 0u64..20, high in 1u64..25, wide in 1u64..25) {
            let matrix = Matrix::new(rows, cols, high, wide).unwrap();
            let mut seen = vec![0; (rows * cols) as usize];
            for tile in (0..matrix.tile_count()).map(|i| matrix.tile(i).unwrap()) {
                prop_assert!(tile.height() > 0 && tile.width() > 0);
                for r in tile.rows {
                    tile.cols.clone().for_each(|c| seen[(r * cols + c) as usize] += 1);
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }

        #[test]
        fn a_band_meets_the_tiles_that_share_elements_with_it(
            (rows, cols) in (0u64..20, 0u64..20), (high, wide) in (1u64..9, 1u64..9),
            (top, left, bottom, right) in (0u64..25, 0u64..25, 0u64..25, 0u64..25),
        ) {
            let matrix = Matrix::new(rows, cols, high, wide).unwrap();
            let meets = |a: &Range<u64>, b: &Range<u64>| a.start.max(b.start) < a.end.min(b.end);
            let (band_rows, band_cols) = (top..bottom, left..right);
            let expected: Vec<u32> = (0..matrix.tile_count())
                .filter(|&i| {
                    let tile = matrix.tile(i).unwrap();
                    meets(&tile.rows, &band_rows) && meets(&tile.cols, &band_cols)
                })
                .collect();
            prop_assert_eq!(matrix.tiles_meeting(band_rows, band_cols).collect::<Vec<_>>(), expected);
        }
    }
}
