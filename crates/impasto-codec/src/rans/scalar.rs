//! The scalar decoder, which is the reference for the others.

use super::{Columns, Decoder, LANES, LOW, OutOfWords};
use crate::class::class;
use crate::tables::{ESCAPE, TABLE_BITS, TOTAL};

impl Decoder<'_> {
    pub(super) fn rows_scalar(
        &mut self,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        for (r, &row) in rows.iter().enumerate() {
            for (c, &column) in columns.classes[..columns.width].iter().enumerate() {
                let at = r * columns.padded() + c;
                let (value, is_escape) = self.element(row, column, c % LANES)?;
                values[at] = value;
                if is_escape {
                    escapes.push(at as u32);
                }
            }
        }
        Ok(())
    }

    /// Decodes the next element of a lane. Returns its value, and whether it is an escape (SPEC 8.3).
    fn element(&mut self, row: i32, column: i32, lane: usize) -> Result<(i32, bool), OutOfWords> {
        let class = class(self.lut.kind(), row, column);
        let b = class.low_bits;
        let x = self.states[lane];
        let (low, y) = (x & ((1 << b) - 1), x >> b);
        let slot = self.lut.slots()[class.table << TABLE_BITS | (y & (TOTAL - 1)) as usize];
        let (symbol, frequency, above_start) = (slot & 0xFF, slot >> 8 & 0xFFF, slot >> 20);
        let mut x = frequency * (y >> TABLE_BITS) + above_start;
        if x < LOW {
            let word = self.words.get(2 * self.used..2 * self.used + 2).ok_or(OutOfWords)?;
            x = x << 16 | u32::from(u16::from_le_bytes([word[0], word[1]]));
            self.used += 1;
        }
        self.states[lane] = x;
        let value = ((symbol as i32 + class.offset) << b) + low as i32 - ((1 << b) >> 1);
        Ok((value, symbol as usize == ESCAPE))
    }
}
