//! What the integers of a row group at a layer are, given its codes.

use impasto_core::Isa;

use super::super::cell::{Line, QUAD};
use super::super::lane::LARGEST;
use super::super::row_group::{BLOCK_LARGEST, Far, Outlier, RowGroup, SEGMENT, Strip, pack_outlier};
use super::super::{ACTIVATION_BLOCK, ColumnOrder, PackError};
use super::open;

/// The largest magnitude of an integer that is not a far outlier.
pub(super) const MOST: i32 = 127;

/// The form of codes, and the integers that do not fit 8 bits.
#[derive(Debug)]
pub(super) struct Form {
    /// Whether codes below 0 are integers minus 1, so that there are two zeros.
    has_two_zeros: bool,
    /// For each strip, two boundaries for each segment, as in [`Far`]: there are no near outliers.
    ends: Vec<u32>,
    /// The far outliers of all strips: what is missing from +-127.
    outliers: Vec<u32>,
    /// Where the outliers of each strip start, and the end of the last.
    starts: Vec<u32>,
}

impl Form {
    /// Finds the far outliers of the integers of a row group, rows x columns; its lanes are those of `group`.
    ///
    /// # Errors
    /// [`PackError::Integers`] if sums of products overflow; [`PackError::TooLarge`] for 2^32 outliers.
    pub(super) fn new(
        integers: &[i32],
        has_two_zeros: bool,
        group: &RowGroup,
        columns: &ColumnOrder,
    ) -> Result<Form, PackError> {
        let mut form = Form { has_two_zeros, ends: vec![], outliers: vec![], starts: vec![0] };
        for strip in 0..group.strips() {
            form.find_far(group.strip(strip), integers, columns)?;
            PackError::check_most("outliers of a layer", form.outliers.len(), u32::MAX as usize)?;
            form.starts.push(form.outliers.len() as u32);
        }
        Ok(form)
    }

    /// Appends the far outliers of a strip.
    fn find_far(&mut self, strip: Strip, integers: &[i32], columns: &ColumnOrder) -> Result<(), PackError> {
        let (order, width) = (columns.order(), columns.inputs());
        let start = self.outliers.len();
        let mut with_far = Vec::new();
        for (lane, (row, _)) in strip.outputs().enumerate() {
            let z = &integers[row * width..][..width];
            if z.iter().all(|z| z.unsigned_abs() <= MOST as u32) {
                continue;
            }
            let sum = |block: &[u16]| block.iter().map(|&c| u64::from(z[c as usize].unsigned_abs())).sum::<u64>();
            if order.chunks(ACTIVATION_BLOCK).any(|block| sum(block) > BLOCK_LARGEST) {
                return Err(PackError::Integers { row });
            }
            with_far.push((lane, z));
        }
        for (segment, columns) in order.chunks(SEGMENT).enumerate() {
            self.ends.push((self.outliers.len() - start) as u32);
            for &(lane, z) in &with_far {
                for (place, &column) in columns.iter().enumerate() {
                    let z = z[column as usize];
                    let mut rest = z - z.clamp(-MOST, MOST);
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

    /// Returns the far outliers of a strip.
    pub(super) fn far(&self, strip: usize) -> Far<'_> {
        let boundaries = self.ends.len() / (self.starts.len() - 1).max(1);
        let outliers = self.starts[strip] as usize..self.starts[strip + 1] as usize;
        Far { ends: &self.ends[strip * boundaries..][..boundaries], outliers: &self.outliers[outliers] }
    }

    /// Whether the codes are the integers.
    pub(super) fn is_plain(&self) -> bool {
        !self.has_two_zeros
    }

    /// Turns the codes of a strip, modulo 256, plus 128, into integers plus 128; those that do not fit become +-127.
    pub(super) fn settle(&self, isa: Isa, strip: usize, lines: &mut [Line]) {
        if self.has_two_zeros {
            open::join_zeros(isa, lines);
        }
        for Outlier { column, row, delta } in self.far(strip).outliers() {
            lines[column / QUAD].0[row * QUAD + column % QUAD] = (128 + MOST * delta.signum()) as u8;
        }
    }

    /// Turns the codes of a row, modulo 256, into integers. `order` is that of the columns.
    pub(super) fn settle_row(&self, strip: usize, lane: usize, order: &[u16], codes: &mut [i32]) {
        for code in &mut *codes {
            let byte = i32::from(*code as i8);
            *code = byte + i32::from(self.has_two_zeros && byte < 0);
        }
        let far = || self.far(strip).outliers().filter(|outlier| outlier.row == lane);
        far().for_each(|far| codes[order[far.column] as usize] = MOST * far.delta.signum());
        far().for_each(|far| codes[order[far.column] as usize] += far.delta);
    }

    pub(super) fn outliers(&self) -> usize {
        self.outliers.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&self.outliers[..]) + size_of_val(&self.ends[..]) + size_of_val(&self.starts[..])
    }
}
