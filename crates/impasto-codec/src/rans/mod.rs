//! rANS with 32 interleaved lanes (SPEC 8): one encoder, a scalar reference decoder, and AVX2 and AVX-512 decoders.
//!
//! States have 32 bits, words 16 bits (Duda, arXiv 1311.2540; interleaved lanes as in Giesen, arXiv 1402.3392). Element
//! `c` of a row belongs to lane `c mod 32`, so a vector of lanes decodes neighbouring elements of one row, whose
//! classes are `row + columns[c..]`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod code;
mod encode;
mod scalar;

pub(crate) use code::{Coded, code};
pub use encode::{Segment, encode_segment, escape_code, escape_value, symbol};

use crate::class::Kind;
use crate::tables::Lut;
use impasto_core::{Isa, at_each_isa};

/// Number of lanes of a segment.
pub const LANES: usize = 32;
/// Lower bound of a state: states stay in `LOW..2^32`. Encoding starts at `LOW`, so decoding ends there.
pub const LOW: u32 = 1 << 16;

/// Decodes a segment, one or more rows at a time.
pub struct Decoder<'a> {
    lut: &'a Lut,
    isa: Isa,
    states: [u32; LANES],
    /// Words: 16 bits, little-endian.
    words: &'a [u8],
    /// Number of words read.
    used: usize,
}

/// Classes of the columns of a tile.
pub struct Columns {
    /// One per column, padded with `least` to a multiple of 32. The padding is therefore in range whenever the columns
    /// are.
    classes: Vec<i32>,
    width: usize,
    /// Smallest and largest class.
    least: i32,
    most: i32,
}

impl Columns {
    /// Creates columns from the class of each column.
    pub fn new(classes: Vec<i32>) -> Self {
        let width = classes.len();
        let mut columns = Columns { classes, width, least: 0, most: 0 };
        columns.classes.resize(width.next_multiple_of(LANES), 0);
        columns.update(Isa::Scalar, |_| ());
        columns
    }

    /// Changes the classes: `change` receives the present ones. Used by kinds whose classes differ between the elements
    /// of a column.
    pub fn update(&mut self, isa: Isa, change: impl FnOnce(&mut [i32])) {
        let (classes, padding) = self.classes.split_at_mut(self.width);
        change(classes);
        (self.least, self.most) = bounds(isa, classes);
        padding.fill(self.least);
    }

    /// Returns the number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the width rounded up to a multiple of 32: the number of values that decoding a row needs.
    pub fn padded(&self) -> usize {
        self.classes.len()
    }

    /// Returns whether no class of this row needs clamping or has low bits, which is true of most rows. If so, every
    /// class, including padding, is a valid index: at most the largest class in kind float, below the number of tables
    /// in the others.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the vector kernels ask"))]
    fn is_plain(&self, kind: Kind, row: i32) -> bool {
        let most = match kind {
            Kind::Float => kind.max_class(),
            Kind::Lattice | Kind::Trellis | Kind::Refinement | Kind::TrellisRefinement => kind.tables() as i32 - 1,
            // Classes from 15 on have low bits (SPEC 7.3).
            Kind::Exact => 14,
        };
        row.saturating_add(self.least) >= 0 && row.saturating_add(self.most) <= most
    }
}

at_each_isa! {
    /// Returns the smallest and the largest class; 0 if there are none.
    fn bounds(classes: &[i32]) -> (i32, i32) {
        let first = classes.first().copied().unwrap_or(0);
        classes.iter().fold((first, first), |(least, most), &class| (least.min(class), most.max(class)))
    }
}

/// The kinds as constants, for const parameters of the kernels.
#[cfg(target_arch = "x86_64")]
mod kinds {
    use crate::class::Kind;

    pub const FLOAT: u8 = Kind::Float as u8;
    pub const LATTICE: u8 = Kind::Lattice as u8;
    pub const TRELLIS: u8 = Kind::Trellis as u8;
    pub const REFINEMENT: u8 = Kind::Refinement as u8;
    pub const TRELLIS_REFINEMENT: u8 = Kind::TrellisRefinement as u8;
    pub const EXACT: u8 = Kind::Exact as u8;

    /// Returns the largest class of a kind.
    pub const fn max_class(kind: u8) -> i32 {
        match kind {
            FLOAT => Kind::Float.max_class(),
            LATTICE => Kind::Lattice.max_class(),
            TRELLIS => Kind::Trellis.max_class(),
            REFINEMENT => Kind::Refinement.max_class(),
            TRELLIS_REFINEMENT => Kind::TrellisRefinement.max_class(),
            _ => Kind::Exact.max_class(),
        }
    }
}

/// Error: the words of a segment end before its elements do.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfWords;

impl<'a> Decoder<'a> {
    /// Creates a decoder from the lane states and words of a segment. Returns `None` if a state is below 2^16 (SPEC
    /// 8.4).
    pub fn new(isa: Isa, lut: &'a Lut, states: [u32; LANES], words: &'a [u8]) -> Option<Self> {
        states.iter().all(|&x| x >= LOW).then_some(Decoder { lut, isa: isa.or_scalar(), states, words, used: 0 })
    }

    /// Decodes rows; `rows` are their classes.
    ///
    /// `values` has [`Columns::padded`] entries per row and receives the values; entries beyond the width are
    /// unspecified. The indices in `values` of escapes are appended to `escapes`; the values there are unspecified.
    ///
    /// # Errors
    /// [`OutOfWords`] if the words of the segment end too early.
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
            // SAFETY: `new` checked that the processor supports these instructions; the length is checked above.
            Isa::Avx512 => unsafe { self.rows_avx512(rows, columns, values, escapes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { self.rows_avx2(rows, columns, values, escapes) },
            _ => self.rows_scalar(rows, columns, values, escapes),
        }
    }

    /// Returns whether every state is `LOW` and every word is used, as the end of a segment requires (SPEC 8.4).
    pub fn is_finished(&self) -> bool {
        self.states.iter().all(|&x| x == LOW) && self.used * 2 == self.words.len()
    }
}

#[cfg(test)]
mod tests;
