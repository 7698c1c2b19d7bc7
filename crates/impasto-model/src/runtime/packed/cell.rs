//! A cell: the integers of 16 rows and 32 columns, stored at one width.
//!
//! A cell is 8 *vectors* of 64 bytes. Vector `v` has columns `4 v` to `4 v + 3` of the group: byte `4 row + column %
//! 4` is the integer plus [`bias`], so that one VPDPBUSD multiplies it by four activations and adds up each row in a
//! lane of its own. At width `w`, bits of the vectors lie in planes of 8, or of 4, 2 and 1 bits, the lowest first. In
//! a plane of `b` bits, `b` lines of 64 bytes, vector `v` has bits `b (v / b)` to `b (v / b) + b - 1` of each byte of
//! line `v % b`: shift and mask bring it out.

/// Rows of a strip: lanes of a 512-bit register.
pub(super) const STRIP: usize = 16;
/// Columns of a group.
pub(super) const GROUP: usize = 32;
/// Columns whose activations are multiplied at once.
pub(super) const QUAD: usize = 4;
/// Vectors of a cell.
pub(super) const VECTORS: usize = GROUP / QUAD;
/// Integers of a cell.
pub(super) const CELL: usize = STRIP * GROUP;
/// Columns whose activations share a scale. Sums over a block are integers, below 128 * 32767 * 127 < 2^31.
pub(super) const BLOCK: usize = 128;
/// Groups of a block.
pub(super) const BLOCK_GROUPS: usize = BLOCK / GROUP;
/// The widest cell, in bits.
pub(super) const WIDEST: u8 = 8;

/// 64 bytes: a cell of width `w` takes `w` of them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

impl Default for Line {
    fn default() -> Self {
        Line([0; 64])
    }
}

/// What is added to the integers of a cell.
#[inline(always)]
pub(super) fn bias(width: u8) -> i32 {
    (1 << width) >> 1
}

/// The integers that a cell holds: from `-bias(width)` up to this.
#[inline(always)]
pub(super) fn most(width: u8) -> i32 {
    (bias(width) - 1).max(0)
}

/// The planes of a width: bits, first line, lowest bit of the value that it holds.
#[inline(always)]
fn planes(width: u8) -> impl Iterator<Item = (usize, usize, usize)> {
    // The lines of a plane are as many as its bits, so the first line is the lowest bit, too.
    let mut first = 0;
    [8, 4, 2, 1].into_iter().filter(move |&bits| usize::from(width) & bits != 0).map(move |bits| {
        first += bits;
        (bits, first - bits, first - bits)
    })
}

/// Appends a cell: `values` are integers plus bias, below `2^width`.
#[inline(always)]
pub(super) fn pack(values: &[u8; CELL], width: u8, lines: &mut Vec<Line>) {
    let vectors = values.as_chunks::<64>().0;
    for (bits, _, lowest) in planes(width) {
        let mask = (u16::from(u8::MAX) >> (8 - bits)) as u8;
        for line in 0..bits {
            let mut bytes = [0; 64];
            for field in 0..VECTORS / bits {
                for (byte, &value) in bytes.iter_mut().zip(&vectors[field * bits + line]) {
                    *byte |= (value >> lowest & mask) << (field * bits);
                }
            }
            lines.push(Line(bytes));
        }
    }
}

/// Integers plus bias of a cell, as [`pack`] had them. `lines`: those of the cell.
#[inline(always)]
pub(super) fn unpack(lines: &[Line], width: u8, values: &mut [u8; CELL]) {
    values.fill(0);
    let vectors = values.as_chunks_mut::<64>().0;
    for (bits, first, lowest) in planes(width) {
        let mask = (u16::from(u8::MAX) >> (8 - bits)) as u8;
        for (v, vector) in vectors.iter_mut().enumerate() {
            let Line(bytes) = &lines[first + v % bits];
            let shift = bits * (v / bits);
            for (value, &byte) in vector.iter_mut().zip(bytes) {
                *value |= (byte >> shift & mask) << lowest;
            }
        }
    }
}

/// The integer at one row and column of a cell.
pub(super) fn integer(lines: &[Line], width: u8, row: usize, column: usize) -> i32 {
    let (v, byte) = (column / QUAD, QUAD * row + column % QUAD);
    let part = |(bits, first, lowest): (usize, usize, usize)| {
        let field = i32::from(lines[first + v % bits].0[byte]) >> (bits * (v / bits));
        (field & ((1 << bits) - 1)) << lowest
    };
    planes(width).map(part).sum::<i32>() - bias(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_survives() {
        let mut seed = 1u32;
        for width in 0..=WIDEST {
            let mut values = [0u8; CELL];
            for value in &mut values {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (u32::from((seed >> 24) as u8) & ((1 << width) - 1)) as u8;
            }
            let mut lines = Vec::new();
            pack(&values, width, &mut lines);
            assert_eq!(lines.len(), usize::from(width));
            let mut back = [0xFF; CELL];
            unpack(&lines, width, &mut back);
            assert_eq!(back, values);
            for (i, &value) in values.iter().enumerate() {
                let (row, column) = (i % 64 / QUAD, i / 64 * QUAD + i % QUAD);
                assert_eq!(integer(&lines, width, row, column), i32::from(value) - bias(width));
            }
        }
        assert_eq!((bias(0), most(0), bias(1), most(1), bias(8), most(8)), (0, 0, 1, 0, 128, 127));
    }
}
