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

/// Rows that are sorted together. One is found by looking at all of them.
const RANGE: usize = 1 << 12;

/// The largest sum of the magnitudes of a row's integers in one block. Sums of their products with 8-bit integers then
/// fit 32 bits.
pub(super) const BLOCK_LARGEST: u64 = i32::MAX as u64 / 128;

/// Rows of a matrix, sorted by the width of their integers within ranges of `RANGE` rows, in strips of 16 rows. Each cell
/// of 16 x 32 integers has its own width.
#[derive(Debug)]
pub struct RowGroup {
    pub(super) columns: ColumnOrder,
    rows: usize,
    /// The steps that rows have, without repetition.
    steps: Vec<f32>,
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
/// Everything that a product reads of a strip is contiguous in memory, but for the few steps: the *head*, which is `ends`,
/// `widths`, `rows`, `steps` and `outliers`, then, from the next line on, `cells`. Processors prefetch a single stream at
/// the full rate; additional streams have a cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip<'a> {
    /// End of the near outliers and of the far outliers of each segment.
    ends: &'a [u32],
    /// Width of the cell of each group.
    pub widths: &'a [u8],
    outliers: &'a [u32],
    /// The cells, contiguous; the number of lines is the sum of the widths.
    pub cells: &'a [Line],
    /// The row of each lane, counted from `first`.
    rows: &'a [u16],
    /// The first row, within the row group, of the range in which the rows of this strip were sorted.
    first: usize,
    /// The step of each lane, as an index of `values`.
    steps: &'a [u16],
    /// The steps of the row group.
    values: &'a [f32],
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
        let mut order: Vec<usize> = (0..count).collect();
        order.chunks_mut(RANGE).for_each(|range| range.sort_by_key(|&r| widths[r]));
        let steps = StepTable::new(row_steps);
        PackError::check_most("different steps of a row group", steps.values.len(), 1 << 16)?;
        let (mut lines, mut starts) = (Vec::new(), vec![0]);
        let mut strip = Packer { row: vec![0; width], cells: vec![0; columns.padded() * STRIP], ..Packer::default() };
        for rows in order.chunks(STRIP) {
            // The rows of a whole strip replace everything but padding, which is 0.
            if rows.len() < STRIP {
                strip.cells.fill(0);
            }
            strip.rest.clear();
            for (lane, &row) in rows.iter().enumerate() {
                strip.permute(&z[row * width..][..width], columns, lane).ok_or(PackError::Integers { row })?;
            }
            strip.pack(rows, &steps, &mut lines);
            PackError::check_most("lines of a row group", lines.len(), u32::MAX as usize)?;
            starts.push(lines.len() as u32);
        }
        lines.shrink_to_fit();
        let (columns, lines) = (columns.clone(), Lines::Own(lines));
        let group = RowGroup { columns, rows: count, steps: steps.values, lines, starts, offset };
        (0..group.strips()).for_each(|strip| assert!(group.strip(strip).is_sound(count), "strip {strip}"));
        Ok(group)
    }

    pub(super) fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.numbers(&[self.rows, self.offset.into(), self.lines.len(), self.steps.len()])?;
        to.array(&self.steps)?;
        to.array(&self.starts)?;
        to.array(&self.lines)
    }

    /// Reads a row group whose lines stay where they are; `None` if kernels could not use it.
    pub(super) fn read(columns: &ColumnOrder, from: &mut Reader) -> Option<RowGroup> {
        let [rows, offset, count, steps] = from.numbers()?;
        let offset = u8::try_from(offset).ok()?;
        let steps: Vec<f32> = from.array(steps)?;
        PackError::check_steps("row", &steps).ok()?;
        let starts: Vec<u32> = from.array(rows.div_ceil(STRIP).checked_add(1)?)?;
        let lines = from.lines(count)?;
        let are_all = starts.first() == Some(&0) && starts.last().map(|&end| end as usize) == Some(count);
        let group = RowGroup { columns: columns.clone(), rows, steps, lines, starts, offset };
        // Each row is in one lane, so that one strip writes it.
        let mut seen = vec![false; rows];
        let are_new = |strip: Strip| strip.outputs().all(|(row, _)| !std::mem::replace(&mut seen[row], true));
        let is_whole = are_all && group.starts.is_sorted() && (0..group.strips()).all(|strip| group.has_strip(strip));
        (is_whole && (0..group.strips()).map(|strip| group.strip(strip)).all(are_new)).then_some(group)
    }

    /// Returns whether there is a strip at this place that is whole and sound.
    fn has_strip(&self, index: usize) -> bool {
        let lines = &self.lines[self.starts[index] as usize..self.starts[index + 1] as usize];
        let head = Head::new(self.columns.groups());
        let bytes: &[u8] = bytemuck::cast_slice(lines);
        let Some(ends) = bytes.get(..head.widths) else { return false };
        let ends: &[u32] = bytemuck::cast_slice(ends);
        let outliers = ends.last().map_or(0, |&end| end as usize);
        ends.is_sorted() && head.lines(outliers) <= lines.len() && self.strip(index).is_sound(self.rows)
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
        self.rows
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
        let head = Head::new(groups);
        let lines = &self.lines[self.starts[index] as usize..self.starts[index + 1] as usize];
        let bytes: &[u8] = bytemuck::cast_slice(lines);
        let ends: &[u32] = bytemuck::cast_slice(&bytes[..head.widths]);
        let outliers = ends.last().map_or(0, |&end| end as usize);
        let of_lanes: &[u16] = bytemuck::cast_slice(&bytes[head.rows..head.outliers]);
        let (rows, steps) = of_lanes.split_at(STRIP);
        let count = (self.rows - index * STRIP).min(STRIP);
        Strip {
            ends,
            widths: &bytes[head.widths..][..groups],
            outliers: bytemuck::cast_slice(&bytes[head.outliers..head.outliers + outliers * size_of::<u32>()]),
            cells: &lines[head.lines(outliers)..],
            rows: &rows[..count],
            first: index * STRIP / RANGE * RANGE,
            steps: &steps[..count],
            values: &self.steps,
        }
    }

    /// Returns the strip of a row, its row within the strip, and its step.
    pub(super) fn place(&self, row: usize) -> (Strip<'_>, usize, f32) {
        let (strip, lane) = self.lane(row);
        let strip = self.strip(strip);
        (strip, lane, strip.values[usize::from(strip.steps[lane])])
    }

    /// Returns the number of the strip of a row, and its row within the strip. It looks for the row: an index would take
    /// as much memory as the steps do, and only embeddings are read by rows. A row that is not found is one of a mapped file
    /// that became shorter; it has any lane.
    pub(super) fn lane(&self, row: usize) -> (usize, usize) {
        let strips = row / RANGE * (RANGE / STRIP)..self.strips();
        let within =
            |strip: usize| self.strip(strip).rows.iter().position(|&of_lane| usize::from(of_lane) == row % RANGE);
        strips.into_iter().find_map(|strip| Some((strip, within(strip)?))).unwrap_or((row / STRIP, row % STRIP))
    }

    /// Returns the number of outliers.
    pub(super) fn outliers(&self) -> usize {
        (0..self.strips()).map(|strip| self.strip(strip).outliers.len()).sum()
    }

    /// Returns the number of bytes of the heads of strips, without outliers.
    pub(super) fn head_bytes(&self) -> usize {
        self.bytes() - self.cell_bits() / 8 - self.outliers() * size_of::<u32>()
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
        size_of_val(&self.steps[..]) + size_of_val(&self.starts[..]) + self.bytes()
    }
}

/// Where the parts of the head of a strip begin, in bytes.
#[derive(Clone, Copy)]
struct Head {
    widths: usize,
    /// Followed by the steps.
    rows: usize,
    outliers: usize,
}

impl Head {
    #[inline(always)]
    fn new(groups: usize) -> Head {
        let widths = groups.div_ceil(SEGMENT_GROUPS) * 2 * size_of::<u32>();
        let rows = (widths + groups).next_multiple_of(align_of::<u32>());
        Head { widths, rows, outliers: rows + 2 * STRIP * size_of::<u16>() }
    }

    /// Returns the number of lines of the head.
    #[inline(always)]
    fn lines(self, outliers: usize) -> usize {
        (self.outliers + outliers * size_of::<u32>()).div_ceil(size_of::<Line>())
    }
}

/// The steps of rows: many rows have the same.
struct StepTable {
    values: Vec<f32>,
    /// The step of each row, as an index of `values`.
    indices: Vec<usize>,
}

impl StepTable {
    fn new(steps: &[f32]) -> StepTable {
        let mut values = steps.to_vec();
        values.sort_by(f32::total_cmp);
        values.dedup_by_key(|step| step.to_bits());
        let index = |step: &f32| values.partition_point(|value| value.total_cmp(step).is_lt());
        StepTable { indices: steps.iter().map(index).collect(), values }
    }
}

impl<'a> Strip<'a> {
    /// Returns whether there is one line for each bit of width, outliers are in existing groups, rows are below `rows`, and
    /// their steps exist. Products rely on this without further checks: they follow pointers through the lines, add outliers at their
    /// columns, and write to the rows. A strip in a mapped file is checked once, when it is read: nobody but its owner can
    /// change it (`stored::Reader`), and where it becomes shorter, widths, ends, rows and steps are 0, which are sound too.
    fn is_sound(self, rows: usize) -> bool {
        let lines: usize = self.widths.iter().map(|&width| usize::from(width)).sum();
        let columns = self.widths.len() * GROUP;
        self.cells.len() == lines
            && self.widths.iter().all(|&width| width <= WIDEST)
            && self.outliers().all(|outlier| outlier.column < columns)
            && self.rows.iter().all(|&row| self.first + usize::from(row) < rows)
            && self.steps.iter().all(|&step| usize::from(step) < self.values.len())
    }

    /// Returns the row of each lane within the row group, and its step.
    #[inline(always)]
    pub(super) fn outputs(self) -> impl Iterator<Item = (usize, f32)> {
        let Strip { first, values, .. } = self;
        self.rows.iter().zip(self.steps).map(move |(&row, &step)| (first + usize::from(row), values[usize::from(step)]))
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
            let sum = |block: &[u16]| block.iter().map(|&c| u64::from(z[c as usize].unsigned_abs())).sum::<u64>();
            if order.chunks(BLOCK).any(|block| sum(block) > BLOCK_LARGEST) {
                return None;
            }
            let rest = |&column: &u16| z[column as usize] - z[column as usize].clamp(-LARGEST, LARGEST);
            let beyond = order.iter().enumerate().map(|(place, column)| (place, lane, rest(column)));
            self.rest.extend(beyond.filter(|&(.., rest)| rest != 0));
        }
        Some(())
    }

    /// Appends the strip of the given rows of a row group.
    fn pack(&mut self, rows: &[usize], steps: &StepTable, lines: &mut Vec<Line>) {
        match Isa::best() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::best` only returns an instruction set that the processor supports.
            Isa::Avx512 => unsafe { self.pack_cells_avx512() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { self.pack_cells_avx2() },
            _ => self.pack_cells(),
        }
        let (mut of_lanes, mut steps_of_lanes) = ([0u16; STRIP], [0u16; STRIP]);
        for (lane, &row) in rows.iter().enumerate() {
            (of_lanes[lane], steps_of_lanes[lane]) = ((row % RANGE) as u16, steps.indices[row] as u16);
        }
        let head = Head::new(self.widths.len());
        let start = lines.len();
        lines.resize(start + head.lines(self.outliers.len()), Line::default());
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines[start..]);
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, bytemuck::cast_slice(&self.ends));
        put(head.widths, &self.widths);
        put(head.rows, bytemuck::cast_slice(&[of_lanes, steps_of_lanes]));
        put(head.outliers, bytemuck::cast_slice(&self.outliers));
        lines.extend_from_slice(&self.packed);
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

const _: () = assert!(BLOCK.is_multiple_of(GROUP) && SEGMENT.is_multiple_of(BLOCK) && RANGE.is_multiple_of(STRIP));
const _: () = assert!((BLOCK as u64) * (LARGEST as u64) <= BLOCK_LARGEST);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_that_products_could_not_follow_are_found() {
        let line = Line::default();
        let of_group_1 = [pack_outlier(GROUP, 3, 1)];
        let good = Strip {
            ends: &[1, 1],
            widths: &[1, 0],
            outliers: &of_group_1,
            cells: &[line],
            rows: &[7],
            first: 0,
            steps: &[1],
            values: &[1.0, 2.0],
        };
        let passes = |strip: Strip, rows| strip.is_sound(rows);
        assert!(passes(good, 8));
        assert!(!passes(good, 7), "a row that the row group does not have");
        assert!(!passes(Strip { first: 1, ..good }, 8), "a row of another range");
        assert!(!passes(Strip { values: &[1.0], ..good }, 8), "a step that is not there");
        assert!(!passes(Strip { cells: &[line, line], ..good }, 8), "a line that no cell has");
        assert!(!passes(Strip { cells: &[], ..good }, 8), "a cell without its lines");
        assert!(!passes(Strip { widths: &[1], ..good }, 8), "an outlier in no group");
        assert!(!passes(Strip { widths: &[9, 0], cells: &[line; 9], ..good }, 8), "a width of 9 bits");
    }
}
