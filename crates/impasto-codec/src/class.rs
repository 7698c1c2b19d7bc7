//! Scale classes: which table codes an element, and how many of its low bits are raw (SPEC 7).

/// What the values of a tile mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Top bits of the magnitude of a float (SPEC 9).
    Float = 3,
    /// Integers of a scalar lattice (SPEC 10).
    Lattice = 4,
}

impl Kind {
    /// Number of tables.
    pub const fn tables(self) -> usize {
        match self {
            Kind::Float => 4,
            Kind::Lattice => 24,
        }
    }

    /// The largest class (`T` of SPEC 7.1).
    pub const fn max_class(self) -> i32 {
        match self {
            Kind::Float => 1023,
            Kind::Lattice => 43,
        }
    }

    /// The name of the mode, as messages show it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Float => "float",
            Kind::Lattice => "lattice",
        }
    }
}

/// What a class says of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Number of its table.
    pub table: usize,
    /// Low bits sent raw (`b` of SPEC 7.3).
    pub low_bits: u32,
    /// Added to the symbol, before the shift by `low_bits`, to give the value.
    pub offset: i32,
}

/// The class of an element: `t = clamp(row + column, 0, T)`.
pub fn class(kind: Kind, row: i32, column: i32) -> Class {
    let t = (row + column).clamp(0, kind.max_class());
    match kind {
        Kind::Float => Class { table: (t & 3) as usize, low_bits: 0, offset: (t & !3) - 48 },
        Kind::Lattice => {
            let low_bits = ((t >> 2) - 5).max(0);
            Class { table: (t - 4 * low_bits) as usize, low_bits: low_bits as u32, offset: -31 }
        }
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
        assert_eq!(class(Kind::Lattice, 30_000, 30_000), class(Kind::Lattice, 43, 0));
        assert_eq!(class(Kind::Lattice, -30_000, 5), class(Kind::Lattice, 0, 0));
    }
}
