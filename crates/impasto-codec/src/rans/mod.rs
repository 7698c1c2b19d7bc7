//! rANS with 32 interleaved lanes (SPEC 8): one encoder; a scalar decoder as reference, and its AVX2 and AVX-512 twins.
//!
//! State of 32 bits, words of 16 bits (Duda, arXiv 1311.2540; lanes as in Giesen, arXiv 1402.3392). Element `c` of a row belongs to
//! lane `c mod 32`, so a vector of lanes decodes neighbours of one row, whose classes are `row + columns[c..]`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod encode;
mod scalar;

pub use encode::{Segment, encode_segment, escape_code, escape_value, symbol};

use crate::class::Kind;
use crate::tables::Lut;
use impasto_core::{Isa, at_each_isa};

/// Lanes of a segment.
pub const LANES: usize = 32;
/// States stay in `LOW..2^32`; encoding starts at `LOW`, so decoding ends there.
pub const LOW: u32 = 1 << 16;

/// Decodes a segment, some rows at a time.
pub struct Decoder<'a> {
    lut: &'a Lut,
    isa: Isa,
    states: [u32; LANES],
    /// 16-bit little-endian words.
    words: &'a [u8],
    /// Words used so far.
    used: usize,
}

/// Classes of the columns of a tile.
pub struct Columns {
    /// One for each column, padded to a multiple of 32 with `least`: so a row is in range for all of them or for none.
    classes: Vec<i32>,
    width: usize,
    /// Smallest and largest class.
    least: i32,
    most: i32,
}

impl Columns {
    /// From the class of each column.
    pub fn new(classes: Vec<i32>) -> Self {
        let width = classes.len();
        let mut columns = Columns { classes, width, least: 0, most: 0 };
        columns.classes.resize(width.next_multiple_of(LANES), 0);
        columns.update(Isa::Scalar, |_| ());
        columns
    }

    /// Gives the columns other classes: `change` gets those that they have. For kinds whose classes differ from element to element, and so
    /// from row to row.
    pub fn update(&mut self, isa: Isa, change: impl FnOnce(&mut [i32])) {
        let (classes, padding) = self.classes.split_at_mut(self.width);
        change(classes);
        (self.least, self.most) = bounds(isa, classes);
        padding.fill(self.least);
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The width rounded up to a multiple of 32: so many values a row takes while it is decoded.
    pub fn padded(&self) -> usize {
        self.classes.len()
    }

    /// Does no class of this row need a clamp or have low bits? So it is with most rows. A plain class is at most the largest class in
    /// kind float, else below the number of tables; the padding too.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the vector kernels ask"))]
    fn is_plain(&self, kind: Kind, row: i32) -> bool {
        let most = match kind {
            Kind::Float => kind.max_class(),
            Kind::Lattice | Kind::Refinement => kind.tables() as i32 - 1,
            // From class 15 on there are low bits (SPEC 7.3).
            Kind::Exact => 14,
        };
        row.saturating_add(self.least) >= 0 && row.saturating_add(self.most) <= most
    }
}

at_each_isa! {
    /// Smallest and largest class; 0 if there is none.
    fn bounds(classes: &[i32]) -> (i32, i32) {
        let first = classes.first().copied().unwrap_or(0);
        classes.iter().fold((first, first), |(least, most), &class| (least.min(class), most.max(class)))
    }
}

/// Kinds as const parameters of the kernels.
#[cfg(target_arch = "x86_64")]
mod kinds {
    use crate::class::Kind;

    pub const FLOAT: u8 = Kind::Float as u8;
    pub const LATTICE: u8 = Kind::Lattice as u8;
    pub const REFINEMENT: u8 = Kind::Refinement as u8;
    pub const EXACT: u8 = Kind::Exact as u8;

    /// The largest class of a kind.
    pub const fn max_class(kind: u8) -> i32 {
        match kind {
            FLOAT => Kind::Float.max_class(),
            LATTICE => Kind::Lattice.max_class(),
            REFINEMENT => Kind::Refinement.max_class(),
            _ => Kind::Exact.max_class(),
        }
    }
}

/// The words of a segment ended before its elements did.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfWords;

impl<'a> Decoder<'a> {
    /// A decoder over the lane states and words of a segment. `None` if a state is below 2^16 (SPEC 8.4).
    pub fn new(isa: Isa, lut: &'a Lut, states: [u32; LANES], words: &'a [u8]) -> Option<Self> {
        states.iter().all(|&x| x >= LOW).then_some(Decoder { lut, isa: isa.or_scalar(), states, words, used: 0 })
    }

    /// Decodes some rows; `rows` are their classes.
    ///
    /// `values` holds [`Columns::padded`] integers for each row and receives the values (what lies beyond the width is meaningless). The
    /// places in `values` of escapes are appended to `escapes`; their values are meaningless.
    ///
    /// # Errors
    /// [`OutOfWords`].
    pub fn rows(
        &mut self,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escapes: &mut Vec<u32>,
    ) -> Result<(), OutOfWords> {
        assert!(values.len() == rows.len() * columns.padded());
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has these instructions (`new` checked), and the length is checked above.
            Isa::Avx512 => unsafe { self.rows_avx512(rows, columns, values, escapes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { self.rows_avx2(rows, columns, values, escapes) },
            _ => self.rows_scalar(rows, columns, values, escapes),
        }
    }

    /// Is every state back at its start, and every word used (SPEC 8.4)?
    pub fn is_finished(&self) -> bool {
        self.states.iter().all(|&x| x == LOW) && self.used * 2 == self.words.len()
    }
}

#[cfg(test)]
mod tests;
