//! Reading a coded unit row by row (SPEC 8).

use impasto_core::{Isa, Place, varint};

use super::{MAX_SEGMENTS, segment_rows};
use crate::bits::field;
use crate::error::CodecError;
use crate::header::TensorHeader;
use crate::rans::{Columns, Decoder, LANES, escape_value};
use crate::tables::Lut;

/// A tensor header and its lookup tables.
pub struct Layer {
    pub header: TensorHeader,
    pub lut: Lut,
}

impl Layer {
    pub fn new(header: TensorHeader) -> Self {
        let lut = header.lut();
        Layer { header, lut }
    }
}

/// The unit of a nonempty tile in one of the modes with classes, read row by row.
pub struct Coded<'a> {
    isa: Isa,
    lut: &'a Lut,
    parts: Parts<'a>,
    /// Bytes of one row of the plane.
    plane_row: usize,
    height: usize,
    /// The current segment: its number; its decoder, once a row has been decoded; its remaining escapes; the end of its
    /// rows.
    segment: usize,
    decoder: Option<Decoder<'a>>,
    escapes: &'a [u8],
    end: usize,
    /// The next row to decode.
    row: usize,
}

impl<'a> Coded<'a> {
    /// Splits a unit into its parts.
    pub fn new(isa: Isa, layer: &'a Layer, unit: &'a [u8], place: &Place) -> Result<Self, CodecError> {
        let height = place.rows.len();
        let plane_row = (place.columns.len() * usize::from(layer.header.plane)).div_ceil(8);
        let parts = parts(unit, height, plane_row * height)?;
        let end = segment_rows(0, parts.segments.len(), height).end;
        let lut = &layer.lut;
        Ok(Coded { isa, lut, parts, plane_row, height, segment: 0, decoder: None, escapes: &[], end, row: 0 })
    }

    /// Returns the number of rows that can be decoded together: at most `most`, and only from the current segment; 0
    /// after the last row.
    pub fn rows_at_once(&self, most: usize) -> usize {
        (self.end - self.row).min(most)
    }

    /// Returns whether the next row is the first of a segment.
    pub fn starts_segment(&self) -> bool {
        self.decoder.is_none()
    }

    /// Returns the plane of a row.
    pub fn plane(&self, row: usize) -> &'a [u8] {
        &self.parts.plane[row * self.plane_row..][..self.plane_row]
    }

    /// Decodes the next rows, at most [`Coded::rows_at_once`], into `values`, which holds [`Columns::padded`] entries
    /// per row. `rows` and `columns` are the classes. `escaped` is working memory; its content is ignored.
    pub fn rows(
        &mut self,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escaped: &mut Vec<u32>,
    ) -> Result<(), CodecError> {
        self.decode(rows.len(), rows, columns, values, escaped)
    }

    /// Decodes the next `count` rows, at most [`Coded::rows_at_once`], as one row, which is the same if their width is a multiple of
    /// the lanes. `classes` are those of their elements, one row after the other.
    pub fn joined(
        &mut self,
        count: usize,
        classes: &Columns,
        values: &mut [i32],
        escaped: &mut Vec<u32>,
    ) -> Result<(), CodecError> {
        self.decode(count, &[0], classes, values, escaped)
    }

    fn decode(
        &mut self,
        count: usize,
        rows: &[i32],
        columns: &Columns,
        values: &mut [i32],
        escaped: &mut Vec<u32>,
    ) -> Result<(), CodecError> {
        let segment = self.segment;
        let broken = |rule, clause| CodecError::Segment { segment, rule, clause };
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => {
                let (states, words, escapes) = self.parts.segments[segment];
                self.escapes = escapes;
                let decoder = Decoder::new(self.isa, self.lut, states, words);
                none.insert(decoder.ok_or(broken("a lane state is below 2^16", "8.4"))?)
            }
        };
        escaped.clear();
        let decoded = decoder.rows(rows, columns, values, escaped);
        decoded.map_err(|_| broken("the words end before the elements do", "8.4"))?;
        for &at in &*escaped {
            let code = u32::try_from(varint::read(&mut self.escapes)?);
            let code = code.map_err(|_| broken("an escape is 2^32 or more", "8.5"))?;
            values[at as usize] = escape_value(self.lut.kind(), code);
        }
        self.row += count;
        if self.row == self.end {
            if !decoder.is_finished() || !self.escapes.is_empty() {
                return Err(broken("at its end a lane state is not 2^16, or words or escapes are left", "8.4"));
            }
            (self.decoder, self.segment) = (None, segment + 1);
            self.end = segment_rows(self.segment, self.parts.segments.len(), self.height).end.min(self.height);
        }
        Ok(())
    }
}

/// Appends raw fields of `q` bits, from a row of the plane, below `values`: `value * 2^q + raw`, modulo 2^32 (SPEC
/// 10.1, 14.2).
pub fn join_plane(q: u8, plane: &[u8], values: &mut [i32]) {
    if q > 0 {
        let q = u32::from(q);
        let raw = |c: usize| field(plane, c as u64 * u64::from(q), q) as i32;
        values.iter_mut().enumerate().for_each(|(c, value)| *value = value.wrapping_shl(q) | raw(c));
    }
}

/// The parts of a unit.
struct Parts<'a> {
    /// Lane states, words, escapes.
    segments: Vec<([u32; LANES], &'a [u8], &'a [u8])>,
    plane: &'a [u8],
}

fn parts(unit: &[u8], height: usize, plane_bytes: usize) -> Result<Parts<'_>, CodecError> {
    let (&n, mut rest) = unit.split_first().ok_or(CodecError::Truncated("segments"))?;
    if n == 0 || usize::from(n) > MAX_SEGMENTS || usize::from(n) > height {
        let rule = "it must be 1 to 16 and at most the rows of the tile";
        return Err(CodecError::Field { field: "segments", value: u64::from(n), rule, clause: "8" });
    }
    let mut take = |n: usize, what| -> Result<_, CodecError> {
        let (taken, left) = rest.split_at_checked(n).ok_or(CodecError::Truncated(what))?;
        rest = left;
        Ok(taken)
    };
    let number = |b: &[u8]| b.iter().rev().fold(0u32, |n, &b| n << 8 | u32::from(b));
    let lengths: Vec<u32> = take(8 * usize::from(n), "lengths")?.chunks_exact(4).map(number).collect();
    let mut segments = Vec::with_capacity(usize::from(n));
    for pair in lengths.chunks_exact(2) {
        let mut states = [0; LANES];
        states.iter_mut().zip(take(4 * LANES, "lane states")?.chunks_exact(4)).for_each(|(x, b)| *x = number(b));
        let words = take((pair[0] as usize).saturating_mul(2), "words")?;
        segments.push((states, words, take(pair[1] as usize, "escapes")?));
    }
    let plane = take(plane_bytes, "plane")?;
    if !rest.is_empty() {
        return Err(CodecError::TrailingBytes(rest.len(), "8"));
    }
    Ok(Parts { segments, plane })
}
