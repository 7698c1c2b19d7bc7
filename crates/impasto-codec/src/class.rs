//! Scale classes: they determine the table that codes an element, and the number of its low bits (SPEC 7).

use impasto_core::Mode;

/// The meaning of the values of an entropy-coded tile; one for each mode with classes and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Top bits of the magnitude of a float (SPEC 9).
    Float,
    /// Integers of a scalar lattice (SPEC 10).
    Lattice,
    /// Indices of integers on a trellis (SPEC 10.4). The class is `2 t + p` with the class `t` of kind lattice and the parity `p`.
    Trellis,
    /// Residuals that turn the integers of the layer below into finer ones (SPEC 13).
    Refinement,
    /// Halves of residuals that lead to integers on a trellis (SPEC 13.3). The class is `2 t + p` with the class `t` of kind
    /// refinement and the parity `p` of the residual.
    TrellisRefinement,
    /// Differences between the bits of a float and those of the weight of the layer below (SPEC 14).
    Exact,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] =
        [Kind::Float, Kind::Lattice, Kind::Trellis, Kind::Refinement, Kind::TrellisRefinement, Kind::Exact];

    /// Returns the coding mode of tiles of this kind (SPEC 5).
    pub const fn mode(self) -> Mode {
        match self {
            Kind::Float => Mode::FLOAT,
            Kind::Lattice | Kind::Trellis => Mode::LATTICE,
            Kind::Refinement | Kind::TrellisRefinement => Mode::REFINEMENT,
            Kind::Exact => Mode::EXACT,
        }
    }

    /// Returns the kind of tiles in a coding mode, without a trellis, or `None` if the mode has no classes.
    pub fn from_mode(mode: Mode) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.mode() == mode)
    }

    /// Returns the kind of tiles in the same mode without a trellis.
    pub const fn without_trellis(self) -> Kind {
        match self {
            Kind::Trellis => Kind::Lattice,
            Kind::TrellisRefinement => Kind::Refinement,
            other => other,
        }
    }

    /// Returns the kind of tiles in the same mode with a trellis, or `None` if the mode has none.
    pub const fn with_trellis(self) -> Option<Kind> {
        match self {
            Kind::Lattice | Kind::Trellis => Some(Kind::Trellis),
            Kind::Refinement | Kind::TrellisRefinement => Some(Kind::TrellisRefinement),
            Kind::Float | Kind::Exact => None,
        }
    }

    /// Returns whether there are tables for each parity (SPEC 10.5): those of even numbers have even table numbers.
    pub const fn has_parities(self) -> bool {
        matches!(self, Kind::Trellis | Kind::TrellisRefinement)
    }

    /// Returns the number of tables.
    pub const fn tables(self) -> usize {
        match self {
            Kind::Float => 4,
            Kind::Lattice | Kind::Refinement => 24,
            Kind::Trellis | Kind::TrellisRefinement => 48,
            Kind::Exact => 32,
        }
    }

    /// Returns the largest class (`T` of SPEC 7.1).
    pub const fn max_class(self) -> i32 {
        match self {
            Kind::Float => 1023,
            Kind::Lattice => 43,
            Kind::Trellis => 87,
            Kind::Refinement => 23,
            Kind::TrellisRefinement => 47,
            Kind::Exact => 31,
        }
    }
}

/// The coding parameters of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Number of the frequency table.
    pub table: usize,
    /// Number of low bits that are coded uniformly (`b` of SPEC 7.3).
    pub low_bits: u32,
    /// Added to the symbol, before the shift by `low_bits`, to give the value.
    pub offset: i32,
}

/// Returns the class of an element: `t = clamp(row + column, 0, T)`. In kind trellis, `row + column` is twice the sum of classes,
/// and the parity, which is not clamped.
///
/// In kinds refinement and exact, compute `t` with [`crate::refinement::class`] or [`crate::exact::class`] and pass it
/// as `row` or `column`, with 0 as the other.
#[inline(always)]
pub fn class(kind: Kind, row: i32, column: i32) -> Class {
    let t = (row + column).clamp(0, kind.max_class());
    match kind {
        Kind::Float => Class { table: (t & 3) as usize, low_bits: 0, offset: (t & !3) - 48 },
        Kind::Lattice => {
            let low_bits = ((t >> 2) - 5).max(0);
            Class { table: (t - 4 * low_bits) as usize, low_bits: low_bits as u32, offset: -31 }
        }
        Kind::Trellis => {
            let t = t & !1 | (row + column) & 1;
            let low_bits = ((t >> 3) - 5).max(0);
            Class { table: (t - 8 * low_bits) as usize, low_bits: low_bits as u32, offset: -31 }
        }
        Kind::Refinement | Kind::TrellisRefinement => Class { table: t as usize, low_bits: 0, offset: -31 },
        Kind::Exact => Class { table: t as usize, low_bits: (((t + 1) >> 2) - 3).max(0) as u32, offset: -31 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_classes_share_the_top_octave() {
        for t in 0..=43 {
            let c = class(Kind::Lattice, t, 0);
            if t < 24 {
                assert_eq!((c.table, c.low_bits), (t as usize, 0));
            } else {
                assert_eq!((c.table, c.low_bits), (20 + t as usize % 4, t as u32 / 4 - 5));
            }
            assert!(crate::tables::TABLE_BITS + c.low_bits <= 16);
        }
        for (sum, parity) in (-3..50).flat_map(|sum| [(sum, 0), (sum, 1)]) {
            let (c, lattice) = (class(Kind::Trellis, 2 * sum, parity), class(Kind::Lattice, sum, 0));
            assert_eq!(c, Class { table: 2 * lattice.table + parity as usize, ..lattice });
        }
        for t in 0..=31 {
            let c = class(Kind::Exact, t, 0);
            let low_bits = [0, 0, 0, 0, 1, 2, 3, 4, 5][(t as usize + 1) / 4];
            assert_eq!((c.table, c.low_bits), (t as usize, low_bits));
            assert!(crate::tables::TABLE_BITS + c.low_bits <= 16);
        }
        assert_eq!(class(Kind::Lattice, 30_000, 30_000), class(Kind::Lattice, 43, 0));
        assert_eq!(class(Kind::Lattice, -30_000, 5), class(Kind::Lattice, 0, 0));
    }
}
