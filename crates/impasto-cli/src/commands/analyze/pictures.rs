//! Pictures of tiles, as text in the data of the page: 64 levels, one letter for each pixel.

use impasto::analysis::{Analysis, TileAnalysis};

/// Letters by level, as in base64.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Letters of all pictures of a page.
const MOST: usize = 1_500_000;
/// The share of weights, in parts of this many, that are beyond the range of colours at either end.
const BEYOND: usize = 250;

/// A picture of a tile.
pub struct Picture {
    /// Weights, in rows and columns, that a pixel is the mean of.
    pub scale: usize,
    /// Pixels per row.
    pub width: usize,
    /// The weights of the first and the last level, in steps.
    pub range: [f32; 2],
    /// Levels, row-major.
    pub pixels: String,
}

/// Returns the scale of the pictures of the tiles of each tensor; none for tiles that are left out. Where there is no room
/// for all, tensors come in the order of their gain; those on which nothing earns have one picture of half the size.
pub fn scales(analysis: &Analysis) -> Vec<Vec<usize>> {
    let size = |tile: &TileAnalysis| tile.values.len();
    let all: usize = analysis.tensors.iter().flat_map(|tensor| &tensor.tiles).map(size).sum();
    if all <= MOST {
        return analysis.tensors.iter().map(|tensor| vec![1; tensor.tiles.len()]).collect();
    }
    let mut scales = vec![vec![]; analysis.tensors.len()];
    let gain = |i: usize| analysis.tensors[i].rates.map_or(f64::NEG_INFINITY, |rates| rates.gain());
    let mut order: Vec<usize> = (0..analysis.tensors.len()).collect();
    order.sort_by(|&a, &b| gain(b).total_cmp(&gain(a)));
    let mut left = MOST;
    for i in order {
        let tensor = &analysis.tensors[i];
        let (count, scale) = if tensor.earns() { (tensor.tiles.len(), 1) } else { (1, 2) };
        for tile in tensor.tiles.iter().take(count) {
            let Some(rest) = left.checked_sub(size(tile).div_ceil(scale * scale)) else { break };
            left = rest;
            scales[i].push(scale);
        }
    }
    scales
}

impl Picture {
    /// Draws a tile.
    pub fn new(tile: &TileAnalysis, scale: usize) -> Picture {
        let [rows, columns] = [tile.rows.len(), tile.columns.len()];
        let range = range(&tile.values);
        let per_level = (range[1] - range[0]).max(f32::MIN_POSITIVE) / 63.0;
        let mut pixels = String::new();
        for top in (0..rows).step_by(scale) {
            for left in (0..columns).step_by(scale) {
                let (height, width) = (scale.min(rows - top), scale.min(columns - left));
                let part = (top..top + height).flat_map(|r| &tile.values[r * columns + left..][..width]);
                let mean = part.sum::<f32>() / (height * width) as f32;
                let level = ((mean - range[0]) / per_level).round().clamp(0.0, 63.0) as usize;
                pixels.push(LETTERS[level].into());
            }
        }
        Picture { scale, width: columns.div_ceil(scale), range, pixels }
    }
}

/// Returns the range of nearly all values. It is symmetric if both signs occur.
fn range(values: &[f32]) -> [f32; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let beyond = sorted.len() / BEYOND;
    let (Some(&low), Some(&high)) = (sorted.get(beyond), sorted.iter().rev().nth(beyond)) else { return [0.0; 2] };
    let most = high.max(-low);
    if low < 0.0 && high > 0.0 { [-most, most] } else { [low, high] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(rows: usize, columns: usize, value: impl Fn(usize) -> f32) -> TileAnalysis {
        let values = (0..rows * columns).map(value).collect();
        let (rows, columns) = (0..rows, 0..columns);
        TileAnalysis {
            rows,
            columns,
            lattice: 0.0,
            transform: 0.0,
            takes_transform: false,
            ways: vec![],
            values,
            blocks: vec![],
        }
    }

    #[test]
    fn levels_span_the_range() {
        let picture = Picture::new(&tile(1, 3, |i| [-1.0, 0.1, 1.0][i]), 1);
        assert_eq!((picture.range, &*picture.pixels), ([-1.0, 1.0], "Aj/"));
        let picture = Picture::new(&tile(2, 2, |i| 5.0 + i as f32), 1);
        assert_eq!((picture.range, &*picture.pixels), ([5.0, 8.0], "AVq/"));
        let picture = Picture::new(&tile(3, 3, |i| if i == 8 { 1.0 } else { -1.0 }), 2);
        assert_eq!((picture.width, &*picture.pixels), (2, "AAA/"));
        assert_eq!(Picture::new(&tile(1, 2, |_| 0.0), 1).pixels, "AA");
    }
}
