//! A cell: the integers of 16 rows and 32 columns, stored at one width.
//!
//! A cell consists of 8 *vectors* of 64 bytes. Vector `v` has columns `4 v` to `4 v + 3` of the group. The integer of a
//! row and column, plus [`bias`], is in byte `4 row + column % 4`, so that one VPDPBUSD multiplies the vector by four
//! activations and sums each row in a lane of its own.
//!
//! At width `w` a cell takes `w` lines of 64 bytes. A byte of a line holds bits of the bytes at the same position in
//! some vectors: first as many whole vectors as fit, `f = 8 / w`. The remaining bits of the lines are distributed, bit
//! by bit, over the vectors that no line holds whole. Vector `v < f w` is therefore at bits `w (v / w)` and up of line
//! `v % w`, and one shift and one mask extract it. Few vectors are in several [`Piece`]s.

/// Rows of a strip: the 32-bit lanes of a 512-bit register.
pub(crate) const STRIP: usize = 16;
/// Columns of a group.
pub(crate) const GROUP: usize = 32;
/// Columns whose activations are multiplied by one instruction.
pub(crate) const QUAD: usize = 4;
/// Vectors of a cell.
pub(crate) const VECTORS: usize = GROUP / QUAD;
/// Integers of a cell.
pub(crate) const CELL: usize = STRIP * GROUP;
/// Columns whose activations share a scale. The integer sum over a block is below 128 * 32767 * 127 < 2^31.
pub(super) const BLOCK: usize = 128;
/// Groups of a block.
pub(super) const BLOCK_GROUPS: usize = BLOCK / GROUP;
/// The largest width of a cell, in bits.
pub(super) const WIDEST: u8 = 8;

/// A line of 64 bytes; a cell of width `w` takes `w` lines.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line(pub [u8; 64]);

impl Default for Line {
    fn default() -> Self {
        Line([0; 64])
    }
}

/// Returns the bias that is added to the integers of a cell.
#[inline(always)]
pub(super) fn bias(width: u8) -> i32 {
    (1 << width) >> 1
}

/// Returns the largest integer that a cell holds; the smallest is `-bias(width)`.
#[inline(always)]
pub(super) fn most(width: u8) -> i32 {
    (bias(width) - 1).max(0)
}

/// Bits of a line that belong to a vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub vector: usize,
    /// The lowest bit of the piece in the bytes of the vector.
    pub to: usize,
    pub line: usize,
    /// The lowest bit of the piece in the bytes of the line, which is at least `to`.
    pub from: usize,
    pub bits: usize,
}

/// The largest number of pieces of a cell: at 7 bits, 7 whole vectors and one in 7 pieces.
const MOST_PIECES: usize = 14;

/// The pieces of cells of one width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    pieces: [Piece; MOST_PIECES],
    count: usize,
}

impl Pieces {
    /// Returns the pieces of a width of at most 8 bits, vector by vector, lowest bits first.
    pub(super) const fn of(width: usize) -> Pieces {
        let none = Piece { vector: 0, to: 0, line: 0, from: 0, bits: 0 };
        let mut found = Pieces { pieces: [none; MOST_PIECES], count: 0 };
        if width == 0 {
            return found;
        }
        let whole = 8 / width * width;
        // The next free bit among the remaining bits of the lines.
        let (mut line, mut from) = (0, whole);
        let mut vector = 0;
        while vector < VECTORS {
            let mut to = 0;
            while to < width {
                let piece = if vector < whole {
                    Piece { vector, to, line: vector % width, from: vector / width * width, bits: width }
                } else {
                    let bits = if width - to < 8 - from { width - to } else { 8 - from };
                    Piece { vector, to, line, from, bits }
                };
                if vector >= whole {
                    from += piece.bits;
                    if from == 8 {
                        (line, from) = (line + 1, whole);
                    }
                }
                found.pieces[found.count] = piece;
                found.count += 1;
                to += piece.bits;
            }
            vector += 1;
        }
        found
    }

    /// Returns piece number `index`, if there is one.
    pub(super) const fn get(&self, index: usize) -> Option<Piece> {
        if index < self.count { Some(self.pieces[index]) } else { None }
    }

    #[inline(always)]
    fn all(&self) -> &[Piece] {
        &self.pieces[..self.count]
    }
}

/// The pieces of each width.
const PIECES: [Pieces; WIDEST as usize + 1] = {
    let mut all = [Pieces::of(0); WIDEST as usize + 1];
    let mut width = 0;
    while width < all.len() {
        all[width] = Pieces::of(width);
        width += 1;
    }
    all
};

/// Returns a byte whose `bits` lowest bits are set.
#[inline(always)]
pub(super) const fn low(bits: usize) -> u8 {
    ((1u16 << bits) - 1) as u8
}

/// Appends a cell. `values` are integers plus bias, below `2^width`.
#[inline(always)]
pub(crate) fn pack(values: &[u8; CELL], width: u8, lines: &mut Vec<Line>) {
    let vectors = values.as_chunks::<64>().0;
    let first = lines.len();
    lines.resize(first + usize::from(width), Line::default());
    for &Piece { vector, to, line, from, bits } in PIECES[usize::from(width)].all() {
        for (byte, &value) in lines[first + line].0.iter_mut().zip(&vectors[vector]) {
            *byte |= (value >> to & low(bits)) << from;
        }
    }
}

/// Writes the integers plus bias of a cell to `values`, in the order of [`pack`]. `lines` are the lines of the cell.
#[inline(always)]
pub(crate) fn unpack(lines: &[Line], width: u8, values: &mut [u8; CELL]) {
    values.fill(0);
    let vectors = values.as_chunks_mut::<64>().0;
    for &Piece { vector, to, line, from, bits } in PIECES[usize::from(width)].all() {
        for (value, &byte) in vectors[vector].iter_mut().zip(&lines[line].0) {
            *value |= (byte >> from & low(bits)) << to;
        }
    }
}

/// Returns the integer in one row and column of a cell.
pub(super) fn integer(lines: &[Line], width: u8, row: usize, column: usize) -> i32 {
    let (v, byte) = (column / QUAD, QUAD * row + column % QUAD);
    let of_vector = PIECES[usize::from(width)].all().iter().filter(|piece| piece.vector == v);
    let part = |piece: &Piece| i32::from(lines[piece.line].0[byte] >> piece.from & low(piece.bits)) << piece.to;
    of_vector.map(part).sum::<i32>() - bias(width)
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
