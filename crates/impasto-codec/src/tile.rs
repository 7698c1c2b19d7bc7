//! Tiles: a rectangle of a matrix to the bytes of a unit and back (SPEC 5 and 8).

use std::ops::Range;

use crate::bits::{BitWriter, field};
use crate::bytes;
use crate::class::Kind;
use crate::dtype::{DType, FloatLayout};
use crate::error::CodecError;
use crate::float;
use crate::head::Head;
use crate::lattice::{reconstruct_row, scale};
use crate::level::Level;
use crate::rans::{Columns, Decoder, LANES, encode_segment};
use crate::tables::{Frequencies, Lut};
use crate::varint;

/// Coding modes (SPEC 5).
pub mod mode {
    /// The elements as they are.
    pub const STORED: u8 = 0;
    /// Byte planes under Zstandard.
    pub const ZSTD: u8 = 1;
    /// What the tiles of a tensor share.
    pub const HEAD: u8 = 2;
    /// Lossless floats under scale classes.
    pub const FLOAT: u8 = 3;
    /// Lattice integers under scale classes.
    pub const LATTICE: u8 = 4;
}

/// Elements decoded before they are made weights: few enough to stay in the first-level cache.
const BATCH: usize = 2048;

/// Most segments of a tile.
pub const MAX_SEGMENTS: usize = 16;

/// The rows and columns of its matrix that a tile covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Rows of the matrix.
    pub rows: Range<usize>,
    /// Columns of the matrix.
    pub columns: Range<usize>,
}

impl Place {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// Rows of segment `j` of `n` in a tile of `height` rows (SPEC 8.1).
fn segment_rows(j: usize, n: usize, height: usize) -> Range<usize> {
    j * height / n..(j + 1) * height / n
}

/// Codes tiles of one tensor in mode float or lattice.
pub struct TileEncoder<'a> {
    head: &'a Head,
    tables: Vec<Frequencies>,
    segments: usize,
}

impl<'a> TileEncoder<'a> {
    /// An encoder for the tiles of the tensor with this head, in `segments` segments each (1 to 16; fewer where a tile has fewer rows).
    pub fn new(head: &'a Head, segments: usize) -> Self {
        TileEncoder { head, tables: head.tables(), segments: segments.clamp(1, MAX_SEGMENTS) }
    }

    /// Codes floats: `elements` are the bytes of the tile, row by row. `None` as [`encode_segment`], or if the dtype has no float layout.
    pub fn float(&self, dtype: DType, place: &Place, elements: &[u8]) -> Option<Vec<u8>> {
        let layout = dtype.float_layout()?;
        let mut values = Vec::with_capacity(place.elements());
        let mut plane = BitWriter::default();
        for row in elements.chunks_exact((place.columns.len() * layout.size()).max(1)) {
            float::split_row(layout, row, &mut values, &mut plane);
        }
        self.unit(place, &values, plane.finish())
    }

    /// Codes the lattice integers of the tile, row by row. `None` as [`encode_segment`].
    pub fn lattice(&self, place: &Place, z: &[i32]) -> Option<Vec<u8>> {
        let q = u32::from(self.head.plane);
        let values: Vec<i32> = z.iter().map(|&z| z >> q).collect();
        let mut plane = BitWriter::default();
        for row in z.chunks_exact(place.columns.len().max(1)) {
            row.iter().for_each(|&z| plane.put(z as u32, q));
            plane.align();
        }
        self.unit(place, &values, plane.finish())
    }

    fn unit(&self, place: &Place, values: &[i32], plane: Vec<u8>) -> Option<Vec<u8>> {
        let (height, width) = (place.rows.len(), place.columns.len());
        let rows = self.head.row_classes.slice(place.rows.clone());
        let columns = self.head.column_classes.slice(place.columns.clone());
        let n = self.segments.min(height).max(1);
        let segments: Vec<_> = (0..n)
            .map(|j| {
                let r = segment_rows(j, n, height);
                let values = &values[r.start * width..r.end * width];
                encode_segment(self.head.kind(), &rows[r], &columns, values, &self.tables)
            })
            .collect::<Option<_>>()?;
        let mut out = vec![n as u8];
        for segment in &segments {
            out.extend((segment.words.len() as u32).to_le_bytes());
            out.extend((segment.escapes.len() as u32).to_le_bytes());
        }
        for segment in &segments {
            out.extend(segment.states.iter().flat_map(|x| x.to_le_bytes()));
            out.extend(segment.words.iter().flat_map(|w| w.to_le_bytes()));
            out.extend(&segment.escapes);
        }
        out.extend(plane);
        Some(out)
    }
}

/// Codes elements as bytes: under Zstandard at `level`, or stored where that is not larger. Returns the mode and the unit.
///
/// # Errors
/// If the compression library refuses.
pub fn encode_bytes(elements: &[u8], dtype: DType, level: i32) -> Result<(u8, Vec<u8>), CodecError> {
    let packed = bytes::compress(elements, dtype.size(), level)?;
    Ok(if packed.len() < elements.len() { (mode::ZSTD, packed) } else { (mode::STORED, elements.to_vec()) })
}

/// Decodes the tiles of one tensor.
pub struct TileDecoder {
    dtype: DType,
    level: Level,
    head: Option<(Head, Lut)>,
}

impl TileDecoder {
    /// A decoder for a tensor of `dtype`; `head` is absent where all tiles are stored or under Zstandard.
    pub fn new(dtype: DType, head: Option<Head>, level: Level) -> Self {
        let head = head.map(|head| {
            let lut = head.lut();
            (head, lut)
        });
        TileDecoder { dtype, level, head }
    }

    /// The head.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref().map(|(head, _)| head)
    }

    /// Decodes a unit into `out`: the tile's rows, each `stride` bytes after the one before. What lies between rows is left alone.
    ///
    /// # Errors
    /// If the unit breaks the format. Memory beyond `out` is a few rows, or two tiles in mode zstd.
    ///
    /// # Panics
    /// If `out` does not hold the rows at that stride.
    pub fn decode(
        &self,
        mode: u8,
        unit: &[u8],
        place: &Place,
        out: &mut [u8],
        stride: usize,
    ) -> Result<(), CodecError> {
        let row_bytes = place.columns.len() * self.dtype.size();
        let wanted = place.rows.len() * row_bytes;
        if wanted == 0 {
            return Ok(());
        }
        assert!(stride >= row_bytes && out.len() >= (place.rows.len() - 1) * stride + row_bytes);
        let mut rows = Rows { out, stride, row_bytes };
        match mode {
            mode::STORED if unit.len() == wanted => rows.fill(unit),
            mode::STORED => return Err(CodecError::StoredSize { found: unit.len(), wanted }),
            mode::ZSTD => {
                let mut elements = vec![0; wanted];
                bytes::decompress(unit, self.dtype.size(), &mut elements)?;
                rows.fill(&elements);
            }
            mode::FLOAT => self.decode_float(unit, place, rows)?,
            mode::LATTICE => self.decode_lattice(unit, place, rows)?,
            other => return Err(CodecError::UnknownMode(other)),
        }
        Ok(())
    }

    fn head_of(&self, kind: Kind) -> Result<(&Head, &Lut), CodecError> {
        match &self.head {
            Some((head, lut)) if head.kind() == kind => Ok((head, lut)),
            _ => Err(CodecError::MissingHead(kind.name())),
        }
    }

    fn decode_float(&self, unit: &[u8], place: &Place, mut out: Rows) -> Result<(), CodecError> {
        let (head, lut) = self.head_of(Kind::Float)?;
        let layout: FloatLayout =
            self.dtype.float_layout().ok_or(CodecError::ModeDtype { mode: "float", dtype: self.dtype })?;
        let joiner = float::Joiner::new(self.level, layout);
        decode_rows(self.level, head, lut, unit, place, |r, v, plane| {
            joiner.row(v, plane, out.row(r));
        })
    }

    fn decode_lattice(&self, unit: &[u8], place: &Place, mut out: Rows) -> Result<(), CodecError> {
        let (head, lut) = self.head_of(Kind::Lattice)?;
        let Some(steps) = &head.steps else { return Err(CodecError::MissingHead("lattice")) };
        let scales =
            |indices: Option<Vec<i32>>, n| indices.map_or(vec![1.0; n], |i| i.into_iter().map(scale).collect());
        let columns: Vec<f32> =
            scales(steps.columns.as_ref().map(|a| a.slice(place.columns.clone())), place.columns.len());
        let rows: Vec<f32> = scales(steps.rows.as_ref().map(|a| a.slice(place.rows.clone())), place.rows.len());
        let q = u32::from(head.plane);
        let mut fine = Vec::new();
        decode_rows(self.level, head, lut, unit, place, |r, z, plane| {
            let z = if q == 0 {
                z
            } else {
                fine.clear();
                let raw = |c: usize| field(plane, c as u64 * u64::from(q), q) as i32;
                fine.extend(z.iter().enumerate().map(|(c, &z)| z.wrapping_shl(q) | raw(c)));
                &fine[..]
            };
            reconstruct_row(self.dtype, z, &columns, steps.step * rows[r], out.row(r));
        })
    }

    /// Decodes the integers `z` of a unit in mode lattice, row by row (SPEC 10.1).
    ///
    /// # Errors
    /// As [`TileDecoder::decode`].
    pub fn integers(&self, unit: &[u8], place: &Place, out: &mut [i32]) -> Result<(), CodecError> {
        assert_eq!(out.len(), place.elements());
        if out.is_empty() {
            return Ok(());
        }
        let (head, lut) = self.head_of(Kind::Lattice)?;
        let (q, width) = (u32::from(head.plane), place.columns.len());
        decode_rows(self.level, head, lut, unit, place, |r, z, plane| {
            for (c, (&z, out)) in z.iter().zip(&mut out[r * width..(r + 1) * width]).enumerate() {
                *out = z.wrapping_shl(q) | field(plane, c as u64 * u64::from(q), q) as i32;
            }
        })
    }
}

/// The rows of a tile where they are wanted.
struct Rows<'a> {
    out: &'a mut [u8],
    stride: usize,
    row_bytes: usize,
}

impl Rows<'_> {
    fn row(&mut self, r: usize) -> &mut [u8] {
        &mut self.out[r * self.stride..r * self.stride + self.row_bytes]
    }

    fn fill(&mut self, elements: &[u8]) {
        elements.chunks_exact(self.row_bytes).enumerate().for_each(|(r, row)| self.row(r).copy_from_slice(row));
    }
}

/// The parts of a unit in mode float or lattice.
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

/// Decodes the values of a unit of a tile that is not empty, row by row, and hands each row, with its part of the plane, to `row_done`.
fn decode_rows(
    level: Level,
    head: &Head,
    lut: &Lut,
    unit: &[u8],
    place: &Place,
    mut row_done: impl FnMut(usize, &[i32], &[u8]),
) -> Result<(), CodecError> {
    let (height, width) = (place.rows.len(), place.columns.len());
    let plane_row = (width * usize::from(head.plane)).div_ceil(8);
    let Parts { segments, plane } = parts(unit, height, plane_row * height)?;
    let rows = head.row_classes.slice(place.rows.clone());
    let columns = Columns::new(head.column_classes.slice(place.columns.clone()));
    let batch = (BATCH / columns.padded()).clamp(1, height);
    let mut values = vec![0; batch * columns.padded()];
    let mut escaped = Vec::new();
    let n = segments.len();
    for (j, (states, words, mut escapes)) in segments.into_iter().enumerate() {
        let broken = |rule, clause| CodecError::Segment { segment: j, rule, clause };
        let mut decoder = Decoder::new(level, lut, states, words).ok_or(broken("a lane state is below 2^16", "8.4"))?;
        let of_segment = segment_rows(j, n, height);
        for first in of_segment.clone().step_by(batch) {
            let rows = &rows[first..(first + batch).min(of_segment.end)];
            let values = &mut values[..rows.len() * columns.padded()];
            escaped.clear();
            let decoded = decoder.rows(rows, &columns, values, &mut escaped);
            decoded.map_err(|_| broken("the words end before the elements do", "8.4"))?;
            for &at in &escaped {
                let code = u32::try_from(varint::read(&mut escapes)?);
                let code = code.map_err(|_| broken("an escape is 2^32 or more", "8.5"))?;
                values[at as usize] = match lut.kind() {
                    Kind::Float => code as i32,
                    Kind::Lattice => varint::unzigzag(code),
                };
            }
            for (r, values) in (first..).zip(values.chunks_exact(columns.padded())) {
                row_done(r, &values[..width], &plane[r * plane_row..(r + 1) * plane_row]);
            }
        }
        if !decoder.is_finished() || !escapes.is_empty() {
            return Err(broken("lanes, words or escapes are not used up at its end", "8.4"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
