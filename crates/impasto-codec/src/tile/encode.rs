//! Coding the tiles of a tensor, or costing them without coding.

use std::ops::Range;
use std::sync::OnceLock;

use impasto_core::blocks::fields::{append_head, fields, head_bytes};
use impasto_core::{DType, FloatLayout, Isa, Place};

use super::syntax::{
    ExactRow, Sums, blocks_row, exact_row, float_row, lattice_row, refinement_row, trellis_refinement_row, trellis_row,
};
use super::{MAX_SEGMENTS, segment_rows};
use crate::bytes;
use crate::error::CodecError;
use crate::header::{Body, TensorHeader};
use crate::rans::Segment;
use crate::sink::{CodingTables, Cost, Prices, Recorder, SymbolSink};
use crate::trellis::States;

/// The content of a tile, row by row; each slice has one entry per element.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Mode float.
    Float {
        /// Bit fields of an element.
        layout: FloatLayout,
        /// Little-endian floats.
        elements: &'a [u8],
    },
    /// Mode lattice. With a trellis, the integers of each column of a segment must be a path through it.
    Lattice {
        /// Integers.
        z: &'a [i32],
    },
    /// Mode refinement. With a trellis, the integers of each column of a segment in this layer must be a path through it.
    Refinement {
        /// Integers of the layer below.
        coarse: &'a [i32],
        /// Integers of this layer.
        fine: &'a [i32],
    },
    /// Mode exact.
    Exact {
        /// Bit fields of an element.
        layout: FloatLayout,
        /// Integers of the layer below.
        z: &'a [i32],
        /// Weights of the layer below, as little-endian floats.
        predicted: &'a [u8],
        /// Little-endian floats.
        elements: &'a [u8],
    },
    /// Mode blocks, without the heads.
    Blocks {
        /// The dtype of the blocks.
        dtype: DType,
        /// Weights of the layer below.
        below: &'a [f32],
        /// Blocks.
        blocks: &'a [u8],
    },
}

impl Content<'_> {
    /// Returns whether the content is of the kind of `header` and has `n` elements.
    fn fits(&self, header: &TensorHeader, n: usize) -> bool {
        match (self, &header.body) {
            (Content::Float { layout, elements }, Body::Float) => {
                elements.len() == n * layout.size() && u32::from(header.plane) == layout.raw_bits()
            }
            (Content::Lattice { z }, Body::Lattice(_) | Body::Format(_)) => z.len() == n,
            (Content::Refinement { coarse, fine }, Body::Refinement(_)) => coarse.len() == n && fine.len() == n,
            (Content::Exact { layout, z, predicted, elements }, Body::Exact | Body::ExactOver(_)) => {
                let bytes = n * layout.size();
                z.len() == n && predicted.len() == bytes && elements.len() == bytes
            }
            (Content::Blocks { dtype, below, blocks }, Body::Blocks(wanted)) => {
                dtype == wanted && below.len() == n && blocks.len() * dtype.weights() == n * dtype.size()
            }
            _ => false,
        }
    }

    /// Returns whether rows of the tile, those of a segment, may follow each other in the trellis of the tensor header, if it has one.
    fn follows(&self, header: &TensorHeader, rows: Range<usize>, width: usize) -> bool {
        let (Some(trellis), Content::Lattice { z } | Content::Refinement { fine: z, .. }) = (header.trellis(), self)
        else {
            return true;
        };
        let mut states = States::new(trellis, width);
        rows.into_iter().all(|r| states.follow(Isa::best(), &z[r * width..(r + 1) * width]))
    }

    /// Passes row `r` to a sink.
    #[inline(always)]
    fn row(&self, header: &TensorHeader, sums: Sums, r: usize, sink: &mut impl SymbolSink) {
        let width = sums.columns.len();
        let elements = r * width..(r + 1) * width;
        let bytes = |layout: FloatLayout| elements.start * layout.size()..elements.end * layout.size();
        match *self {
            Content::Float { layout, elements } => float_row(sink, layout, sums, &elements[bytes(layout)]),
            Content::Lattice { z } if header.trellis().is_some() => trellis_row(sink, header.plane, sums, &z[elements]),
            Content::Lattice { z } => lattice_row(sink, header.plane, sums, &z[elements]),
            Content::Refinement { coarse, fine } => {
                let factor = match &header.body {
                    Body::Refinement(refinement) => refinement.factor,
                    _ => 1,
                };
                let (coarse, fine) = (&coarse[elements.clone()], &fine[elements]);
                match header.trellis() {
                    None => refinement_row(sink, factor, sums, coarse, fine),
                    Some(_) => trellis_refinement_row(sink, factor, sums, coarse, fine),
                }
            }
            Content::Exact { layout, z, predicted, elements: floats } => {
                let bytes = bytes(layout);
                let row = ExactRow { z: &z[elements], predicted: &predicted[bytes.clone()], elements: &floats[bytes] };
                exact_row(sink, layout, header.plane, sums, row);
            }
            Content::Blocks { dtype, below, blocks } => {
                let bytes = width / dtype.weights() * dtype.size();
                blocks_row(sink, dtype, sums, &below[elements], &blocks[r * bytes..(r + 1) * bytes]);
            }
        }
    }
}

/// Codes tiles of one layer of a tensor, in mode float, lattice, refinement or exact.
pub struct TileEncoder<'a> {
    header: &'a TensorHeader,
    tables: CodingTables,
    /// Computed when the first tile is costed.
    prices: OnceLock<Prices>,
    segments: usize,
}

impl<'a> TileEncoder<'a> {
    /// Creates an encoder for the tiles of the layer with this tensor header. Each tile gets `segments` segments
    /// (clamped to 1 to 16, and to the rows of the tile).
    pub fn new(header: &'a TensorHeader, segments: usize) -> Self {
        let tables = CodingTables::new(header.kind(), &header.tables());
        TileEncoder { header, tables, prices: OnceLock::new(), segments: segments.clamp(1, MAX_SEGMENTS) }
    }

    /// Codes a tile and returns its unit.
    ///
    /// Returns `None` if a value needs an escape and its table gives the escape no frequency, or if the content does
    /// not match the kind of the tensor header, the size of the tile or the trellis.
    pub fn encode(&self, place: &Place, content: &Content) -> Option<Vec<u8>> {
        let (height, width) = (place.rows.len(), place.columns.len());
        let n = self.segments.min(height).max(1);
        let mut recorder = Recorder::new(&self.tables, width, height.div_ceil(n) * width);
        let mut segments: Vec<Segment> = Vec::with_capacity(n);
        self.segments(place, content, |rows| {
            rows.hand_to(&mut recorder);
            segments.push(recorder.segment()?);
            Some(())
        })?;
        let words: usize = segments.iter().map(|segment| 2 * segment.words.len() + segment.escapes.len() + 136).sum();
        let plane = recorder.plane();
        let mut out = Vec::with_capacity(1 + words + plane.len());
        out.push(n as u8);
        for segment in &segments {
            out.extend((segment.words.len() as u32).to_le_bytes());
            out.extend((segment.escapes.len() as u32).to_le_bytes());
        }
        for segment in &segments {
            out.extend(segment.states.iter().flat_map(|x| x.to_le_bytes()));
            let start = out.len();
            out.resize(start + 2 * segment.words.len(), 0);
            out[start..].as_chunks_mut().0.iter_mut().zip(&segment.words).for_each(|(b, w)| *b = w.to_le_bytes());
            out.extend(&segment.escapes);
        }
        out.extend(plane);
        Some(out)
    }

    /// Returns the cost of the unit of a tile, without coding it; see [`Cost`] for its accuracy. Returns `None` in the
    /// same cases as [`TileEncoder::encode`].
    pub fn cost(&self, place: &Place, content: &Content) -> Option<Cost<'_>> {
        let prices = self.prices.get_or_init(|| Prices::new(self.header.kind(), &self.header.tables()));
        let mut cost = Cost::new(prices);
        self.segments(place, content, |rows| {
            rows.hand_to(&mut cost);
            cost.end_segment();
            Some(())
        })?;
        cost.bytes().map(|_| cost)
    }

    /// Calls `each` with the rows of each segment, in order.
    fn segments(&self, place: &Place, content: &Content, mut each: impl FnMut(Rows) -> Option<()>) -> Option<()> {
        if !content.fits(self.header, place.elements()) {
            return None;
        }
        let height = place.rows.len();
        let rows = self.header.row_classes.slice(place.rows.clone());
        let columns = self.header.column_classes.slice(place.columns.clone());
        let n = self.segments.min(height).max(1);
        (0..n).try_for_each(|j| {
            let of_segment = segment_rows(j, n, height);
            let first = of_segment.start;
            if !content.follows(self.header, of_segment.clone(), columns.len()) {
                return None;
            }
            each(Rows { header: self.header, content, first, rows: &rows[of_segment], columns: &columns })
        })
    }

    /// Codes floats. `elements` holds the bytes of the tile, row by row. Returns `None` in the same cases as
    /// [`TileEncoder::encode`], or if the dtype has no float layout.
    pub fn float(&self, dtype: DType, place: &Place, elements: &[u8]) -> Option<Vec<u8>> {
        self.encode(place, &Content::Float { layout: dtype.float_layout()?, elements })
    }

    /// Codes the lattice integers of a tile, row by row. Returns `None` in the same cases as [`TileEncoder::encode`].
    pub fn lattice(&self, place: &Place, z: &[i32]) -> Option<Vec<u8>> {
        self.encode(place, &Content::Lattice { z })
    }

    /// Codes a refinement of the integers `coarse` of the layer below to `fine`, both row by row. Returns `None` in the
    /// same cases as [`TileEncoder::encode`].
    pub fn refinement(&self, place: &Place, coarse: &[i32], fine: &[i32]) -> Option<Vec<u8>> {
        self.encode(place, &Content::Refinement { coarse, fine })
    }

    /// Codes the bits of `elements`, given the integers `z` and the weights `predicted` of the layer below. Elements
    /// and weights are bytes of `dtype`; everything is row by row. Returns `None` in the same cases as
    /// [`TileEncoder::encode`], or if the dtype has no float layout.
    pub fn exact(&self, dtype: DType, place: &Place, z: &[i32], predicted: &[u8], elements: &[u8]) -> Option<Vec<u8>> {
        self.encode(place, &Content::Exact { layout: dtype.float_layout()?, z, predicted, elements })
    }
}

impl TileEncoder<'_> {
    /// Codes the blocks of a tile, given the weights `below` of the layer below, everything row by row. Heads are
    /// compressed at a Zstandard level. Returns `None` in the same cases as [`TileEncoder::encode`].
    ///
    /// # Errors
    /// If Zstandard fails.
    pub fn blocks(
        &self,
        place: &Place,
        below: &[f32],
        blocks: &[u8],
        compression: i32,
    ) -> Result<Option<Vec<u8>>, CodecError> {
        let Body::Blocks(dtype) = self.header.body else { return Ok(None) };
        let mut heads = Vec::with_capacity(blocks.len() / dtype.size() * head_bytes(dtype));
        blocks.chunks_exact(dtype.size()).for_each(|block| append_head(dtype, block, &mut heads));
        let frame = bytes::compress(&heads, head_bytes(dtype), compression)?;
        let mut unit = (frame.len() as u32).to_le_bytes().to_vec();
        unit.extend(frame);
        if !fields(dtype).is_empty() {
            let Some(integers) = self.encode(place, &Content::Blocks { dtype, below, blocks }) else { return Ok(None) };
            unit.extend(integers);
        }
        Ok(Some(unit))
    }
}

/// The rows of a segment.
struct Rows<'a> {
    header: &'a TensorHeader,
    content: &'a Content<'a>,
    /// Index of the first row within the tile.
    first: usize,
    /// Classes of these rows, and of the columns.
    rows: &'a [i32],
    columns: &'a [i32],
}

impl Rows<'_> {
    fn hand_to(&self, sink: &mut impl SymbolSink) {
        for (r, &row) in (self.first..).zip(self.rows) {
            self.content.row(self.header, Sums { row, columns: self.columns }, r, sink);
        }
    }
}
