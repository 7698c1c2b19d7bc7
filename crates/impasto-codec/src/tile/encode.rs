//! Coding the tiles of a tensor.

use impasto_core::{DType, Isa, Place};

use super::{MAX_SEGMENTS, segment_rows};
use crate::bits::BitWriter;
use crate::header::{Body, TensorHeader};
use crate::rans::encode_elements;
use crate::tables::Frequencies;
use crate::{exact, float, refinement};

/// Codes tiles of one layer of a tensor in mode float, lattice, refinement or exact.
pub struct TileEncoder<'a> {
    header: &'a TensorHeader,
    tables: Vec<Frequencies>,
    segments: usize,
}

impl<'a> TileEncoder<'a> {
    /// An encoder for the tiles of the layer with this tensor header, in `segments` segments each (1 to 16; fewer where a tile has fewer rows).
    pub fn new(header: &'a TensorHeader, segments: usize) -> Self {
        TileEncoder { header, tables: header.tables(), segments: segments.clamp(1, MAX_SEGMENTS) }
    }

    /// Codes floats: `elements` are the bytes of the tile, row by row. `None` as [`encode_elements`], or if the dtype has no float layout.
    pub fn float(&self, dtype: DType, place: &Place, elements: &[u8]) -> Option<Vec<u8>> {
        let layout = dtype.float_layout()?;
        let mut values = Vec::with_capacity(place.elements());
        let mut plane = BitWriter::default();
        for row in elements.chunks_exact((place.columns.len() * layout.size()).max(1)) {
            float::split_row(layout, row, &mut values, &mut plane);
        }
        self.unit(place, &values, plane.finish(), |_, sum| sum)
    }

    /// Codes the lattice integers of the tile, row by row. `None` as [`encode_elements`].
    pub fn lattice(&self, place: &Place, z: &[i32]) -> Option<Vec<u8>> {
        let (values, plane) = self.split(place, z.iter().copied());
        self.unit(place, &values, plane, |_, sum| sum)
    }

    /// Codes what makes the integers `coarse` of the layer below `fine`, both row by row. `None` as [`encode_elements`], or if the tensor header is
    /// not of kind refinement.
    ///
    /// # Panics
    /// If one of them does not hold the elements of the tile.
    pub fn refinement(&self, place: &Place, coarse: &[i32], fine: &[i32]) -> Option<Vec<u8>> {
        let Body::Refinement(header) = self.header.body else { return None };
        assert!(coarse.len() == place.elements() && fine.len() == coarse.len());
        let residual = |(&coarse, &fine)| refinement::residual(header.factor, coarse, fine);
        let values: Vec<i32> = coarse.iter().zip(fine).map(residual).collect();
        self.unit(place, &values, Vec::new(), |i, sum| refinement::class(sum, coarse[i]))
    }

    /// Codes what the bits of `elements` have more than the integers `z` of the layer below and its weights `predicted`; elements and
    /// weights as bytes of `dtype`, all row by row. `None` as [`encode_elements`], or if the dtype has no float layout.
    ///
    /// # Panics
    /// If one of them does not hold the elements of the tile.
    pub fn exact(&self, dtype: DType, place: &Place, z: &[i32], predicted: &[u8], elements: &[u8]) -> Option<Vec<u8>> {
        let layout = dtype.float_layout()?;
        let (width, size) = (place.columns.len(), place.elements() * layout.size());
        assert!(z.len() == place.elements() && predicted.len() == size && elements.len() == size);
        let sum = |i: usize| {
            let (r, c) = (place.rows.start + i / width, place.columns.start + i % width);
            self.header.row_classes.get(r) + self.header.column_classes.get(c)
        };
        let (mut p, mut bits) = (Vec::new(), Vec::new());
        exact::bits_of_row(Isa::best(), layout, predicted, &mut p);
        exact::bits_of_row(Isa::best(), layout, elements, &mut bits);
        let residuals = (0..z.len()).map(|i| exact::residual(layout, sum(i), z[i], p[i], bits[i]));
        let (values, plane) = self.split(place, residuals);
        self.unit(place, &values, plane, |i, sum| exact::class(layout, sum, z[i], p[i]))
    }

    /// Values without their low bits, and these as a plane (SPEC 8.6).
    fn split(&self, place: &Place, values: impl Iterator<Item = i32>) -> (Vec<i32>, Vec<u8>) {
        let (q, width) = (u32::from(self.header.plane), place.columns.len());
        let mut high = Vec::with_capacity(place.elements());
        let mut plane = BitWriter::default();
        for value in values {
            plane.put(value as u32, q);
            high.push(value >> q);
            if high.len() % width == 0 {
                plane.align();
            }
        }
        (high, plane.finish())
    }

    /// A unit of values, row by row, and of the plane. `class` gives the class of an element from its place in the tile and the sum of the
    /// classes of its row and column.
    fn unit(
        &self,
        place: &Place,
        values: &[i32],
        plane: Vec<u8>,
        class: impl Fn(usize, i32) -> i32,
    ) -> Option<Vec<u8>> {
        let (height, width) = (place.rows.len(), place.columns.len());
        let rows = self.header.row_classes.slice(place.rows.clone());
        let columns = self.header.column_classes.slice(place.columns.clone());
        let n = self.segments.min(height).max(1);
        let segments: Vec<_> = (0..n)
            .map(|j| {
                let of_segment = segment_rows(j, n, height);
                let first = of_segment.start;
                let class = |r: usize, c: usize| class((first + r) * width + c, rows[first + r] + columns[c]);
                let values = &values[first * width..of_segment.end * width];
                encode_elements(self.header.kind(), width, values, class, &self.tables)
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
