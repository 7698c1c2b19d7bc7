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

pub use encode::{Segment, encode_segment, escape_code, symbol};

use crate::class::Kind;
use crate::level::Level;
use crate::tables::Lut;

/// Lanes of a segment.
pub const LANES: usize = 32;
/// States stay in `LOW..2^32`; encoding starts at `LOW`, so decoding ends there.
pub const LOW: u32 = 1 << 16;

/// Decodes a segment, some rows at a time.
pub struct Decoder<'a> {
    lut: &'a Lut,
    level: Level,
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
    pub fn new(mut classes: Vec<i32>) -> Self {
        let width = classes.len();
        let (least, most) = (classes.iter().min().copied().unwrap_or(0), classes.iter().max().copied().unwrap_or(0));
        classes.resize(width.next_multiple_of(LANES), least);
        Columns { classes, width, least, most }
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The width rounded up to a multiple of 32: so many values a row takes while it is decoded.
    pub fn padded(&self) -> usize {
        self.classes.len()
    }

    /// Does no class of this row need a clamp or have low bits? So it is with most rows. In kind lattice a plain class is below the
    /// number of tables, in kind float at most the largest class; the padding too.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only the vector kernels ask"))]
    fn is_plain(&self, kind: Kind, row: i32) -> bool {
        let most = match kind {
            Kind::Float => kind.max_class(),
            Kind::Lattice => kind.tables() as i32 - 1,
        };
        row.saturating_add(self.least) >= 0 && row.saturating_add(self.most) <= most
    }
}

/// The words of a segment ended before its elements did.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfWords;

impl<'a> Decoder<'a> {
    /// A decoder over the lane states and words of a segment. `None` if a state is below 2^16 (SPEC 8.4).
    pub fn new(level: Level, lut: &'a Lut, states: [u32; LANES], words: &'a [u8]) -> Option<Self> {
        states.iter().all(|&x| x >= LOW).then_some(Decoder { lut, level: level.or_scalar(), states, words, used: 0 })
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
        match self.level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the level (`new` saw to it), and the length is checked above.
            Level::Avx512 => unsafe { self.rows_avx512(rows, columns, values, escapes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { self.rows_avx2(rows, columns, values, escapes) },
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
