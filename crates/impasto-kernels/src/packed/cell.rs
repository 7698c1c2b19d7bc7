//! A cell: the integers of 16 rows and 32 columns, stored at one width.
//!
//! A cell is 8 *vectors* of 64 bytes. Vector `v` has columns `4 v` to `4 v + 3` of the group: byte `4 row + column %
//! 4` is the integer plus [`bias`], so that one VPDPBUSD multiplies it by four activations and adds up each row in a
//! lane of its own.
//!
//! At width `w` a cell is `w` lines of 64 bytes, and a byte of a line has bits of the bytes at its place in some
//! vectors: first as many whole vectors as it has room for, `f = 8 / w`, then what is left of it, bit by bit, goes to
//! the vectors that no line has whole. So vector `v < f w` is bits `w (v / w)` and up of line `v % w`: one shift and one
//! mask bring it out, and vectors in [`Piece`]s are few.

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
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
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

/// Bits of a line that are bits of a vector.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub vector: usize,
    /// The lowest bit in the vector's bytes.
    pub to: usize,
    pub line: usize,
    /// The lowest bit in the line's bytes, which is no lower than `to`.
    pub from: usize,
    pub bits: usize,
}

/// The most pieces that a cell has: at 7 bits, 7 whole vectors and one in 7 pieces.
const MOST_PIECES: usize = 14;

/// The pieces of a width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    pieces: [Piece; MOST_PIECES],
    count: usize,
}

impl Pieces {
    /// Vector by vector, lowest bits first. `width`: 8 at most.
    pub(super) const fn of(width: usize) -> Pieces {
        let none = Piece { vector: 0, to: 0, line: 0, from: 0, bits: 0 };
        let mut found = Pieces { pieces: [none; MOST_PIECES], count: 0 };
        if width == 0 {
            return found;
        }
        let whole = 8 / width * width;
        // The bit after the last one that was given away: of lines' rests, one after another.
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

    /// One of them, if there are so many.
    pub(super) const fn get(&self, index: usize) -> Option<Piece> {
        if index < self.count { Some(self.pieces[index]) } else { None }
    }

    #[inline(always)]
    fn all(&self) -> &[Piece] {
        &self.pieces[..self.count]
    }
}

/// Those of all widths.
const PIECES: [Pieces; WIDEST as usize + 1] = {
    let mut all = [Pieces::of(0); WIDEST as usize + 1];
    let mut width = 0;
    while width < all.len() {
        all[width] = Pieces::of(width);
        width += 1;
    }
    all
};

/// A byte with its `bits` lowest bits set.
#[inline(always)]
pub(super) const fn low(bits: usize) -> u8 {
    ((1u16 << bits) - 1) as u8
}

/// Appends a cell: `values` are integers plus bias, below `2^width`.
#[inline(always)]
pub(super) fn pack(values: &[u8; CELL], width: u8, lines: &mut Vec<Line>) {
    let vectors = values.as_chunks::<64>().0;
    let first = lines.len();
    lines.resize(first + usize::from(width), Line::default());
    for &Piece { vector, to, line, from, bits } in PIECES[usize::from(width)].all() {
        for (byte, &value) in lines[first + line].0.iter_mut().zip(&vectors[vector]) {
            *byte |= (value >> to & low(bits)) << from;
        }
    }
}

/// Integers plus bias of a cell, as [`pack`] had them. `lines`: those of the cell.
#[inline(always)]
pub(super) fn unpack(lines: &[Line], width: u8, values: &mut [u8; CELL]) {
    values.fill(0);
    let vectors = values.as_chunks_mut::<64>().0;
    for &Piece { vector, to, line, from, bits } in PIECES[usize::from(width)].all() {
        for (value, &byte) in vectors[vector].iter_mut().zip(&lines[line].0) {
            *value |= (byte >> from & low(bits)) << to;
        }
    }
}

/// The integer at one row and column of a cell.
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
