//! A row group: some rows of a matrix that are packed together.

use std::io;

use impasto_core::Isa;

use super::arena::{Arena, Lines};
use super::cell::{self, BLOCK, CELL, GROUP, Line, QUAD, STRIP, WIDEST};
use super::lane::{self, LARGEST};
use super::widths::{CHOICES, choose};
use super::{ColumnOrder, PackError};
use crate::stored::{Reader, Writer};

/// Number of columns that the index of an outlier spans.
pub(super) const SEGMENT: usize = 1 << 12;
const SEGMENT_GROUPS: usize = SEGMENT / GROUP;

/// The largest sum of the magnitudes of a row's integers in one block. Sums of their products with 8-bit integers then
/// fit 32 bits.
pub(super) const BLOCK_LARGEST: u64 = i32::MAX as u64 / 128;

/// Rows of a matrix, sorted by the width of their integers, in strips of 16 rows. Each cell of 16 x 32 integers has its
/// own width.
#[derive(Debug)]
pub struct RowGroup {
    pub(super) columns: ColumnOrder,
    /// The lane of each row: its position in the sorted order.
    lanes: Vec<u32>,
    /// The strips, contiguous.
    lines: Lines,
    /// The first line of each strip, and the end of the last.
    starts: Vec<u32>,
    /// Offset of reconstruction points away from 0, in 256ths of a step.
    offset: u8,
}

/// The part of an integer that does not fit the width of its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outlier {
    /// The position of the column in the sorted order.
    pub column: usize,
    /// The row within the strip.
    pub row: usize,
    /// The difference to add to the cell's integer, which has the sign of the sum or is 0.
    pub delta: i32,
}

/// The far outliers of a strip whose cells all have 8 bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Far<'a> {
    /// As in [`Strip`].
    pub ends: &'a [u32],
    pub outliers: &'a [u32],
}

impl Far<'_> {
    /// Returns the outliers.
    pub(super) fn outliers(self) -> impl Iterator<Item = Outlier> {
        (0..self.ends.len() / 2)
            .flat_map(move |segment| between(self.ends, self.outliers, segment, 2 * segment, 2 * segment + 2))
    }
}

/// 16 rows of a row group.
///
/// Everything that a product reads of a strip is contiguous in memory, in the order in which it is read: `ends` and
/// `widths`, `outliers`, `cells`, `rows`, `steps`, each part in lines of its own. Processors prefetch a single stream
/// at the full rate; additional streams have a cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip<'a> {
    /// End of the near outliers and of the far outliers of each segment.
    ends: &'a [u32],
    /// Width of the cell of each group.
    pub widths: &'a [u8],
    outliers: &'a [u32],
    /// The cells, contiguous; the number of lines is the sum of the widths.
    pub cells: &'a [Line],
    /// The row of each lane within the row group.
    pub rows: &'a [u32],
    /// The step of each lane.
    pub steps: &'a [f32],
}

impl RowGroup {
    /// Packs the integers of a row group.
    ///
    /// - `z`: rows x columns, row-major, columns in the order of the file
    /// - `row_steps`: the step of each row, including the step of the tensor
    /// - `widths`: any measure of the number of bits that the integers of each row take
    /// - `offset`: offset of reconstruction points away from 0, in 256ths of a step (SPEC 10.3)
    ///
    /// # Errors
    /// If the lengths do not match, there are 2^32 or more integers or lines, integers are so large that sums of their
    /// products overflow, or a step is not finite.
    pub fn pack(
        z: &[i32],
        columns: &ColumnOrder,
        row_steps: &[f32],
        widths: &[i32],
        offset: u8,
    ) -> Result<RowGroup, PackError> {
        let (count, width) = (row_steps.len(), columns.inputs());
        PackError::check_count("widths of rows", widths.len(), count)?;
        PackError::check_count("integers", z.len(), count.saturating_mul(width))?;
        PackError::check_most("integers of a row group", z.len().max(count), u32::MAX as usize - 1)?;
        PackError::check_steps("row", row_steps)?;
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_by_key(|&r| widths[r as usize]);
        let mut lanes = vec![0; count];
        for (lane, &row) in order.iter().enumerate() {
            lanes[row as usize] = lane as u32;
        }
        let (mut lines, mut starts) = (Vec::new(), vec![0]);
        let mut strip = Packer { row: vec![0; width], cells: vec![0; columns.padded() * STRIP], ..Packer::default() };
        for rows in order.chunks(STRIP) {
            // The rows of a whole strip replace everything but padding, which is 0.
            if rows.len() < STRIP {
                strip.cells.fill(0);
            }
            strip.rest.clear();
            for (lane, &row) in rows.iter().enumerate() {
                let row = row as usize;
                strip.permute(&z[row * width..][..width], columns, lane).ok_or(PackError::Integers { row })?;
            }
            strip.pack(rows, row_steps, &mut lines);
            PackError::check_most("lines of a row group", lines.len(), u32::MAX as usize)?;
            starts.push(lines.len() as u32);
        }
        lines.shrink_to_fit();
        let group = RowGroup { columns: columns.clone(), lanes, lines: Lines::Own(lines), starts, offset };
        (0..group.strips()).for_each(|strip| assert!(group.strip(strip).is_sound(count), "strip {strip}"));
        Ok(group)
    }

    pub(super) fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.numbers(&[self.rows(), self.offset.into(), self.lines.len()])?;
        to.array(&self.lanes)?;
        to.array(&self.starts)?;
        to.array(&self.lines)
    }

    /// Reads a row group whose lines stay where they are; `None` if kernels could not use it.
    pub(super) fn read(columns: &ColumnOrder, from: &mut Reader) -> Option<RowGroup> {
        let [rows, offset, count] = from.numbers()?;
        let offset = u8::try_from(offset).ok()?;
        let lanes: Vec<u32> = from.array(rows)?;
        let starts: Vec<u32> = from.array(rows.div_ceil(STRIP) + 1)?;
        let lines = from.lines(count)?;
        let are_all = starts.first() == Some(&0) && starts.last().map(|&end| end as usize) == Some(count);
        let group = RowGroup { columns: columns.clone(), lanes, lines, starts, offset };
        (are_all && group.starts.is_sorted() && (0..group.strips()).all(|strip| group.has_strip(strip)))
            .then_some(group)
    }

    /// Returns whether there is a strip at this place that is whole, is sound, and has the rows that are said to be in it. If
    /// all are, each row is in one lane, and so is written by one strip.
    fn has_strip(&self, index: usize) -> bool {
        let lines = &self.lines[self.starts[index] as usize..self.starts[index + 1] as usize];
        let groups = self.columns.groups();
        let segments = groups.div_ceil(SEGMENT_GROUPS);
        let Some((head, rest)) = lines.split_at_checked(head_lines(segments, groups)) else { return false };
        let bytes = &bytemuck::cast_slice::<Line, u8>(head)[..segments * 2 * size_of::<u32>()];
        let ends: &[u32] = bytemuck::cast_slice(bytes);
        let outliers = ends.last().map_or(0, |&end| end as usize);
        if !ends.is_sorted() || outliers.div_ceil(STRIP) + TAIL > rest.len() {
            return false;
        }
        let strip = self.strip(index);
        let lane = |row: u32| self.lanes.get(row as usize).map(|&lane| lane as usize);
        strip.is_sound(self.rows())
            && strip.rows.iter().enumerate().all(|(at, &row)| lane(row) == Some(index * STRIP + at))
    }

    /// Moves the strips into an arena.
    pub fn keep_in(self, arena: &Arena) -> RowGroup {
        let lines = match self.lines {
            Lines::Own(lines) => arena.keep(lines),
            kept => kept,
        };
        RowGroup { lines, ..self }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.lanes.len()
    }

    /// Returns the offset of reconstruction points away from 0, in steps.
    pub(super) fn offset(&self) -> f32 {
        impasto_core::lattice::offset_in_steps(self.offset)
    }

    /// Returns the number of strips.
    pub(super) fn strips(&self) -> usize {
        self.starts.len() - 1
    }

    #[inline(always)]
    pub(super) fn strip(&self, index: usize) -> Strip<'_> {
        let groups = self.columns.groups();
        let segments = groups.div_ceil(SEGMENT_GROUPS);
        let lines = &self.lines[self.starts[index] as usize..self.starts[index + 1] as usize];
        let (head, lines) = lines.split_at(head_lines(segments, groups));
        let (ends, widths) = bytemuck::cast_slice::<Line, u8>(head).split_at(segments * 2 * size_of::<u32>());
        let ends: &[u32] = bytemuck::cast_slice(ends);
        let outliers = ends.last().map_or(0, |&end| end as usize);
        let (of_outliers, lines) = lines.split_at(outliers.div_ceil(STRIP));
        let (cells, tail) = lines.split_at(lines.len() - TAIL);
        let rows = (self.rows() - index * STRIP).min(STRIP);
        Strip {
            ends,
            widths: &widths[..groups],
            outliers: &bytemuck::cast_slice(of_outliers)[..outliers],
            cells,
            rows: &bytemuck::cast_slice(&tail[..1])[..rows],
            steps: &bytemuck::cast_slice(&tail[1..])[..rows],
        }
    }

    /// Returns the strip of a row, its row within the strip, and its step.
    pub(super) fn place(&self, row: usize) -> (Strip<'_>, usize, f32) {
        let lane = self.lanes[row] as usize;
        let strip = self.strip(lane / STRIP);
        (strip, lane % STRIP, strip.steps[lane % STRIP])
    }

    /// Returns the number of the strip of a row, and its row within the strip.
    pub(super) fn lane(&self, row: usize) -> (usize, usize) {
        let lane = self.lanes[row] as usize;
        (lane / STRIP, lane % STRIP)
    }

    /// Returns the number of outliers.
    pub(super) fn outliers(&self) -> usize {
        (0..self.strips()).map(|strip| self.strip(strip).outliers.len()).sum()
    }

    /// Returns the number of bits of the cells.
    pub(super) fn cell_bits(&self) -> usize {
        (0..self.strips()).map(|strip| size_of_val(self.strip(strip).cells) * 8).sum()
    }

    /// Returns the number of bytes that a product reads.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&self.lanes[..]) + size_of_val(&self.starts[..]) + self.bytes()
    }
}

/// Returns the number of lines of the ends and widths of a strip.
#[inline(always)]
fn head_lines(segments: usize, groups: usize) -> usize {
    (segments * 2 * size_of::<u32>() + groups).div_ceil(size_of::<Line>())
}

/// Number of lines of the rows and steps of a strip.
const TAIL: usize = 2;

/// Appends values, padded to whole lines.
fn push_lines<T: bytemuck::NoUninit>(values: &[T], lines: &mut Vec<Line>) {
    for bytes in bytemuck::cast_slice::<T, u8>(values).chunks(size_of::<Line>()) {
        let mut line = Line::default();
        line.0[..bytes.len()].copy_from_slice(bytes);
        lines.push(line);
    }
}

impl<'a> Strip<'a> {
    /// Returns whether there is one line for each bit of width, outliers are in existing groups, and rows are below `rows`.
    /// Products rely on this without further checks: they follow pointers through the lines, add outliers at their
    /// columns, and write to the rows. A strip in a mapped file is checked once, when it is read: nobody but its owner can
    /// change it (`stored::Reader`), and where it becomes shorter, widths, ends and rows are 0, which are sound too.
    fn is_sound(self, rows: usize) -> bool {
        let lines: usize = self.widths.iter().map(|&width| usize::from(width)).sum();
        let columns = self.widths.len() * GROUP;
        self.cells.len() == lines
            && self.widths.iter().all(|&width| width <= WIDEST)
            && self.outliers().all(|outlier| outlier.column < columns)
            && self.rows.iter().all(|&row| (row as usize) < rows)
    }

    fn segments(self) -> usize {
        self.ends.len() / 2
    }

    /// Returns whether there is a far outlier: one whose integer does not fit 8 bits.
    pub(super) fn has_far(self) -> bool {
        self.ends.as_chunks::<2>().0.iter().any(|[near, far]| near != far)
    }

    /// Returns all outliers, in the order of segments.
    #[inline(always)]
    pub(super) fn outliers(self) -> impl Iterator<Item = Outlier> {
        (0..self.segments()).flat_map(move |s| self.between(s, 2 * s, 2 * s + 2))
    }

    /// Calls `each` with all outliers; if `FAR`, only with those whose integers do not fit 8 bits.
    #[inline(always)]
    pub(super) fn for_each_outlier<const FAR: bool>(self, mut each: impl FnMut(Outlier)) {
        // Nested loops, because an iterator over all segments would branch at every outlier. Most strips have one
        // segment.
        for segment in 0..self.segments() {
            for outlier in self.between(segment, 2 * segment + usize::from(FAR), 2 * segment + 2) {
                each(outlier);
            }
        }
    }

    /// Returns the near outliers: those whose integers fit 8 bits.
    #[inline(always)]
    pub(super) fn near_outliers(self) -> impl Iterator<Item = Outlier> {
        (0..self.segments()).flat_map(move |s| self.between(s, 2 * s, 2 * s + 1))
    }

    /// Returns the outliers of a segment between two boundaries, numbered as in `ends`; boundary 0 is the start.
    #[inline(always)]
    fn between(self, segment: usize, from: usize, to: usize) -> impl Iterator<Item = Outlier> {
        between(self.ends, self.outliers, segment, from, to)
    }

    /// Returns the strip with the integers of another layer, in cells of 8 bits: `widths` are all 8.
    pub(super) fn opened(self, widths: &'a [u8], far: Far<'a>, cells: &'a [Line]) -> Strip<'a> {
        Strip { ends: far.ends, widths, outliers: far.outliers, cells, ..self }
    }

    /// Calls `each` with the position and the value of the integers of a row: first with those in cells, then, for
    /// positions with outliers, again with the complete integer.
    pub(super) fn integers(self, row: usize, mut each: impl FnMut(usize, i32)) {
        let mut lines = self.cells;
        for (group, &width) in self.widths.iter().enumerate() {
            for column in 0..GROUP {
                each(group * GROUP + column, cell::integer(lines, width, row, column));
            }
            lines = &lines[usize::from(width)..];
        }
        let of_row = || self.outliers().filter(|o| o.row == row);
        for Outlier { column, .. } in of_row() {
            let (group, lines) = (column / GROUP, self.cells);
            let before: usize = self.widths[..group].iter().copied().map(usize::from).sum();
            let delta: i32 = of_row().filter(|o| o.column == column).map(|o| o.delta).sum();
            each(column, cell::integer(&lines[before..], self.widths[group], row, column % GROUP) + delta);
        }
    }
}

/// Returns the outliers of a segment between two boundaries, numbered as in `ends`; boundary 0 is the start.
#[inline(always)]
fn between(ends: &[u32], outliers: &[u32], segment: usize, from: usize, to: usize) -> impl Iterator<Item = Outlier> {
    let end = |place: usize| if place == 0 { 0 } else { ends[place - 1] as usize };
    // A mapped file that becomes shorter reads as zeros, and ends may then be in no order.
    outliers.get(end(from)..end(to)).unwrap_or_default().iter().map(move |&o| Outlier {
        column: segment * SEGMENT + (o >> 4) as usize % SEGMENT,
        row: o as usize % STRIP,
        delta: o as i32 >> 16,
    })
}

/// A strip that is being packed, with working memory.
#[derive(Default)]
struct Packer {
    /// Working memory for the integers of a row.
    row: Vec<i16>,
    /// Integers in the order of cells, clamped to 16 bits.
    cells: Vec<i16>,
    /// The parts beyond 16 bits: position, row, difference.
    rest: Vec<(usize, usize, i32)>,
    paths: Vec<[u8; CHOICES]>,
    widths: Vec<u8>,
    outliers: Vec<u32>,
    far: Vec<u32>,
    ends: Vec<u32>,
    packed: Vec<Line>,
}

impl Packer {
    /// Puts the integers of a row in lane `lane`; returns `None` if sums of their products overflow.
    fn permute(&mut self, z: &[i32], columns: &ColumnOrder, lane: usize) -> Option<()> {
        let (vectors, order) = (self.cells.as_chunks_mut::<64>().0, columns.order());
        let largest = lane::fill(Isa::best(), z, columns, vectors, lane, &mut self.row);
        if largest > LARGEST as u32 {
            let sum = |block: &[u32]| block.iter().map(|&c| u64::from(z[c as usize].unsigned_abs())).sum::<u64>();
            if order.chunks(BLOCK).any(|block| sum(block) > BLOCK_LARGEST) {
                return None;
            }
            let rest = |&column: &u32| z[column as usize] - z[column as usize].clamp(-LARGEST, LARGEST);
            let beyond = order.iter().enumerate().map(|(place, column)| (place, lane, rest(column)));
            self.rest.extend(beyond.filter(|&(.., rest)| rest != 0));
        }
        Some(())
    }

    /// Appends the strip of the given rows of a row group. `steps` holds the steps of all rows.
    fn pack(&mut self, rows: &[u32], steps: &[f32], lines: &mut Vec<Line>) {
        match Isa::best() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::best` only returns an instruction set that the processor supports.
            Isa::Avx512 => unsafe { self.pack_cells_avx512() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { self.pack_cells_avx2() },
            _ => self.pack_cells(),
        }
        let head: Vec<u8> =
            self.ends.iter().flat_map(|end| end.to_ne_bytes()).chain(self.widths.iter().copied()).collect();
        push_lines(&head, lines);
        push_lines(&self.outliers, lines);
        lines.extend_from_slice(&self.packed);
        let mut lanes = ([0; STRIP], [0.0; STRIP]);
        for (lane, &row) in rows.iter().enumerate() {
            (lanes.0[lane], lanes.1[lane]) = (row, steps[row as usize]);
        }
        push_lines(&lanes.0, lines);
        push_lines(&lanes.1, lines);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn pack_cells_avx512(&mut self) {
        self.pack_cells();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn pack_cells_avx2(&mut self) {
        self.pack_cells();
    }

    /// The loops over cells, in a form that the compiler vectorizes.
    #[inline(always)]
    fn pack_cells(&mut self) {
        let Packer { cells, rest, paths, widths, outliers, far, ends, packed, .. } = self;
        let cells = cells.as_chunks::<CELL>().0;
        for values in [&mut *outliers, &mut *ends] {
            values.clear();
        }
        widths.clear();
        packed.clear();
        choose(cells, paths, widths);
        for &(place, ..) in &*rest {
            // In a cell of at least 2 bits, the cell's integer has the sign of the outliers (see `fixes`), even if
            // several add up to one integer.
            let width = &mut widths[place / GROUP];
            *width = 2.max(*width);
        }
        for (segment, first) in cells.chunks(SEGMENT_GROUPS).zip((0..).step_by(SEGMENT_GROUPS)) {
            for (group, cell) in segment.iter().enumerate() {
                let width = widths[first + group];
                let mut values = [0; CELL];
                let (least, most) = (-cell::bias(width) as i16, cell::most(width) as i16);
                for (value, &z) in values.iter_mut().zip(cell) {
                    *value = z.clamp(least, most).wrapping_sub(least) as u8;
                }
                cell::pack(&values, width, packed);
                for (vector, values) in cell.as_chunks::<64>().0.iter().enumerate() {
                    let is_outlier = |z: i16| z < least || z > most;
                    // Without an early exit, so that the loop becomes vectors. Few vectors have outliers.
                    if !values.iter().fold(false, |any, &z| any | is_outlier(z)) {
                        continue;
                    }
                    for (i, &z) in values.iter().enumerate().filter(|&(_, &z)| is_outlier(z)) {
                        let column = group * GROUP + vector * QUAD + i % QUAD;
                        let outlier = pack_outlier(column, i / QUAD, z - z.clamp(least, most));
                        if i8::try_from(z).is_ok() { outliers.push(outlier) } else { far.push(outlier) }
                    }
                }
            }
            let from = first * GROUP;
            for &(place, row, rest) in rest.iter().filter(|(place, ..)| (from..from + SEGMENT).contains(place)) {
                let piece = |n: i32| (rest - n * LARGEST * rest.signum()).clamp(-LARGEST, LARGEST);
                far.extend((0..=rest.abs() / LARGEST).map(|n| pack_outlier(place, row, piece(n) as i16)));
            }
            ends.push(outliers.len() as u32);
            outliers.append(far);
            ends.push(outliers.len() as u32);
        }
    }
}

/// Packs an outlier in 32 bits: the column within its segment (12 bits), the row (4), the difference (16).
///
/// The cell's integer is between 0 and the complete integer, so the difference is no larger than the latter.
pub(super) fn pack_outlier(column: usize, row: usize, delta: i16) -> u32 {
    (delta as u32) << 16 | ((column % SEGMENT) << 4 | row) as u32
}

const _: () = assert!(BLOCK.is_multiple_of(GROUP) && SEGMENT.is_multiple_of(BLOCK));
const _: () = assert!((BLOCK as u64) * (LARGEST as u64) <= BLOCK_LARGEST);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_that_products_could_not_follow_are_found() {
        let line = Line::default();
        let of_group_1 = [pack_outlier(GROUP, 3, 1)];
        let good =
            Strip { ends: &[1, 1], widths: &[1, 0], outliers: &of_group_1, cells: &[line], rows: &[7], steps: &[1.0] };
        let passes = |strip: Strip, rows| strip.is_sound(rows);
        assert!(passes(good, 8));
        assert!(!passes(good, 7), "a row that the row group does not have");
        assert!(!passes(Strip { cells: &[line, line], ..good }, 8), "a line that no cell has");
        assert!(!passes(Strip { cells: &[], ..good }, 8), "a cell without its lines");
        assert!(!passes(Strip { widths: &[1], ..good }, 8), "an outlier in no group");
        assert!(!passes(Strip { widths: &[9, 0], cells: &[line; 9], ..good }, 8), "a width of 9 bits");
    }
}
