//! A plane: what makes the integers of a layer of those of the layer below, for one row group.

use super::super::arena::Arena;
use super::super::cell::{self, GROUP, Line, QUAD, WIDEST};
use super::super::lane::LARGEST;
use super::super::row_group::{BLOCK_LARGEST, Far, Outlier, RowGroup, SEGMENT, pack_outlier};
use super::super::{ACTIVATION_BLOCK, ColumnOrder, PackError};

/// The digits of a row group at one layer, and the integers of the layer that do not fit 8 bits.
#[derive(Debug)]
pub struct Plane {
    /// The digits modulo 256, with the steps of rows and the offset of this layer.
    pub(super) digits: RowGroup,
    /// What the integers of the layer below are multiplied by, modulo 256.
    pub(super) factor: u8,
    /// For each strip, the end of the far outliers of each segment, counted within the strip. Twice: there are no near
    /// ones, whose end is that of the segment before.
    ends: Vec<u32>,
    /// The far outliers of all strips: what is missing from the nearest 8-bit integer.
    outliers: Vec<u32>,
    /// Where the outliers of each strip start, and the end of the last.
    starts: Vec<u32>,
}

/// The integers of a row group at a layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerRows<'a> {
    /// Rows x columns, row-major, columns in the order of the file.
    pub integers: &'a [i32],
    /// The step of each row, including the step of the tensor.
    pub row_steps: &'a [f32],
    /// Offset of reconstruction points away from 0, in 256ths of a step.
    pub offset: u8,
}

impl Plane {
    /// Packs the plane of a layer over the integers `below` of the layer below.
    ///
    /// - `columns`, `widths`: those with which the row group of the base was packed
    /// - `factor`: how many steps of this layer are one of the layer below, about
    ///
    /// # Errors
    /// As for [`RowGroup::pack`].
    pub fn pack(
        layer: LayerRows,
        below: &[i32],
        columns: &ColumnOrder,
        widths: &[i32],
        factor: i32,
    ) -> Result<Plane, PackError> {
        let LayerRows { integers, row_steps, offset } = layer;
        PackError::check_count("integers of the layer below", below.len(), integers.len())?;
        let digit = |(z, below): (&i32, &i32)| i32::from(z.wrapping_sub(below.wrapping_mul(factor)) as i8);
        let digits: Vec<i32> = integers.iter().zip(below).map(digit).collect();
        let digits = RowGroup::pack(&digits, columns, row_steps, widths, offset)?;
        let mut plane = Plane { digits, factor: factor as u8, ends: vec![], outliers: vec![], starts: vec![0] };
        for strip in 0..plane.digits.strips() {
            plane.find_far(strip, integers, columns)?;
            PackError::check_most("outliers of a plane", plane.outliers.len(), u32::MAX as usize)?;
            plane.starts.push(plane.outliers.len() as u32);
        }
        Ok(plane)
    }

    /// Appends the far outliers of a strip.
    fn find_far(&mut self, strip: usize, integers: &[i32], columns: &ColumnOrder) -> Result<(), PackError> {
        let (order, width) = (columns.order(), columns.inputs());
        let (least, most) = (-cell::bias(WIDEST), cell::most(WIDEST));
        let start = self.outliers.len();
        let mut rows = Vec::new();
        for (lane, &row) in self.digits.strip(strip).rows.iter().enumerate() {
            let row = row as usize;
            let z = &integers[row * width..][..width];
            if z.iter().all(|z| (least..=most).contains(z)) {
                continue;
            }
            let sum = |block: &[u32]| block.iter().map(|&c| u64::from(z[c as usize].unsigned_abs())).sum::<u64>();
            if order.chunks(ACTIVATION_BLOCK).any(|block| sum(block) > BLOCK_LARGEST) {
                return Err(PackError::Integers { row });
            }
            rows.push((lane, z));
        }
        for (segment, columns) in (0..).zip(order.chunks(SEGMENT)) {
            self.ends.push((self.outliers.len() - start) as u32);
            for &(lane, z) in &rows {
                for (place, &column) in columns.iter().enumerate() {
                    let z = z[column as usize];
                    let mut rest = z - z.clamp(least, most);
                    while rest != 0 {
                        let piece = rest.clamp(-LARGEST, LARGEST);
                        self.outliers.push(pack_outlier(segment * SEGMENT + place, lane, piece as i16));
                        rest -= piece;
                    }
                }
            }
            self.ends.push((self.outliers.len() - start) as u32);
        }
        Ok(())
    }

    /// Moves the digits into an arena.
    pub fn keep_in(self, arena: &Arena) -> Plane {
        Plane { digits: self.digits.keep_in(arena), ..self }
    }

    /// Returns whether this is a plane of a row group: it has the same rows in the same order, and the same columns.
    pub(super) fn fits(&self, group: &RowGroup) -> bool {
        self.digits.is_like(group)
    }

    /// Returns the far outliers of a strip.
    pub(super) fn far(&self, strip: usize) -> Far<'_> {
        let segments = self.ends.len() / self.digits.strips().max(1);
        let outliers = self.starts[strip] as usize..self.starts[strip + 1] as usize;
        Far { ends: &self.ends[strip * segments..][..segments], outliers: &self.outliers[outliers] }
    }

    /// Sets the bytes of far outliers to the nearest 8-bit integer, plus 128.
    pub(super) fn clamp<'l>(&self, strip: usize, lines: &'l mut [Line]) -> &'l [Line] {
        for Outlier { column, row, delta } in self.far(strip).outliers() {
            lines[column / QUAD].0[row * QUAD + column % QUAD] = if delta > 0 { u8::MAX } else { 0 };
        }
        lines
    }

    /// Turns the integers of a row at the layer below into those at this layer. `order` is that of the columns.
    pub(super) fn refine(&self, row: usize, order: &[u32], z: &mut [i32]) {
        let (strip, lane, _) = self.digits.place(row);
        let index = self.digits.strip_of(row);
        let mut digits = vec![0; strip.widths.len() * GROUP];
        strip.integers(lane, |place, digit| digits[place] = digit);
        for (&column, digit) in order.iter().zip(&digits) {
            let z = &mut z[column as usize];
            *z = i32::from(z.wrapping_mul(self.factor.into()).wrapping_add(*digit) as i8);
        }
        let far = || self.far(index).outliers().filter(|outlier| outlier.row == lane);
        for Outlier { column, delta, .. } in far() {
            z[order[column] as usize] = if delta > 0 { cell::most(WIDEST) } else { -cell::bias(WIDEST) };
        }
        for Outlier { column, delta, .. } in far() {
            z[order[column] as usize] += delta;
        }
    }

    /// Returns the number of bytes that a product reads.
    pub(super) fn bytes(&self) -> usize {
        self.digits.bytes() + size_of_val(&self.outliers[..]) + size_of_val(&self.ends[..])
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.digits.memory_bytes()
            + size_of_val(&self.outliers[..])
            + size_of_val(&self.ends[..])
            + size_of_val(&self.starts[..])
    }

    /// Returns the number of bits of the cells.
    pub(super) fn cell_bits(&self) -> usize {
        self.digits.cell_bits()
    }

    /// Returns the number of outliers, among the digits and among the integers.
    pub(super) fn outliers(&self) -> usize {
        self.digits.outliers() + self.outliers.len()
    }
}
