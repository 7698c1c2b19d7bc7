//! Widths of integers in memory.
//!
//! A runtime packs the integers of a cell, 16 rows x 32 columns of about the same class, at one width (`impasto_kernels::packed`);
//! those that do not fit are outliers. So what integers cost in memory is no sum over them: it has a step where the largest of a
//! cell needs another bit. Here, widths are chosen from integers that were rounded without regard to memory, such that error and
//! memory together cost least. Then all are rounded once more, and those beyond the range of their cell become its end, so that
//! error feedback makes up for that.

use rayon::prelude::*;

use super::integers::LAMBDA;

/// Rows of a strip and columns of a group, which make a cell; rows that are sorted together.
const STRIP: usize = 16;
const GROUP: usize = 32;
const RANGE: usize = 1 << 12;

/// The number of widths of a cell: 0 to 8 bits.
const WIDTHS: usize = 9;
/// What an outlier costs, in bits: its 4 bytes, and the time of a product for it, in which 16 bytes are read.
const OUTLIER: f32 = 160.0;
/// An integer that is further from its range than this costs, in bits, stays an outlier.
const FAR: f32 = 80.0;
/// What a cell costs, in bits, whose width is not that of the one before: the time of a product for it.
const CHANGE: f32 = 512.0;

/// The width of the cell of each integer of a matrix.
pub struct Cells {
    /// The strip of each row, and the group of each column.
    strips: Vec<u32>,
    groups: Vec<u32>,
    /// Groups of a strip.
    across: usize,
    /// The width of each cell, strip by strip.
    widths: Vec<u8>,
}

impl Cells {
    /// Chooses widths for integers with these classes of rows and columns, of which `tile_rows` rows are packed together.
    pub fn new(z: &[i32], row_classes: &[i32], column_classes: &[i32], tile_rows: usize) -> Cells {
        let (rows, columns) = (row_classes.len(), column_classes.len());
        let mut order: Vec<usize> = (0..columns).collect();
        order.sort_by_key(|&c| column_classes[c]);
        let mut groups = vec![0; columns];
        order.iter().enumerate().for_each(|(place, &c)| groups[c] = (place / GROUP) as u32);
        let mut of_strips: Vec<Vec<usize>> = Vec::new();
        for first in (0..rows).step_by(tile_rows.max(1)) {
            let mut order: Vec<usize> = (first..rows.min(first + tile_rows)).collect();
            order.chunks_mut(RANGE).for_each(|range| range.sort_by_key(|&r| row_classes[r]));
            of_strips.extend(order.chunks(STRIP).map(<[usize]>::to_vec));
        }
        let mut strips = vec![0; rows];
        for (strip, rows) in (0..).zip(&of_strips) {
            rows.iter().for_each(|&r| strips[r] = strip);
        }
        let cost = |rows: &[usize], group: &[usize]| -> [f32; WIDTHS] {
            let of_row = |&r: &usize| group.iter().map(move |&c| z[r * columns + c]);
            let cell: Vec<i32> = rows.iter().flat_map(of_row).collect();
            std::array::from_fn(|width| cost(&cell, width as u32))
        };
        let of_strip = |rows: &Vec<usize>| path(order.chunks(GROUP).map(|group| cost(rows, group)));
        let widths = of_strips.par_iter().flat_map_iter(of_strip).collect();
        Cells { strips, groups, across: columns.div_ceil(GROUP), widths }
    }

    /// Returns the integer to take in a row and column instead of `z`. `fraction` is how much further from 0 the target is.
    #[inline(always)]
    pub fn limit(&self, row: usize, column: usize, z: i32, fraction: f32) -> i32 {
        let cell = self.strips[row] as usize * self.across + self.groups[column] as usize;
        let (least, most) = range(self.widths[cell].into());
        let end = z.clamp(least, most);
        let distance = z.abs_diff(end) as f32;
        // The squared distance of the target from the end of the range, less that from `z`.
        if (distance + 2.0 * fraction) * distance < LAMBDA * FAR { end } else { z }
    }
}

/// Returns the smallest and the largest integer of a width in bits.
fn range(width: u32) -> (i32, i32) {
    let half = 1 << width >> 1;
    (-half, (half - 1).max(0))
}

/// Returns what a cell costs at a width, in squared steps.
fn cost(cell: &[i32], width: u32) -> f32 {
    let (least, most) = range(width);
    let beyond = |&z: &i32| {
        let excess = z.abs_diff(z.clamp(least, most)) as f32;
        if excess * excess < LAMBDA * FAR { excess * excess } else { LAMBDA * OUTLIER }
    };
    LAMBDA * (STRIP * GROUP) as f32 * width as f32 + cell.iter().map(beyond).sum::<f32>()
}

/// Returns the widths of the cells of a strip at which they cost least together, given what each costs at each width (Viterbi,
/// 1967).
fn path(cells: impl Iterator<Item = [f32; WIDTHS]>) -> Vec<u8> {
    let least = |costs: &[f32; WIDTHS]| (0..WIDTHS).min_by(|&a, &b| costs[a].total_cmp(&costs[b])).unwrap_or(0);
    let mut costs = [0.0; WIDTHS];
    let mut before: Vec<[u8; WIDTHS]> = Vec::new();
    for cell in cells {
        let (from, change) = (least(&costs), costs[least(&costs)] + LAMBDA * CHANGE);
        let stays = |width: usize| before.is_empty() || costs[width] <= change;
        before.push(std::array::from_fn(|width| if stays(width) { width as u8 } else { from as u8 }));
        let is_first = before.len() == 1;
        costs = std::array::from_fn(|width| cell[width] + if is_first { 0.0 } else { costs[width].min(change) });
    }
    let mut width = least(&costs);
    let mut widths = Vec::with_capacity(before.len());
    for from in before.iter().rev() {
        widths.push(width as u8);
        width = from[width].into();
    }
    widths.reverse();
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Integers of a triangular distribution; those of the second half of the columns are 4 times as large.
    fn integers(rows: usize, columns: usize) -> Vec<i32> {
        let mut rng = impasto_core::rng::SplitMix64::new(5);
        let mut one = |c: usize| {
            let spread = if c < columns / 2 { 3.4 } else { 13.6 };
            ((rng.next_f64() + rng.next_f64() - 1.0) * spread).round() as i32
        };
        (0..rows * columns).map(|i| one(i % columns)).collect()
    }

    #[test]
    fn cells_have_the_width_of_their_columns() {
        let (rows, columns) = (40, 128);
        let classes: Vec<i32> = (0..columns as i32).map(|c| if c < 64 { 8 } else { 0 }).collect();
        let mut z = integers(rows, columns);
        z[7] = 30;
        let cells = Cells::new(&z, &vec![0; rows], &classes, 20);
        // Two tile rows of 20 rows, each of 2 strips; wide columns come first, as their classes say.
        assert_eq!((cells.strips[19], cells.strips[20], cells.strips[36]), (1, 2, 3));
        assert_eq!((cells.groups[0], cells.groups[64], cells.across), (2, 0, 4));
        assert_eq!(cells.widths.len(), 16);
        let limit = |column, z| cells.limit(3, column, z, 0.0);
        assert_eq!([limit(0, 3), limit(0, 4), limit(0, 5), limit(0, -5)], [3, 3, 3, -4], "a narrow column");
        assert_eq!([limit(64, 9), limit(64, 17)], [9, 15], "a wide one");
        assert_eq!([limit(0, 30), limit(64, -300)], [30, -300], "outliers");
        assert_eq!(cells.limit(3, 0, 6, 0.4), 6, "the fraction counts");
    }

    #[test]
    fn no_other_path_is_cheaper() {
        let mut rng = impasto_core::rng::SplitMix64::new(3);
        for _ in 0..20 {
            let cells: [[f32; WIDTHS]; 3] =
                std::array::from_fn(|_| std::array::from_fn(|_| (rng.next_f64() * 200.0) as f32));
            let cost = |widths: &[u8]| {
                let own: f32 = cells.iter().zip(widths).map(|(cell, &width)| cell[usize::from(width)]).sum();
                own + LAMBDA * CHANGE * widths.windows(2).filter(|pair| pair[0] != pair[1]).count() as f32
            };
            let all = (0..WIDTHS.pow(3)).map(|n| [n % 9, n / 9 % 9, n / 81].map(|width| width as u8));
            let best = all.map(|widths| cost(&widths)).fold(f32::INFINITY, f32::min);
            let found = cost(&path(cells.into_iter()));
            assert!((found - best).abs() < 1e-3, "{found} {best}");
        }
    }
}
