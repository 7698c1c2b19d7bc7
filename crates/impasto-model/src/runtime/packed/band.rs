//! A band: some rows of a matrix, packed by themselves.

use impasto_codec::Level;

use super::cell::{self, BLOCK, CELL, GROUP, Line, QUAD, STRIP, WIDEST};
use super::{ColumnOrder, PackError};

/// What an outlier costs beside a byte of a cell: its memory (4 bytes) and the time that it takes, told in bytes that could be read
/// meanwhile.
const OUTLIER_COST: usize = 10;

/// Columns that the index of an outlier spans.
const SEGMENT: usize = 1 << 12;
const SEGMENT_GROUPS: usize = SEGMENT / GROUP;

/// The largest magnitude of an integer.
const LARGEST: u32 = i16::MAX as u32;

/// Rows of a matrix, sorted by how wide their integers are, in strips of 16; each 16 x 32 of them at a width of their own.
#[derive(Debug)]
pub struct Band {
    pub(super) columns: ColumnOrder,
    /// The row of each lane.
    order: Vec<u32>,
    /// The step of each lane.
    steps: Vec<f32>,
    /// The lane of each row.
    lanes: Vec<u32>,
    /// Widths of the cells of each strip.
    widths: Vec<u8>,
    /// The cells, strip after strip.
    lines: Vec<Line>,
    /// First line of each strip, and the end.
    starts: Vec<u32>,
    outliers: Vec<u32>,
    /// Where outliers of each segment of each strip begin: near ones, then far ones; and the end.
    bounds: Vec<u32>,
}

/// What is beyond the width of a cell at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outlier {
    /// The place of the column.
    pub column: usize,
    /// The row of the strip.
    pub row: usize,
    /// What to add to the cell's integer, which has the sign of the sum or is 0.
    pub delta: i32,
}

/// 16 rows of a band.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip<'a> {
    /// The width of the cell of each group.
    pub widths: &'a [u8],
    /// The cells one after another: as many lines as the sum of the widths.
    pub lines: &'a [Line],
    outliers: &'a [u32],
    bounds: &'a [u32],
}

impl Band {
    /// Packs integers.
    ///
    /// `z`: rows x columns, row-major, columns in the file's order; `row_steps`: the step of each row, that of the tensor in it; `widths`: any measure
    /// of how many bits the integers of each row take.
    ///
    /// # Errors
    /// If a number of elements does not fit the others, there are 2^32 integers or more, an integer is beyond 16 bits, or a step is not finite.
    pub fn pack(z: &[i32], columns: &ColumnOrder, row_steps: &[f32], widths: &[i32]) -> Result<Band, PackError> {
        let (count, width) = (row_steps.len(), columns.inputs());
        PackError::check_count("widths of rows", widths.len(), count)?;
        PackError::check_count("integers", z.len(), count.saturating_mul(width))?;
        PackError::check_most("integers of a band", z.len().max(count), u32::MAX as usize - 1)?;
        PackError::check_steps("row", row_steps)?;
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_by_key(|&r| widths[r as usize]);
        let mut lanes = vec![0; count];
        for (lane, &row) in order.iter().enumerate() {
            lanes[row as usize] = lane as u32;
        }
        let mut band = Band {
            columns: columns.clone(),
            steps: order.iter().map(|&r| row_steps[r as usize]).collect(),
            order,
            lanes,
            widths: Vec::with_capacity(count.div_ceil(STRIP) * columns.groups()),
            lines: Vec::new(),
            starts: vec![0],
            outliers: Vec::new(),
            bounds: vec![0],
        };
        let mut integers = vec![0; columns.padded() * STRIP];
        for first in (0..count).step_by(STRIP) {
            integers.fill(0);
            for (lane, &row) in band.order[first..].iter().take(STRIP).enumerate() {
                let row = row as usize;
                permute(&z[row * width..][..width], columns.order(), lane, &mut integers)
                    .map_err(|value| PackError::Integer { value, row })?;
            }
            band.push_strip(&integers);
        }
        band.lines.shrink_to_fit();
        band.outliers.shrink_to_fit();
        Ok(band)
    }

    /// Appends a strip of integers in the order of cells.
    fn push_strip(&mut self, integers: &[i16]) {
        match Level::best() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the level, and so its features.
            Level::Avx512 => unsafe { self.push_strip_avx512(integers) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { self.push_strip_avx2(integers) },
            _ => self.push_strip_portable(integers),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn push_strip_avx512(&mut self, integers: &[i16]) {
        self.push_strip_portable(integers);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn push_strip_avx2(&mut self, integers: &[i16]) {
        self.push_strip_portable(integers);
    }

    /// The loops over cells, which a compiler vectorises.
    #[inline(always)]
    fn push_strip_portable(&mut self, integers: &[i16]) {
        let cells = integers.as_chunks::<CELL>().0;
        let mut far = Vec::new();
        for segment in cells.chunks(SEGMENT_GROUPS) {
            for (group, cell) in segment.iter().enumerate() {
                let width = best_width(cell);
                self.widths.push(width);
                let mut values = [0; CELL];
                let (least, most) = (-cell::bias(width) as i16, cell::most(width) as i16);
                for (value, &z) in values.iter_mut().zip(cell) {
                    *value = z.clamp(least, most).wrapping_sub(least) as u8;
                }
                cell::pack(&values, width, &mut self.lines);
                if beyond(cell, width) > 0 {
                    for (i, &z) in cell.iter().enumerate().filter(|&(_, &z)| z < least || z > most) {
                        let column = group * GROUP + i / 64 * QUAD + i % QUAD;
                        let packed = pack_outlier(column, i % 64 / QUAD, z - z.clamp(least, most));
                        if i8::try_from(z).is_ok() { self.outliers.push(packed) } else { far.push(packed) }
                    }
                }
            }
            self.bounds.push(self.outliers.len() as u32);
            self.outliers.append(&mut far);
            self.bounds.push(self.outliers.len() as u32);
        }
        self.starts.push(self.lines.len() as u32);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lanes.len()
    }

    /// Number of strips.
    pub(super) fn strips(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn strip(&self, index: usize) -> Strip<'_> {
        let groups = self.columns.groups();
        let bounds = 2 * groups.div_ceil(SEGMENT_GROUPS);
        Strip {
            widths: &self.widths[index * groups..][..groups],
            lines: &self.lines[self.starts[index] as usize..self.starts[index + 1] as usize],
            outliers: &self.outliers,
            bounds: &self.bounds[index * bounds..][..=bounds],
        }
    }

    /// The rows of a strip in the band, all below `rows()`, and their steps; the last strip may have less than 16.
    pub(super) fn rows_of(&self, strip: usize) -> (&[u32], &[f32]) {
        let lanes = strip * STRIP..self.rows().min((strip + 1) * STRIP);
        (&self.order[lanes.clone()], &self.steps[lanes])
    }

    /// Where a row lies, its strip and its row in that, and its step.
    pub(super) fn place(&self, row: usize) -> (Strip<'_>, usize, f32) {
        let lane = self.lanes[row] as usize;
        (self.strip(lane / STRIP), lane % STRIP, self.steps[lane])
    }

    /// Number of integers that lie beside their cells.
    pub(super) fn outliers(&self) -> usize {
        self.outliers.len()
    }

    /// Bits of the cells.
    pub(super) fn cell_bits(&self) -> usize {
        self.lines.len() * 8 * size_of::<Line>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let indices = [&self.order, &self.lanes, &self.starts, &self.outliers, &self.bounds];
        indices.into_iter().map(|index| size_of_val(&index[..])).sum::<usize>()
            + size_of_val(&self.steps[..])
            + self.widths.len()
            + size_of_val(&self.lines[..])
    }
}

impl<'a> Strip<'a> {
    /// Bytes that a product reads.
    pub(super) fn bytes(&self) -> usize {
        let outliers = self.bounds[self.bounds.len() - 1] - self.bounds[0];
        size_of_val(self.lines) + self.widths.len() + size_of::<u32>() * outliers as usize
    }

    /// Is there a line for each bit of width? Kernels, which follow pointers through the lines, ask.
    ///
    /// # Panics
    /// If not.
    #[inline]
    pub(super) fn check(self) {
        let lines: usize = self.widths.iter().map(|&width| usize::from(width)).sum();
        assert_eq!(self.lines.len(), lines, "lines of a strip");
    }

    /// Has it an outlier that does not fit 8 bits?
    pub(super) fn has_far(self) -> bool {
        (0..self.bounds.len() / 2).any(|s| self.bounds[2 * s + 1] != self.bounds[2 * s + 2])
    }

    /// All outliers, in the order of segments.
    #[inline(always)]
    pub(super) fn outliers(self) -> impl Iterator<Item = Outlier> {
        (0..self.bounds.len() / 2).flat_map(move |s| self.between(s, 2 * s, 2 * s + 2))
    }

    /// Outliers whose integers fit 8 bits (`far`: do not).
    #[inline(always)]
    pub(super) fn outliers_by_size(self, far: bool) -> impl Iterator<Item = Outlier> {
        let far = usize::from(far);
        (0..self.bounds.len() / 2).flat_map(move |s| self.between(s, 2 * s + far, 2 * s + far + 1))
    }

    #[inline(always)]
    fn between(self, segment: usize, from: usize, to: usize) -> impl Iterator<Item = Outlier> {
        let outliers = &self.outliers[self.bounds[from] as usize..self.bounds[to] as usize];
        outliers.iter().map(move |&o| Outlier {
            column: segment * SEGMENT + (o >> 4) as usize % SEGMENT,
            row: o as usize % STRIP,
            delta: o as i32 >> 16,
        })
    }

    /// The integers of a row, one for each place.
    pub(super) fn integers(self, row: usize, mut each: impl FnMut(usize, i32)) {
        let mut deltas = self.outliers().filter(|o| o.row == row).collect::<Vec<_>>();
        deltas.sort_by_key(|o| o.column);
        let mut deltas = deltas.into_iter().peekable();
        let mut lines = self.lines;
        for (group, &width) in self.widths.iter().enumerate() {
            for column in 0..GROUP {
                let place = group * GROUP + column;
                let delta = deltas.next_if(|o| o.column == place).map_or(0, |o| o.delta);
                each(place, cell::integer(lines, width, row, column) + delta);
            }
            lines = &lines[usize::from(width)..];
        }
    }
}

/// An outlier in 32 bits: the column in its segment (12), the row (4), the difference (16).
///
/// The cell's integer lies between 0 and the outlier's, so the difference is no larger than that.
fn pack_outlier(column: usize, row: usize, delta: i16) -> u32 {
    (delta as u32) << 16 | ((column % SEGMENT) << 4 | row) as u32
}

/// Writes the integers of a row to its lane of the cells, in the order of places; an integer beyond 16 bits is the error.
fn permute(z: &[i32], order: &[u32], lane: usize, cells: &mut [i16]) -> Result<(), i32> {
    let largest = z.iter().fold(0, |most, z| most.max(z.unsigned_abs()));
    if largest > LARGEST {
        return Err(z.iter().copied().find(|z| z.unsigned_abs() > LARGEST).unwrap_or_default());
    }
    for (vector, order) in cells.as_chunks_mut::<64>().0.iter_mut().zip(order.chunks(QUAD)) {
        for (value, &column) in vector[lane * QUAD..][..QUAD].iter_mut().zip(order) {
            *value = z[column as usize] as i16;
        }
    }
    Ok(())
}

/// How many integers do not fit a width.
#[inline(always)]
fn beyond(cell: &[i16; CELL], width: u8) -> usize {
    let (least, most) = (-cell::bias(width) as i16, cell::most(width) as i16);
    cell.iter().map(|&z| u16::from(z < least) | u16::from(z > most)).sum::<u16>().into()
}

/// The width of least cost, the larger of equals.
#[inline(always)]
fn best_width(cell: &[i16; CELL]) -> u8 {
    let (mut best, mut cost) = (WIDEST, usize::MAX);
    for width in (0..=WIDEST).rev() {
        // Narrower cells have at least these outliers.
        let outliers = OUTLIER_COST * beyond(cell, width);
        if outliers >= cost {
            break;
        }
        let total = outliers + usize::from(width) * size_of::<Line>();
        if total < cost {
            (best, cost) = (width, total);
        }
    }
    best
}

const _: () = assert!(BLOCK.is_multiple_of(GROUP) && SEGMENT.is_multiple_of(BLOCK));
