//! Decoding the tiles of a tensor, up to a given layer.

use impasto_core::{
    DType, FloatLayout, Isa, Mode, Place, blocks,
    lattice::{add_row_at, reconstruct_row_at, row_scale, scale, write_over_base, write_row_at},
    values,
};

use super::blocks::Blocks;
use super::coded::{Coded, Layer, join_plane};
use crate::bytes;
use crate::class::Kind;
use crate::error::CodecError;
use crate::format::Dequantizer;
use crate::header::{Body, Steps, TensorHeader, check_row_steps};
use crate::index::IndexArray;
use crate::low_rank::LowRank;
use crate::rans::{Columns, LANES};
use crate::transform::Reference;
use crate::trellis::States;
use crate::{digits, exact, float, refinement, transform};

/// Number of elements decoded before they are converted to weights; small enough for the L1 cache.
const BATCH: usize = 2048;

/// The unit of a tile in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit<'a> {
    /// Coding mode.
    pub mode: Mode,
    /// Content.
    pub bytes: &'a [u8],
}

/// Decodes the tiles of one tensor.
pub struct TileDecoder {
    dtype: DType,
    isa: Isa,
    /// Whether the tensor is predicted from a base (SPEC 21).
    is_delta: bool,
    /// In order, from layer 0 up.
    layers: Vec<Layer>,
}

impl TileDecoder {
    /// Creates a decoder for a tensor of `dtype`. `headers` holds the tensor headers from layer 0 up; it is empty if
    /// all tiles are in mode stored or zstd.
    ///
    /// # Errors
    /// If a tensor header violates SPEC 6 for this dtype, is in a layer where its kind is not allowed (SPEC 6, 12.2),
    /// or has steps that are not finite (SPEC 12.4).
    pub fn new(dtype: DType, headers: Vec<TensorHeader>, isa: Isa) -> Result<Self, CodecError> {
        TileDecoder::check(dtype, &headers, false).map_err(|(_, error)| error)?;
        Ok(TileDecoder { dtype, isa, is_delta: false, layers: headers.into_iter().map(Layer::new).collect() })
    }

    /// Creates a decoder for a tensor that is predicted from a base (SPEC 21); otherwise like [`TileDecoder::new`].
    ///
    /// # Errors
    /// As for [`TileDecoder::new`], and if a tensor header violates SPEC 21.6.
    pub fn delta(dtype: DType, headers: Vec<TensorHeader>, isa: Isa) -> Result<Self, CodecError> {
        TileDecoder::check(dtype, &headers, true).map_err(|(_, error)| error)?;
        Ok(TileDecoder { dtype, isa, is_delta: true, layers: headers.into_iter().map(Layer::new).collect() })
    }

    /// Returns whether a tile in this mode in layer 0 needs the elements of the base, or of the reference.
    pub fn needs_base(&self, mode: Mode) -> bool {
        self.is_delta && matches!(mode, Mode::SAME | Mode::EXACT | Mode::LATTICE)
    }

    /// Checks tensor headers as [`TileDecoder::new`] does, or as [`TileDecoder::delta`].
    ///
    /// # Errors
    /// The number of the first invalid one, and its error.
    pub fn check(dtype: DType, headers: &[TensorHeader], is_delta: bool) -> Result<(), (usize, CodecError)> {
        let row_steps = headers.first().and_then(TensorHeader::steps).and_then(|steps| steps.rows.as_ref());
        let mut below = None;
        for (layer, header) in headers.iter().enumerate() {
            let at = |error| (layer, error);
            header.check(dtype).map_err(at)?;
            if is_delta && matches!(header.body, Body::Format(_) | Body::Blocks(_)) {
                return Err(at(CodecError::DeltaHeader));
            }
            if matches!(header.body, Body::ExactOver(_)) && !(is_delta && layer == 0) {
                return Err(at(CodecError::ExactOver));
            }
            let fits = match header.kind() {
                Kind::Exact if is_delta && below.is_none() => true,
                Kind::Float | Kind::Lattice | Kind::Trellis => below.is_none(),
                Kind::Refinement | Kind::TrellisRefinement | Kind::Exact => {
                    below.is_some_and(|below: Kind| matches!(below.without_trellis(), Kind::Lattice | Kind::Refinement))
                }
            };
            if !fits {
                return Err(at(CodecError::HeaderLayer { layer, kind: header.mode() }));
            }
            if let Some((step, _)) = header.step().filter(|_| layer > 0) {
                check_row_steps(step, row_steps, header.multipliers(), "12.4").map_err(at)?;
            }
            if header.mode() == Mode::REFINEMENT && headers[0].groups().is_some() {
                return Err(at(CodecError::Format("a refinement above a tensor with a format", "20.4")));
            }
            below = Some(header.kind());
        }
        Ok(())
    }

    /// Returns the tensor header of layer 0.
    pub fn header(&self) -> Option<&TensorHeader> {
        self.headers().next()
    }

    /// Returns the tensor headers, from layer 0 up.
    pub fn headers(&self) -> impl Iterator<Item = &TensorHeader> {
        self.layers.iter().map(|layer| &layer.header)
    }

    /// Decodes a tile into `out`. Each row begins `stride` bytes after the previous one; bytes between rows are left
    /// unchanged.
    ///
    /// `units` holds the units of the tile, from layer 0 up to the layer to decode. Besides `out`, decoding needs
    /// memory for a few rows, regardless of the number of layers, or for two tiles in modes zstd and digits.
    ///
    /// # Errors
    /// If a unit violates the format; [`CodecError::Call`] if `units` is empty, `out` is too small for the rows at that
    /// stride, or the place is outside the matrix of the tensor headers.
    pub fn decode(&self, units: &[Unit], place: &Place, out: &mut [u8], stride: usize) -> Result<(), CodecError> {
        self.decode_predicted(units, None, place, out, stride)
    }

    /// Decodes a tile like [`TileDecoder::decode`], of a tensor with a reference (SPEC 3.4.6) or a base (SPEC 21).
    /// `reference` holds the elements of the reference or the base at the same place, as this dtype, little-endian, row-major;
    /// [`transform::needs_reference`] and [`TileDecoder::needs_base`] say whether a tile needs them.
    ///
    /// # Errors
    /// As for [`TileDecoder::decode`]; [`CodecError::Call`] if there is not one element for each of the tile.
    pub fn decode_predicted(
        &self,
        units: &[Unit],
        reference: Option<&[u8]>,
        place: &Place,
        out: &mut [u8],
        stride: usize,
    ) -> Result<(), CodecError> {
        let row_bytes = place.columns.len() * self.dtype.size();
        let wanted = place.rows.len().saturating_mul(row_bytes);
        if wanted == 0 {
            return Ok(());
        }
        let (&base, above) = self.check_call(units, place)?;
        let mut rows = Rows::new(out, stride, row_bytes, place)?;
        let elements = match reference {
            _ if !self.needs_base(base.mode) => None,
            Some(elements) if elements.len() == wanted => Some(elements),
            _ => return Err(CodecError::Call("a tile of a delta needs one element of the base for each of its own")),
        };
        if let Some(elements) = elements.filter(|_| base.mode.replaces_base()) {
            rows.fill(elements);
            return self.decode_in_place(units, place, out, stride);
        }
        if base.mode == Mode::LATTICE {
            return self.decode_lattice(base, above, elements, place, rows);
        }
        if base.mode == Mode::TRANSFORM {
            return self.decode_transform(base, above, reference, place, rows);
        }
        if let Some(unit) = above.first() {
            return Err(CodecError::TileLayer { layer: 1, mode: unit.mode });
        }
        self.decode_alone(base.mode, base, place, rows)
    }

    /// Decodes a tile in mode same or exact of a tensor with a base (SPEC 21) where the elements of the base are: `out` holds these,
    /// in this dtype, and receives those of the tile. Otherwise like [`TileDecoder::decode`].
    ///
    /// # Errors
    /// As for [`TileDecoder::decode`]; [`CodecError::Call`] if the tile is in another mode.
    pub fn decode_in_place(
        &self,
        units: &[Unit],
        place: &Place,
        out: &mut [u8],
        stride: usize,
    ) -> Result<(), CodecError> {
        let row_bytes = place.columns.len() * self.dtype.size();
        if place.rows.is_empty() || row_bytes == 0 {
            return Ok(());
        }
        let (&base, above) = self.check_call(units, place)?;
        let rows = Rows::new(out, stride, row_bytes, place)?;
        if let Some(unit) = above.first() {
            return Err(CodecError::TileLayer { layer: 1, mode: unit.mode });
        }
        match base.mode {
            _ if !self.is_delta || !base.mode.replaces_base() => {
                Err(CodecError::Call("only tiles in modes same and exact take the place of the base"))
            }
            Mode::SAME if !base.bytes.is_empty() => Err(CodecError::SameSize(base.bytes.len())),
            Mode::SAME => Ok(()),
            _ => self.decode_exact(base, place, rows),
        }
    }

    /// Decodes a tile in layer 0 that needs no other elements.
    fn decode_alone(&self, mode: Mode, base: Unit, place: &Place, mut rows: Rows) -> Result<(), CodecError> {
        let wanted = place.rows.len() * rows.row_bytes;
        match mode {
            Mode::STORED if base.bytes.len() == wanted => rows.fill(base.bytes),
            Mode::STORED => return Err(CodecError::StoredSize { found: base.bytes.len(), wanted }),
            Mode::ZSTD => {
                let size = self.dtype.size();
                let planes = bytes::decompress(base.bytes, wanted)?;
                (0..place.rows.len()).for_each(|r| bytes::from_planes(&planes, size, r, rows.row(r)));
            }
            Mode::FLOAT => self.decode_float(base, place, rows)?,
            Mode::DIGITS => {
                // Rows without padding are decoded where they go.
                let size = self.dtype.size();
                if rows.stride == rows.row_bytes {
                    return digits::decode(self.isa, base.bytes, size, &mut rows.out[..wanted]);
                }
                let mut elements = vec![0; wanted];
                digits::decode(self.isa, base.bytes, size, &mut elements)?;
                rows.fill(&elements);
            }
            mode if mode.is_above() => return Err(CodecError::TileLayer { layer: 0, mode }),
            other => return Err(CodecError::UnknownMode(other)),
        }
        Ok(())
    }

    /// Decodes the integers of a tile, row by row (SPEC 10.1, 13.2), in the highest layer of `units` that has integers.
    /// `units` is as in [`TileDecoder::decode`]; rows begin `stride` entries apart in `out`.
    ///
    /// # Errors
    /// As for [`TileDecoder::decode`].
    pub fn integers(&self, units: &[Unit], place: &Place, out: &mut [i32], stride: usize) -> Result<(), CodecError> {
        let (&base, above) = self.check_call(units, place)?;
        let width = place.columns.len();
        if place.elements() == 0 {
            return Ok(());
        }
        if stride < width || out.len() < (place.rows.len() - 1).saturating_mul(stride).saturating_add(width) {
            return Err(CodecError::Call("the output has no room for the rows of the tile at this stride"));
        }
        let above = match above.split_last() {
            Some((last, below)) if last.mode.is_exact_layer() => below,
            _ => above,
        };
        // Rows without padding are decoded where they go.
        if base.mode == Mode::LATTICE && above.is_empty() && stride == width && width.is_multiple_of(LANES) {
            let layer = self.layer(0, Mode::LATTICE)?;
            if layer.header.trellis().is_none() {
                return base_integers(self.isa, layer, base.bytes, place, out);
            }
        }
        self.lattice_rows(base, above, place, |r, z| {
            out[r * stride..][..width].copy_from_slice(z);
            Ok(())
        })
    }

    /// Decodes the blocks of a tile (SPEC 16), row by row, into `out`. `units` is as in [`TileDecoder::decode`], and ends
    /// with a unit in mode blocks. Rows are `stride` bytes apart.
    ///
    /// # Errors
    /// As for [`TileDecoder::decode`].
    pub fn blocks(&self, units: &[Unit], place: &Place, out: &mut [u8], stride: usize) -> Result<(), CodecError> {
        let (&base, above) = self.check_call(units, place)?;
        if place.elements() == 0 {
            return Ok(());
        }
        let row_bytes = self.block_dtype().map_or(0, |dtype| place.columns.len() / dtype.weights() * dtype.size());
        let mut rows = Rows::new(out, stride, row_bytes, place)?;
        self.block_rows(base, above, place, |r, _, blocks| rows.row(r).copy_from_slice(blocks))
    }

    /// Returns the dtype of the blocks, if the last layer is one of blocks.
    pub fn block_dtype(&self) -> Option<DType> {
        match self.layers.last()?.header.body {
            Body::Blocks(dtype) => Some(dtype),
            _ => None,
        }
    }

    /// Splits off the unit in layer 0. Checks that there is one, and that the place is inside the matrix.
    fn check_call<'u, 'b>(
        &self,
        units: &'u [Unit<'b>],
        place: &Place,
    ) -> Result<(&'u Unit<'b>, &'u [Unit<'b>]), CodecError> {
        let split = units.split_first().ok_or(CodecError::Call("a tile needs at least one unit"))?;
        if !self.headers().all(|header| header.covers(place)) {
            return Err(CodecError::Call("the tile lies outside the matrix of its tensor header"));
        }
        Ok(split)
    }

    /// Returns layer number `layer`, if it is for tiles in mode `mode`.
    fn layer(&self, layer: usize, mode: Mode) -> Result<&Layer, CodecError> {
        let found = self.layers.get(layer).filter(|layer| layer.header.mode() == mode);
        found.ok_or(CodecError::MissingHeader(mode))
    }

    fn float_layout(&self, mode: Mode) -> Result<FloatLayout, CodecError> {
        self.dtype.float_layout().ok_or(CodecError::ModeDtype { mode, dtype: self.dtype })
    }

    fn decode_float(&self, unit: Unit, place: &Place, mut out: Rows) -> Result<(), CodecError> {
        let layer = self.layer(0, Mode::FLOAT)?;
        let joiner = float::Joiner::new(self.isa, self.float_layout(Mode::FLOAT)?);
        base_rows(self.isa, layer, unit.bytes, place, |r, v, plane| {
            joiner.row(v, plane, out.row(r));
            Ok(())
        })
    }

    /// Decodes the weights of a tile in mode transform, in all its layers.
    fn decode_transform(
        &self,
        base: Unit,
        above: &[Unit],
        reference: Option<&[u8]>,
        place: &Place,
        mut out: Rows,
    ) -> Result<(), CodecError> {
        let missing = || CodecError::MissingHeader(Mode::TRANSFORM);
        if self.header().is_some_and(|header| header.groups().is_some()) {
            return Err(CodecError::Format("a tile in mode transform of a tensor with a format", "20.4"));
        }
        let steps = self.header().and_then(TensorHeader::steps).ok_or_else(missing)?;
        let mut units = vec![base.bytes];
        for (layer, unit) in (1..).zip(above) {
            if unit.mode != Mode::TRANSFORM {
                return Err(CodecError::TileLayer { layer, mode: unit.mode });
            }
            self.layer(layer, Mode::REFINEMENT).map_err(|_| missing())?;
            units.push(unit.bytes);
        }
        let reference = reference.map(|elements| Reference { elements, dtype: self.dtype, steps, place });
        let sides = [place.rows.len(), place.columns.len()];
        let (parameters, samples) = transform::decode_layers(&units, sides, steps.step, reference.as_ref())?;
        let step = parameters.step(steps.step);
        check_row_steps(step, steps.rows.as_ref(), None, "17.2")?;
        let mut weights = self.at_step((step * transform::UNIT, 0), steps, None, place);
        for (r, row) in samples.rows().take(place.rows.len()).enumerate() {
            weights.row(r, &row[..place.columns.len()], None, out.row(r));
        }
        Ok(())
    }

    /// Decodes a tile in mode exact in layer 0 over the elements of the base in `out`.
    ///
    /// Classes depend on the base alone, so several rows are decoded together.
    fn decode_exact(&self, unit: Unit, place: &Place, mut out: Rows) -> Result<(), CodecError> {
        let (layer, layout) = (self.layer(0, Mode::EXACT)?, self.float_layout(Mode::EXACT)?);
        let (isa, width) = (self.isa, place.columns.len());
        let mut coded = Coded::new(isa, layer, unit.bytes, place)?;
        let low_rank = layer.header.low_rank();
        let rows = layer.header.row_classes.slice(place.rows.clone());
        let columns = layer.header.column_classes.slice(place.columns.clone());
        // Rows that end within the lanes are decoded one by one.
        let batch = if width.is_multiple_of(LANES) { (BATCH / width).max(1) } else { 1 };
        let mut buffer = Buffer::new(batch.min(rows.len()) * width);
        let (mut elements, mut work) = (Vec::new(), Default::default());
        let mut first = 0;
        while first < rows.len() {
            let count = coded.rows_at_once(batch);
            if buffer.classes.width() != count * width {
                buffer = Buffer::new(count * width);
            }
            buffer.classes.update(isa, |classes| {
                for (r, classes) in (first..).zip(classes.chunks_exact_mut(width)) {
                    let row = out.row(r);
                    if let Some(low_rank) = low_rank {
                        elements.clear();
                        elements.extend_from_slice(row);
                        let at = (place.rows.start + r, place.columns.clone());
                        low_rank.add_to_base(isa, self.dtype, at, &elements, row, &mut work);
                    }
                    exact::classes_over(isa, layout, rows[r], &columns, row, classes);
                }
            });
            let Buffer { classes, values, escaped } = &mut buffer;
            coded.joined(count, classes, values, escaped)?;
            for (r, values) in (first..first + count).zip(values.chunks_exact_mut(width)) {
                join_plane(layer.header.plane, coded.plane(r), values);
                exact::move_row(isa, layout, values, out.row(r));
            }
            first += count;
        }
        Ok(())
    }

    /// Decodes the weights of a tile in mode lattice, or its elements if the last of the units `above` is in mode
    /// exact. `base_elements` are those of the base, if the tensor has one.
    fn decode_lattice(
        &self,
        base: Unit,
        above: &[Unit],
        base_elements: Option<&[u8]>,
        place: &Place,
        mut out: Rows,
    ) -> Result<(), CodecError> {
        let (refinements, mut exact) = match above.split_last() {
            Some((last, _)) if last.mode == Mode::BLOCKS => {
                let mut weights = vec![0.0; place.columns.len()];
                return self.block_rows(base, above, place, |r, dtype, blocks| {
                    blocks::dequantize(dtype, blocks, &mut weights);
                    let bytes = out.row(r).as_chunks_mut().0.iter_mut();
                    bytes.zip(&weights).for_each(|(bytes, weight)| *bytes = weight.to_le_bytes());
                });
            }
            Some((last, refinements)) if last.mode == Mode::EXACT => {
                let layer = self.layer(above.len(), Mode::EXACT)?;
                let elements = Exact::new(self.isa, layer, self.float_layout(Mode::EXACT)?, last.bytes, place)?;
                (refinements, Some(elements))
            }
            _ => (above, None),
        };
        let mut weights = self.reconstruction(refinements, exact.is_none(), place)?;
        let mut signs = Vec::new();
        self.lattice_rows(base, refinements, place, |r, z| {
            let of_base = base_elements.map(|elements| &elements[r * out.row_bytes..][..out.row_bytes]);
            let out = out.row(r);
            weights.row(r, z, of_base, out);
            match &mut exact {
                None => Ok(()),
                Some(exact) if of_base.is_some() => exact.row_by_sign(out),
                Some(exact) => exact.row(weights.signs(z, &mut signs), out),
            }
        })
    }

    /// Decodes a tile whose last unit is in mode blocks, and calls `row_done` with the number of each row, the dtype and
    /// the blocks.
    fn block_rows(
        &self,
        base: Unit,
        above: &[Unit],
        place: &Place,
        mut row_done: impl FnMut(usize, DType, &[u8]),
    ) -> Result<(), CodecError> {
        let missing = || CodecError::MissingHeader(Mode::BLOCKS);
        let (last, refinements) =
            above.split_last().filter(|(last, _)| last.mode == Mode::BLOCKS).ok_or_else(missing)?;
        let layer = self.layer(above.len(), Mode::BLOCKS)?;
        let Body::Blocks(dtype) = layer.header.body else { return Err(missing()) };
        let mut blocks = Blocks::new(self.isa, layer, dtype, last.bytes, place)?;
        let mut weights = self.reconstruction(refinements, false, place)?;
        let mut below = vec![0; place.columns.len() * self.dtype.size()];
        self.lattice_rows(base, refinements, place, |r, z| {
            weights.row(r, z, None, &mut below);
            row_done(r, dtype, blocks.row(&below)?);
            Ok(())
        })
    }

    /// Returns what turns the integers of a tile in the layer of the last of its `refinements` into weights. Multipliers are
    /// for weights that are read, not for those that a layer above is predicted from (SPEC 12.5).
    fn reconstruction(&self, refinements: &[Unit], are_read: bool, place: &Place) -> Result<Weights<'_>, CodecError> {
        let missing = || CodecError::MissingHeader(Mode::LATTICE);
        let base = &self.layer(0, Mode::LATTICE)?.header;
        if let Some(groups) = base.groups() {
            return Ok(Weights::Format(Dequantizer::new(self.dtype, groups, place)));
        }
        let Some(steps) = base.steps() else { return Err(missing()) };
        let header = &self.layers.get(refinements.len()).ok_or_else(missing)?.header;
        let step = header.step().ok_or_else(missing)?;
        let multipliers = header.multipliers().filter(|_| are_read);
        Ok(Weights::Lattice(self.at_step(step, steps, multipliers, place)))
    }

    /// Returns what turns integers into weights at a step and an offset, with the row and column steps and the low-rank part
    /// of `steps`, and these multipliers.
    fn at_step<'s>(
        &self,
        (step, offset): (f32, u8),
        steps: &'s Steps,
        multipliers: Option<&IndexArray>,
        place: &Place,
    ) -> Reconstruction<'s> {
        let columns = match &steps.columns {
            Some(steps) => steps.slice(place.columns.clone()).into_iter().map(scale).collect(),
            None => vec![1.0; place.columns.len()],
        };
        let of_row = |array: Option<&IndexArray>, row| array.map_or(0, |array| array.get(row));
        let row_step = |row| step * row_scale(of_row(steps.rows.as_ref(), row), of_row(multipliers, row));
        let rows = place.rows.clone().map(row_step).collect();
        let (low_rank, place) = (steps.low_rank.as_ref(), place.clone());
        let (added, of_base) = (Vec::new(), Vec::new());
        Reconstruction { isa: self.isa, dtype: self.dtype, offset, rows, columns, low_rank, place, added, of_base }
    }

    /// Decodes the integers of a tile up to the last of its `refinements`, and calls `row_done` with the number and the
    /// integers of each row.
    fn lattice_rows(
        &self,
        base: Unit,
        refinements: &[Unit],
        place: &Place,
        mut row_done: impl FnMut(usize, &[i32]) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        if base.mode != Mode::LATTICE {
            return Err(CodecError::TileLayer { layer: 0, mode: base.mode });
        }
        let layer = self.layer(0, Mode::LATTICE)?;
        let mut finer = Vec::with_capacity(refinements.len());
        for (layer, unit) in (1..).zip(refinements) {
            if unit.mode != Mode::REFINEMENT {
                return Err(CodecError::TileLayer { layer, mode: unit.mode });
            }
            let layer = self.layer(layer, Mode::REFINEMENT)?;
            let Body::Refinement(header) = &layer.header.body else { continue };
            let states = header.trellis.map(|trellis| States::new(trellis, place.columns.len()));
            finer.push((header.factor, states, Above::new(self.isa, layer, unit.bytes, place)?));
        }
        let mut buffer = Buffer::new(if finer.is_empty() { 0 } else { place.columns.len() });
        base_lattice_rows(self.isa, layer, base.bytes, place, |r, z| {
            for (factor, states, above) in &mut finer {
                if let Some(states) = states.as_mut().filter(|_| above.coded.starts_segment()) {
                    states.restart();
                }
                buffer.classes.update(self.isa, |classes| {
                    above.sums(classes);
                    refinement::classes_of_row(self.isa, classes, z);
                    states.iter().for_each(|states| states.classes_above(self.isa, *factor, z, classes));
                });
                let d = above.row(&mut buffer)?;
                match states {
                    None => refinement::refine_row(self.isa, *factor, z, d),
                    Some(states) => states.refine(self.isa, *factor, z, d),
                }
            }
            row_done(r, z)
        })
    }
}

/// What turns the integers of a tile into weights.
enum Weights<'a> {
    Lattice(Reconstruction<'a>),
    Format(Dequantizer<'a>),
}

impl Weights<'_> {
    /// Writes the weights of row `r` of the tile, whose integers are `z`, and of the base, whose elements are `base`.
    fn row(&mut self, r: usize, z: &[i32], base: Option<&[u8]>, out: &mut [u8]) {
        match self {
            Weights::Lattice(lattice) => lattice.row(r, z, base, out),
            // A tensor with a base has no format.
            Weights::Format(format) => format.row(r, z, out),
        }
    }

    /// Returns integers with the signs of those of a row, for an exact layer. `room` is for them.
    fn signs<'z>(&self, z: &'z [i32], room: &'z mut Vec<i32>) -> &'z [i32] {
        match self {
            Weights::Lattice(_) => z,
            Weights::Format(format) => {
                format.signs(z, room);
                room
            }
        }
    }
}

/// The steps of a tile, and what is added to its weights.
struct Reconstruction<'a> {
    isa: Isa,
    dtype: DType,
    offset: u8,
    /// The step of each row, and the scale of each column.
    rows: Vec<f32>,
    columns: Vec<f32>,
    low_rank: Option<&'a LowRank>,
    place: Place,
    /// The sum of the low-rank part and the lattice in the current row, and the weights of the base there.
    added: Vec<f32>,
    of_base: Vec<f32>,
}

impl Reconstruction<'_> {
    /// Writes the weights of row `r` of the tile, whose integers are `z`, and of the base, whose elements are `base`.
    fn row(&mut self, r: usize, z: &[i32], base: Option<&[u8]>, out: &mut [u8]) {
        let Reconstruction { isa, dtype, offset, rows, columns, low_rank, place, added, of_base } = self;
        match low_rank {
            None if base.is_none() => {
                return reconstruct_row_at(*isa, *dtype, z, *offset, columns, rows[r], out);
            }
            None => {
                added.clear();
                added.resize(z.len(), 0.0);
            }
            Some(low_rank) => low_rank.row(*isa, place.rows.start + r, place.columns.clone(), added),
        }
        add_row_at(*isa, z, *offset, columns, rows[r], added);
        match base {
            None => write_row_at(*isa, *dtype, added, out),
            Some(elements) => {
                of_base.clear();
                values::to_f32(*dtype, elements, of_base);
                write_over_base(*isa, *dtype, added, of_base, elements, out);
            }
        }
    }
}

/// The rows of a tile in the output.
struct Rows<'a> {
    out: &'a mut [u8],
    stride: usize,
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    fn new(out: &'a mut [u8], stride: usize, row_bytes: usize, place: &Place) -> Result<Rows<'a>, CodecError> {
        let room = place.rows.len().saturating_sub(1).saturating_mul(stride).saturating_add(row_bytes);
        if stride < row_bytes || out.len() < room {
            return Err(CodecError::Call("the output has no room for the rows of the tile at this stride"));
        }
        Ok(Rows { out, stride, row_bytes })
    }

    fn row(&mut self, r: usize) -> &mut [u8] {
        &mut self.out[r * self.stride..r * self.stride + self.row_bytes]
    }

    fn fill(&mut self, elements: &[u8]) {
        elements.chunks_exact(self.row_bytes).enumerate().for_each(|(r, row)| self.row(r).copy_from_slice(row));
    }
}

/// Decodes the values of a unit in layer 0 of a nonempty tile, and calls `row_done` with the number, the values and the
/// plane of each row.
fn base_rows(
    isa: Isa,
    layer: &Layer,
    unit: &[u8],
    place: &Place,
    mut row_done: impl FnMut(usize, &mut [i32], &[u8]) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let (height, width) = (place.rows.len(), place.columns.len());
    let mut coded = Coded::new(isa, layer, unit, place)?;
    let rows = layer.header.row_classes.slice(place.rows.clone());
    let columns = Columns::new(layer.header.column_classes.slice(place.columns.clone()));
    let batch = (BATCH / columns.padded()).clamp(1, height);
    let mut values = vec![0; batch * columns.padded()];
    let mut escaped = Vec::new();
    let mut first = 0;
    while first < height {
        let rows = &rows[first..first + coded.rows_at_once(batch)];
        let values = &mut values[..rows.len() * columns.padded()];
        coded.rows(rows, &columns, values, &mut escaped)?;
        for (r, values) in (first..).zip(values.chunks_exact_mut(columns.padded())) {
            row_done(r, &mut values[..width], coded.plane(r))?;
        }
        first += rows.len();
    }
    Ok(())
}

/// Decodes the integers of a unit in mode lattice, and calls `row_done` with the number and the integers of each row.
fn base_lattice_rows(
    isa: Isa,
    layer: &Layer,
    unit: &[u8],
    place: &Place,
    mut row_done: impl FnMut(usize, &mut [i32]) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let Some(trellis) = layer.header.trellis() else {
        return base_rows(isa, layer, unit, place, |r, z, plane| {
            join_plane(layer.header.plane, plane, z);
            row_done(r, z)
        });
    };
    // Classes depend on the states, and these on the row before, so rows are decoded one by one.
    let width = place.columns.len();
    let mut coded = Coded::new(isa, layer, unit, place)?;
    let columns = layer.header.column_classes.slice(place.columns.clone());
    let (mut buffer, mut states) = (Buffer::new(width), States::new(trellis, width));
    for (r, row) in layer.header.row_classes.slice(place.rows.clone()).into_iter().enumerate() {
        if coded.starts_segment() {
            states.restart();
        }
        let Buffer { classes, values, escaped } = &mut buffer;
        classes.update(isa, |classes| states.classes(isa, &columns, classes));
        coded.rows(&[2 * row], classes, values, escaped)?;
        let z = &mut values[..width];
        join_plane(layer.header.plane, coded.plane(r), z);
        states.integers(isa, z);
        row_done(r, z)?;
    }
    Ok(())
}

/// Decodes the integers of a unit in mode lattice without a trellis to `out`, one after the other. The columns are a multiple of the lanes.
fn base_integers(isa: Isa, layer: &Layer, unit: &[u8], place: &Place, out: &mut [i32]) -> Result<(), CodecError> {
    let (height, width) = (place.rows.len(), place.columns.len());
    let mut coded = Coded::new(isa, layer, unit, place)?;
    let rows = layer.header.row_classes.slice(place.rows.clone());
    let columns = Columns::new(layer.header.column_classes.slice(place.columns.clone()));
    let mut escaped = Vec::new();
    let mut first = 0;
    while first < height {
        let rows = &rows[first..first + coded.rows_at_once(height)];
        let values = &mut out[first * width..(first + rows.len()) * width];
        coded.rows(rows, &columns, values, &mut escaped)?;
        for (r, values) in (first..).zip(values.chunks_exact_mut(width)) {
            join_plane(layer.header.plane, coded.plane(r), values);
        }
        first += rows.len();
    }
    Ok(())
}

/// Working memory for decoding a row of a layer above 0; layers can share it.
pub(super) struct Buffer {
    pub classes: Columns,
    values: Vec<i32>,
    escaped: Vec<u32>,
}

impl Buffer {
    pub fn new(width: usize) -> Self {
        let classes = Columns::new(vec![0; width]);
        let values = vec![0; classes.padded()];
        Buffer { classes, values, escaped: Vec::new() }
    }
}

/// A tile of a layer above 0. It is decoded row by row, because its classes depend on the layer below.
pub(super) struct Above<'a> {
    isa: Isa,
    header: &'a TensorHeader,
    coded: Coded<'a>,
    place: Place,
    /// The next row to decode.
    row: usize,
}

impl<'a> Above<'a> {
    pub fn new(isa: Isa, layer: &'a Layer, unit: &'a [u8], place: &Place) -> Result<Self, CodecError> {
        let coded = Coded::new(isa, layer, unit, place)?;
        Ok(Above { isa, header: &layer.header, coded, place: place.clone(), row: 0 })
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Writes the sums of row class and column class for the next row.
    pub fn sums(&self, out: &mut [i32]) {
        let of_row = self.header.row_classes.get(self.place.rows.start + self.row);
        self.header.column_classes.sums(self.isa, of_row, self.place.columns.clone(), out);
    }

    /// Decodes the values of the next row, under the classes in the buffer.
    pub fn row<'b>(&mut self, buffer: &'b mut Buffer) -> Result<&'b [i32], CodecError> {
        self.coded.rows(&[0], &buffer.classes, &mut buffer.values, &mut buffer.escaped)?;
        let values = &mut buffer.values[..self.place.columns.len()];
        join_plane(self.header.plane, self.coded.plane(self.row), values);
        self.row += 1;
        Ok(values)
    }
}

/// The decoder of a tile in mode exact.
struct Exact<'a> {
    above: Above<'a>,
    layout: FloatLayout,
    buffer: Buffer,
    /// Bits of the weights of the layer below.
    predicted: Vec<u32>,
    /// Sums of row class and column class.
    sums: Vec<i32>,
    /// Stand for the integers of the layer below if that is a base, which has none.
    signs: Vec<i32>,
}

impl<'a> Exact<'a> {
    fn new(isa: Isa, layer: &'a Layer, layout: FloatLayout, unit: &'a [u8], place: &Place) -> Result<Self, CodecError> {
        let (above, width) = (Above::new(isa, layer, unit, place)?, place.columns.len());
        let (buffer, sums) = (Buffer::new(width), vec![0; width]);
        Ok(Exact { above, layout, buffer, predicted: Vec::new(), sums, signs: Vec::new() })
    }

    /// Decodes the next row over the weights in `row`, which the elements replace. The sign of a weight is all that counts, of
    /// 0 too (SPEC 21.6).
    fn row_by_sign(&mut self, row: &mut [u8]) -> Result<(), CodecError> {
        let mut signs = std::mem::take(&mut self.signs);
        exact::signs_of_row(self.above.isa, self.layout, row, &mut signs);
        let decoded = self.row(&signs, row);
        self.signs = signs;
        decoded
    }

    /// Decodes the next row. `z` are the integers of the layer below; `row` holds its weights, which the elements
    /// replace.
    fn row(&mut self, z: &[i32], row: &mut [u8]) -> Result<(), CodecError> {
        let Exact { above, layout, buffer, predicted, sums, .. } = self;
        let (layout, isa) = (*layout, above.isa);
        exact::bits_of_row(isa, layout, row, predicted);
        above.sums(sums);
        let classes = |classes: &mut [i32]| exact::classes_of_row(isa, layout, sums, z, predicted, classes);
        buffer.classes.update(isa, classes);
        exact::write_row(isa, layout, sums, z, predicted, above.row(buffer)?, row);
        Ok(())
    }
}
