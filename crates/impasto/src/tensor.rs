//! Tensors of an open file, read whole or by bands.

#[cfg(any(feature = "encode", feature = "run"))]
mod difference;
#[cfg(any(feature = "encode", feature = "run"))]
mod integers;
mod lattice;
#[cfg(any(feature = "encode", feature = "run"))]
pub(crate) use difference::FewWeights;
#[cfg(any(feature = "encode", feature = "run"))]
pub(crate) use integers::{Headers, Recent};

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use impasto_checkpoint::MAX_ASSET_BYTES;
use impasto_codec::tile::{TileDecoder, Unit};
use impasto_codec::{CodecError, TensorHeader, digits, transform};
use impasto_container::{BaseUsage, Fetched, LayerUnits, Matrix, MmapSource, Object, Source, UnitState};
use impasto_core::{DType, Isa, Mode, Place};
use rayon::prelude::*;

use crate::base::{elements_at, fill_from};
use crate::error::FileError;
use crate::file::File;

/// A tensor (or asset) of an open file, with its tensor header in layer 0 read.
///
/// Each tile row is read at its level, the finest that the present units allow (SPEC 12.3). The tensor headers of
/// further layers are read when a row first needs them.
pub struct Tensor<'a, S = MmapSource> {
    file: &'a File<S>,
    number: u32,
    object: &'a Object,
    dtype: DType,
    matrix: Matrix,
    tiles: &'a [u32],
    base: Arc<TileDecoder>,
    /// The tensor that tiles may be predicted from, if there is one (SPEC 3.4.6). It has none itself.
    reference: Option<Box<Tensor<'a, S>>>,
    /// The tensor of the base that tiles are predicted from, if there is one (SPEC 21).
    over: Option<Box<Tensor<'a, S>>>,
    /// The level at which it is read, if a delta names one.
    fixed: Option<u8>,
    /// The decoder of the finest level needed so far.
    finer: Mutex<Option<(u8, Arc<TileDecoder>)>>,
    /// Limit on its memory, in bytes.
    limit: u64,
}

/// Bytes of memory that decoding takes for each row of a tile, for its class, and for each column: classes, integers and
/// steps of 32 bits.
const ROW_BYTES: u64 = 8;
const COLUMN_BYTES: u64 = 64;
/// Bytes of memory that the tables of a tensor header take at most, and that its entries take for each byte of it.
const TABLE_BYTES: u64 = 256 << 10;
const ENTRY_BYTES: u64 = 16;
/// Bytes of memory that decoding a tile in mode transform takes besides its samples, and for each row and column, for its
/// place.
const TRANSFORM_BYTES: u64 = 256 << 10;
const ORDER_BYTES: u64 = 8;
/// Most tiles or tile rows that are decoded at once, far more than there are threads.
const MOST_AT_ONCE: usize = 1 << 16;

/// How to read tiles: up to a level, with a decoder that has the tensor headers for it, from fetched units.
struct Reading<'d, S> {
    decoder: &'d TileDecoder,
    level: u8,
    units: &'d Fetched<'d, S>,
}

impl<'a, S: Source> Tensor<'a, S> {
    /// Opens object `number` of a file, and the tensor that its tiles may be predicted from. If it is identical to an object of
    /// the base, opens that one.
    pub(crate) fn new(file: &'a File<S>, number: u32) -> Result<Self, FileError> {
        let over = match file.of_base(number)? {
            Some((tensor, link)) if link.usage == BaseUsage::Identical => return Ok(tensor),
            Some((tensor, _)) => Some(Box::new(tensor)),
            None => None,
        };
        let tensor = Tensor { over, ..Tensor::alone(file, number)? };
        let reference = file.reader.reference_of(number).map(|reference| Tensor::alone(file, reference)).transpose()?;
        Ok(Tensor { reference: reference.map(Box::new), ..tensor })
    }

    /// Opens object `number` of a file, without a reference.
    fn alone(file: &'a File<S>, number: u32) -> Result<Self, FileError> {
        let tensor = Tensor::with(file, number, || Ok(Arc::new(decoder(file, number, 0)?)))?;
        let modes = tensor.tiles.iter().map(|&tile| file.reader.units()[tile as usize].mode);
        if let Some(mode) = modes.clone().find(|mode| !mode.is_known()) {
            let (file, name) = (file.reader.name().to_owned(), tensor.object.name.clone());
            return Err(FileError::UnknownMode { file, name, mode });
        }
        Ok(tensor)
    }

    /// Opens object `number` of a file, without a reference; `base` decodes its layer 0.
    fn with(
        file: &'a File<S>,
        number: u32,
        base: impl FnOnce() -> Result<Arc<TileDecoder>, FileError>,
    ) -> Result<Self, FileError> {
        let object = file.reader.objects().get(number as usize);
        let name = object.map_or("", |object| &object.name);
        let missing = || file.missing(name);
        let object = object.ok_or_else(missing)?;
        let dtype = object.dtype().ok_or_else(missing)?;
        let matrix = *file.reader.matrix(number).ok_or_else(missing)?;
        let tiles = file.reader.units_of(number).ok_or_else(missing)?.tiles;
        let most = if object.tensor().is_some() { u64::MAX } else { MAX_ASSET_BYTES };
        let limit = file.memory_limit.min(most);
        let base = base()?;
        let (reference, over, fixed, finer) = (None, None, None, Mutex::default());
        Ok(Tensor { file, number, object, dtype, matrix, tiles, base, reference, over, fixed, finer, limit })
    }

    /// Has the tensor read at a level, whatever finer ones there are. One that is identical to a tensor of the base has the
    /// level of that.
    pub(crate) fn at_level(self, level: u8) -> Self {
        Tensor { fixed: self.fixed.or(Some(level)), ..self }
    }

    /// Returns the instruction set that it is decoded with.
    pub(crate) fn isa(&self) -> Isa {
        self.file.isa
    }

    /// Returns whether a unit of its file is there.
    pub(crate) fn has_unit(&self, unit: u32) -> bool {
        self.file.reader.unit_state(unit).is_ok_and(|state| state == UnitState::Present)
    }

    /// The error that the tensor cannot be used as it should.
    pub(crate) fn unusable(&self, error: CodecError) -> FileError {
        self.file.broken(self.tiles.first().copied().unwrap_or_default(), error)
    }

    /// Returns its dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns its shape in weights; empty for an asset.
    pub fn shape(&self) -> &[u64] {
        self.object.tensor().map_or(&[], |meta| &meta.dims)
    }

    /// Returns the matrix that it is coded as.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// Returns its tensor header in layer 0, if it is coded in mode float, lattice or transform.
    pub fn header(&self) -> Option<&TensorHeader> {
        self.base.header()
    }

    /// Returns whether its bits are those of the checkpoint, like [`File::is_exact`].
    pub fn is_exact(&self) -> bool {
        self.file.is_exact(&self.object.name)
    }

    /// Returns the layer up to which a row of its matrix is read; 0 for the base.
    pub fn level(&self, row: u64) -> u8 {
        let (reader, tile_row) = (&self.file.reader, row / self.matrix.tile_rows());
        match self.fixed {
            None => reader.level(self.number, tile_row),
            Some(fixed) => reader.listed_level(self.number, tile_row).min(fixed),
        }
    }

    /// Decodes a band into `out`, whose rows begin `stride` bytes after one another. Runs on this thread only.
    ///
    /// # Errors
    /// As for [`Tensor::bytes`].
    pub(crate) fn part(
        &self,
        rows: Range<u64>,
        columns: Range<u64>,
        out: &mut [u8],
        stride: usize,
    ) -> Result<(), FileError> {
        let (height, mut from) = (self.matrix.tile_rows(), rows.start);
        while from < rows.end {
            let to = (from / height + 1).saturating_mul(height).min(rows.end);
            let level = self.level(from);
            let decoder = self.decoder(level)?;
            let units = self.file.reader.fetch(&self.units_meeting(level, &(from..to), &columns))?;
            let reading = Reading { decoder: &decoder, level, units: &units };
            let out = &mut out[(from - rows.start) as usize * stride..];
            self.row_of_tiles(&reading, from..to, columns.clone(), out, stride)?;
            from = to;
        }
        self.file.settled(Ok(()))
    }

    /// Splits the tensor into bands of about `bytes` each (less, if the memory limit requires it), for [`Tensor::band`].
    /// Their bytes in sequence are those of the tensor. A band is whole tile rows, or a part of a single row.
    pub fn bands(&self, bytes: u64) -> impl Iterator<Item = (Range<u64>, Range<u64>)> + use<S> {
        let bytes = bytes.min(self.limit / 2);
        let (rows, columns) = (self.matrix.rows(), self.matrix.cols());
        let size = self.dtype.size() as u64;
        let parts = |length: u64, tile: u64, element: u64| {
            let tile = tile.clamp(1, length.max(1));
            let part = (bytes / element.saturating_mul(tile).max(1)).max(1).saturating_mul(tile);
            let mut from = 0u64;
            std::iter::from_fn(move || {
                let band = from..from.saturating_add(part).min(length);
                from = band.end;
                (!band.is_empty()).then_some(band)
            })
        };
        let single = rows == 1;
        let across = single.then(|| parts(columns, self.matrix.tile_cols(), size).map(|c| (0..1, c)));
        let down = (!single && columns > 0)
            .then(|| parts(rows, self.matrix.tile_rows(), columns.saturating_mul(size)).map(move |r| (r, 0..columns)));
        across.into_iter().flatten().chain(down.into_iter().flatten())
    }

    /// Decodes every tile up to its last present layer, and discards the result. A layer of a tile is present if
    /// `there` holds for its tensor header and its tile. (A tile row may be read only at a lower level, but all its
    /// units must be valid.)
    pub(crate) fn check(&self, there: &(dyn Fn(u32) -> bool + Sync)) -> Result<(), FileError> {
        let reader = &self.file.reader;
        let layers = (1..=reader.layers_of(self.number)).map_while(|layer| reader.layer_of(self.number, layer));
        let layers = layers.take_while(|layer| there(layer.header)).count() as u8;
        let decoder = self.decoder(layers)?;
        let check = |scratch: &mut Vec<u8>, tile| {
            let Some(rect) = self.matrix.tile(tile) else { return Ok(()) };
            let place = Place::from(rect.clone());
            scratch.resize(place.elements() * self.dtype.size(), 0);
            let unit = |layer| reader.layer_of(self.number, layer).and_then(|units| units.tile(tile));
            let level = (1..=layers).take_while(|&layer| unit(layer).is_some_and(there)).count() as u8;
            let units = reader.fetch(&self.units_for_tile(level, tile))?;
            let reading = Reading { decoder: &decoder, level, units: &units };
            self.decode(&reading, tile, &place, scratch, place.columns.len() * self.dtype.size())
        };
        let at_once = self.at_once(0, self.tile_bytes() + self.working_bytes())?;
        let tiles = self.matrix.tile_count();
        let checked = (0..tiles).step_by(at_once).try_for_each(|from| {
            let to = from.saturating_add(at_once as u32).min(tiles);
            (from..to).into_par_iter().try_for_each_init(Vec::new, check)
        });
        self.file.settled(checked)
    }

    /// Returns the bytes of a whole tile.
    fn tile_bytes(&self) -> u64 {
        let (height, width) = self.tile_sides();
        height * width * self.dtype.size() as u64
    }

    /// Returns the rows and columns of a whole tile, which hold at most 2^24 elements; 0 if there are no tiles.
    fn tile_sides(&self) -> (u64, u64) {
        if self.matrix.tile_count() == 0 {
            return (0, 0);
        }
        (self.matrix.tile_rows().min(self.matrix.rows()), self.matrix.tile_cols().min(self.matrix.cols()))
    }

    /// Returns the bytes of memory that decoding a tile takes besides its elements: a second tile in mode zstd, two and
    /// tables in mode digits, the heads of its blocks and a few rows in mode blocks, its samples in mode transform, a few
    /// rows in other modes; and the tile of the reference, as elements and as samples.
    fn working_bytes(&self) -> u64 {
        let units = self.file.reader.units();
        let (height, width) = self.tile_sides();
        let of_mode = |mode| match mode {
            Mode::STORED => 0,
            Mode::ZSTD => self.tile_bytes(),
            Mode::DIGITS => 2 * self.tile_bytes() + digits::WORKING_BYTES,
            Mode::TRANSFORM => {
                TRANSFORM_BYTES + transform::memory_bytes(height, width) + (height + width) * ORDER_BYTES
            }
            _ => height * ROW_BYTES + width * COLUMN_BYTES,
        };
        let base = self.tiles.iter().map(|&unit| of_mode(units[unit as usize].mode)).max().unwrap_or(0);
        let reader = &self.file.reader;
        let top = reader.layer_of(self.number, reader.layers_of(self.number));
        let (elements, samples) = (self.tile_bytes(), height * width * 2 * size_of::<i32>() as u64);
        let of_reference = |reference: &Tensor<'_, S>| elements + samples + reference.working_bytes();
        let reference = self.reference.as_deref().map_or(0, of_reference);
        // Of the base: its elements, as they are there and as they are here, and what decoding a tile takes.
        let of_base = |base: &Tensor<'_, S>| elements * 5 + base.tile_bytes() + base.working_bytes();
        let reference = reference + self.over.as_deref().map_or(0, of_base);
        // Blocks are smaller than their weights.
        reference + base + if top.is_some_and(|layer| layer.mode == Mode::BLOCKS) { self.tile_bytes() } else { 0 }
    }

    /// Returns how many jobs that take `each` bytes of memory can run at once beside `fixed` bytes.
    ///
    /// # Errors
    /// If that is not even one.
    fn at_once(&self, fixed: u64, each: u64) -> Result<usize, FileError> {
        self.file.within_memory(self.number, fixed.saturating_add(each), self.limit)?;
        Ok(usize::try_from((self.limit - fixed) / each.max(1)).unwrap_or(usize::MAX).clamp(1, MOST_AT_ONCE))
    }

    /// Returns all its bytes, little-endian, row-major.
    ///
    /// # Errors
    /// If a unit of the base is absent, a needed unit is damaged or invalid, or the memory limit would be exceeded.
    pub fn bytes(&self) -> Result<Vec<u8>, FileError> {
        self.band(0..self.matrix.rows(), 0..self.matrix.cols())
    }

    /// Returns the bytes of a band of rows and columns of its matrix, row-major.
    ///
    /// Rows and columns are counted in elements (blocks for a block dtype). Only tiles that meet the band are read
    /// (SPEC 4.4). Parts of the band outside the matrix are omitted.
    ///
    /// # Errors
    /// As for [`Tensor::bytes`].
    pub fn band(&self, rows: Range<u64>, columns: Range<u64>) -> Result<Vec<u8>, FileError> {
        let rows = rows.start.min(self.matrix.rows())..rows.end.min(self.matrix.rows());
        let columns = columns.start.min(self.matrix.cols())..columns.end.min(self.matrix.cols());
        if rows.is_empty() || columns.is_empty() {
            return Ok(vec![]);
        }
        let stride = (columns.end - columns.start) * self.dtype.size() as u64;
        let bytes = stride.saturating_mul(rows.end - rows.start);
        // Checked first, because a failed allocation would abort the program.
        self.file.within_memory(self.number, bytes, self.limit)?;
        if Vec::<u8>::new().try_reserve_exact(bytes as usize).is_err() {
            return Err(self.file.no_memory(self.object, bytes));
        }
        // Absent units are found before memory is allocated.
        for tile in self.matrix.tiles_meeting(rows.clone(), columns.clone()) {
            for unit in self.units_for_tile(0, tile) {
                if self.file.reader.unit_state(unit)? == UnitState::Absent {
                    self.file.reader.read_unit(unit)?;
                }
            }
        }
        let mut out = vec![0; bytes as usize];
        self.fill(rows, columns, &mut out, stride as usize)?;
        Ok(out)
    }

    /// Decodes the tensor like [`Tensor::bytes`], but into `out`, which must have that length.
    ///
    /// # Errors
    /// As for [`Tensor::bytes`], or if `out` has a different length. `out` may be partly overwritten.
    pub fn read_into(&self, out: &mut [u8]) -> Result<(), FileError> {
        let bytes = u128::from(self.matrix.rows()) * u128::from(self.matrix.cols()) * self.dtype.size() as u128;
        if out.len() as u128 != bytes {
            let (file, name) = (self.file.reader.name().to_owned(), self.object.name.clone());
            return Err(FileError::Length { file, name, bytes: bytes as u64, given: out.len() as u64 });
        }
        if out.is_empty() {
            return Ok(());
        }
        let stride = self.matrix.cols() as usize * self.dtype.size();
        self.fill(0..self.matrix.rows(), 0..self.matrix.cols(), out, stride)
    }

    /// Returns the dtype of the blocks that it is made of, if the units that are present restore all of them (SPEC 16).
    ///
    /// # Errors
    /// If a tensor header is damaged or invalid.
    pub fn block_dtype(&self) -> Result<Option<DType>, FileError> {
        let reader = &self.file.reader;
        let level = self.level(0);
        let is_of_blocks = |layer: LayerUnits<'_>| layer.mode == Mode::BLOCKS;
        let on_lattice = |&tile: &u32| reader.units()[tile as usize].mode == Mode::LATTICE;
        let is_whole = || self.is_exact() && self.tiles.iter().all(on_lattice);
        if !reader.layer_of(self.number, level).is_some_and(is_of_blocks) || !is_whole() {
            return Ok(None);
        }
        Ok(self.decoder(level)?.block_dtype())
    }

    /// Returns the number of its tile rows.
    pub fn tile_rows(&self) -> u64 {
        self.matrix.rows().div_ceil(self.matrix.tile_rows())
    }

    /// Returns the blocks of some tile rows, row by row; nothing if [`Tensor::block_dtype`] is `None`.
    ///
    /// # Errors
    /// As for [`Tensor::bytes`].
    pub fn blocks(&self, tile_rows: Range<u64>) -> Result<Vec<u8>, FileError> {
        let Some(dtype) = self.block_dtype()? else { return Ok(vec![]) };
        let (height, columns) = (self.matrix.tile_rows(), self.matrix.cols());
        let of_columns = |columns: u64| columns as usize / dtype.weights() * dtype.size();
        let tile_rows = tile_rows.start..tile_rows.end.min(self.tile_rows());
        let row = |tile_row: u64| tile_row.saturating_mul(height).min(self.matrix.rows());
        let stride = of_columns(columns);
        let bytes = (row(tile_rows.end) - row(tile_rows.start)).saturating_mul(stride as u64);
        if bytes == 0 {
            return Ok(vec![]);
        }
        self.file.within_memory(self.number, bytes.saturating_add(self.working_bytes()), self.limit)?;
        let mut out = Vec::new();
        out.try_reserve_exact(bytes as usize).map_err(|_| self.file.no_memory(self.object, bytes))?;
        out.resize(bytes as usize, 0);
        let level = self.level(row(tile_rows.start));
        let decoder = self.decoder(level)?;
        let units = self.units_meeting(level, &(row(tile_rows.start)..row(tile_rows.end)), &(0..columns));
        let units = self.file.reader.fetch(&units)?;
        let reading = Reading { decoder: &decoder, level, units: &units };
        let decoded = out.par_chunks_mut(stride * height.min(self.matrix.rows()) as usize).enumerate();
        let decoded = decoded.try_for_each(|(i, part)| {
            let tile_row = tile_rows.start + i as u64;
            self.matrix.tiles_meeting(row(tile_row)..row(tile_row + 1), 0..columns).try_for_each(|tile| {
                let Some(rect) = self.matrix.tile(tile) else { return Ok(()) };
                let (at, place) = (of_columns(rect.cols.start), Place::from(rect));
                self.with_units(&reading, tile, |units| decoder.blocks(units, &place, &mut part[at..], stride))
            })
        });
        self.file.settled(decoded)?;
        Ok(out)
    }

    /// Decodes a non-empty band into `out`, tile rows in parallel.
    fn fill(&self, rows: Range<u64>, columns: Range<u64>, out: &mut [u8], stride: usize) -> Result<(), FileError> {
        let (height, bytes) = (self.matrix.tile_rows(), out.len() as u64);
        let mut rest = out;
        let mut jobs = Vec::new();
        let mut from = rows.start;
        while from < rows.end {
            let to = (from / height + 1).saturating_mul(height).min(rows.end);
            let (part, left) = std::mem::take(&mut rest).split_at_mut((to - from) as usize * stride);
            rest = left;
            jobs.push((self.level(from), from..to, part));
            from = to;
        }
        let decoder = self.decoder(jobs.iter().map(|(level, ..)| *level).max().unwrap_or(0))?;
        let numbers: Vec<u32> =
            jobs.iter().flat_map(|(level, rows, _)| self.units_meeting(*level, rows, &columns)).collect();
        let units = self.file.reader.fetch(&numbers)?;
        // A tile of which only a part is needed is decoded to memory of its own.
        let at_once = self.at_once(bytes, self.tile_bytes() + self.working_bytes())?;
        let decoded = loop {
            if jobs.is_empty() {
                break Ok(());
            }
            let some: Vec<_> = jobs.drain(..at_once.min(jobs.len())).collect();
            let decoded = some.into_par_iter().try_for_each(|(level, rows, part)| {
                let reading = Reading { decoder: &decoder, level, units: &units };
                self.row_of_tiles(&reading, rows, columns.clone(), part, stride)
            });
            if decoded.is_err() {
                break decoded;
            }
        };
        self.file.settled(decoded)
    }

    /// Returns the units that the tiles that meet a band need, up to a level.
    fn units_meeting(&self, level: u8, rows: &Range<u64>, columns: &Range<u64>) -> Vec<u32> {
        let tiles = self.matrix.tiles_meeting(rows.clone(), columns.clone());
        tiles.flat_map(|tile| self.units_for_tile(level, tile)).collect()
    }

    /// Returns the units of a tile up to a level, and that of the reference that it may be predicted from.
    fn units_for_tile(&self, level: u8, tile: u32) -> Vec<u32> {
        let mut units = self.units_of_tile(level, tile);
        units.extend(self.file.reader.reference_unit(self.number, tile));
        units
    }

    /// Returns the units of a tile up to a level, from layer 0 up.
    fn units_of_tile(&self, level: u8, tile: u32) -> Vec<u32> {
        let reader = &self.file.reader;
        let base = self.tiles[tile as usize];
        // A tile in another mode is the same at every level.
        let above = 1..=if reader.units()[base as usize].mode.may_be_refined() { level } else { 0 };
        let finer = above.filter_map(|layer| reader.layer_of(self.number, layer)?.tile(tile));
        [base].into_iter().chain(finer).collect()
    }

    /// Returns a decoder for levels up to `level`.
    fn decoder(&self, level: u8) -> Result<Arc<TileDecoder>, FileError> {
        if level == 0 {
            return Ok(self.base.clone());
        }
        let mut finer = self.finer.lock().unwrap_or_else(PoisonError::into_inner);
        match &*finer {
            Some((up_to, decoder)) if *up_to >= level => Ok(decoder.clone()),
            _ => Ok(finer.insert((level, Arc::new(decoder(self.file, self.number, level)?))).1.clone()),
        }
    }

    /// Decodes a band within one tile row into `out`.
    fn row_of_tiles(
        &self,
        reading: &Reading<'_, S>,
        rows: Range<u64>,
        columns: Range<u64>,
        out: &mut [u8],
        stride: usize,
    ) -> Result<(), FileError> {
        let size = self.dtype.size();
        for tile in self.matrix.tiles_meeting(rows.clone(), columns.clone()) {
            let Some(rect) = self.matrix.tile(tile) else { continue };
            let place = Place::from(rect.clone());
            let inside = |part: &Range<u64>, whole: &Range<u64>| part.start >= whole.start && part.end <= whole.end;
            if inside(&rect.rows, &rows) && inside(&rect.cols, &columns) {
                let at = (rect.cols.start - columns.start) as usize * size;
                self.decode(reading, tile, &place, &mut out[at..], stride)?;
                continue;
            }
            // Only a part of the tile is needed: decode it to a temporary buffer.
            let width = place.columns.len() * size;
            let mut whole = vec![0; place.rows.len() * width];
            self.decode(reading, tile, &place, &mut whole, width)?;
            let left = rect.cols.start.max(columns.start);
            let right = rect.cols.end.min(columns.end);
            let wanted = (left - rect.cols.start) as usize * size..(right - rect.cols.start) as usize * size;
            let at = (left - columns.start) as usize * size;
            for r in rect.rows.start.max(rows.start)..rect.rows.end.min(rows.end) {
                let from = &whole[(r - rect.rows.start) as usize * width..][wanted.clone()];
                out[(r - rows.start) as usize * stride + at..][..from.len()].copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Decodes a tile at a level, for which all units are present.
    fn decode(
        &self,
        reading: &Reading<'_, S>,
        tile: u32,
        place: &Place,
        out: &mut [u8],
        stride: usize,
    ) -> Result<(), FileError> {
        let mode = self.file.reader.units()[self.tiles[tile as usize] as usize].mode;
        if let Some(base) = self.over.as_deref().filter(|base| mode.replaces_base() && base.dtype == self.dtype) {
            fill_from(base, place, out, stride)?;
            return self.with_units(reading, tile, |units| reading.decoder.decode_in_place(units, place, out, stride));
        }
        let reference = self.reference_tile(reading, tile, place)?;
        self.with_units(reading, tile, |units| {
            reading.decoder.decode_predicted(units, reference.as_deref(), place, out, stride)
        })
    }

    /// Decodes what a tile is predicted from, if it is predicted: the tile of the reference, at level 0, or the elements of the
    /// base.
    fn reference_tile(&self, reading: &Reading<'_, S>, tile: u32, place: &Place) -> Result<Option<Vec<u8>>, FileError> {
        if let Some(base) = &self.over {
            let mode = self.file.reader.units()[self.tiles[tile as usize] as usize].mode;
            let needed = reading.decoder.needs_base(mode);
            return needed.then(|| elements_at(base, self.dtype, place)).transpose();
        }
        let Some(reference) = &self.reference else { return Ok(None) };
        let may_need = self.file.reader.reference_unit(self.number, tile).is_some();
        if !may_need || !transform::needs_reference(reading.units.unit(self.tiles[tile as usize])?) {
            return Ok(None);
        }
        let stride = place.columns.len() * self.dtype.size();
        let mut out = vec![0; place.rows.len() * stride];
        let reading = Reading { decoder: &reference.base, level: 0, units: reading.units };
        reference.decode(&reading, tile, place, &mut out, stride)?;
        Ok(Some(out))
    }

    /// Checks the hashes of a tile's units up to a level and passes them to `decode`. Its error names the invalid unit.
    fn with_units(
        &self,
        reading: &Reading<'_, S>,
        tile: u32,
        mut decode: impl FnMut(&[Unit]) -> Result<(), CodecError>,
    ) -> Result<(), FileError> {
        let reader = &self.file.reader;
        let mode = |unit: u32| reader.units()[unit as usize].mode;
        let numbers = self.units_of_tile(reading.level, tile);
        let bytes = numbers.iter().map(|&unit| reading.units.unit(unit)).collect::<Result<Vec<_>, _>>()?;
        let units: Vec<Unit> =
            numbers.iter().zip(&bytes).map(|(&unit, bytes)| Unit { mode: mode(unit), bytes }).collect();
        let Err(error) = decode(&units) else { return Ok(()) };
        // The invalid unit is the first with which the tile does not decode; nor does it with any more.
        let counts: Vec<usize> = (1..units.len()).collect();
        let broken = counts.partition_point(|&n| decode(&units[..n]).is_ok());
        Err(self.file.broken(numbers[broken], error))
    }
}

/// Reads and checks the tensor headers of an object up to layer `level`, and returns a decoder for its tiles.
fn decoder<S: Source>(file: &File<S>, number: u32, level: u8) -> Result<TileDecoder, FileError> {
    let missing = || file.missing(file.reader.objects().get(number as usize).map_or("", |object| &object.name));
    let matrix = file.reader.matrix(number).ok_or_else(missing)?;
    let dtype = file.reader.objects().get(number as usize).and_then(Object::dtype).ok_or_else(missing)?;
    let base = file.reader.units_of(number).and_then(|units| units.header);
    let above = (1..=level).filter_map(|layer| file.reader.layer_of(number, layer)).map(|layer| layer.header);
    let units: Vec<u32> = base.into_iter().chain(above).collect();
    let length = |&unit: &u32| file.reader.unit_range(unit).map_or(0, |range| range.end - range.start);
    let memory = units.iter().map(|unit| TABLE_BYTES + ENTRY_BYTES * length(unit)).sum();
    file.within_memory(number, memory, file.memory_limit)?;
    let read = |&unit: &u32| {
        let header = TensorHeader::read(&file.reader.read_unit(unit)?, dtype, matrix.rows(), matrix.cols());
        header.map_err(|error| file.broken(unit, error))
    };
    let headers = file.settled(units.iter().map(read).collect::<Result<Vec<_>, FileError>>())?;
    let broken =
        |(layer, error): (usize, CodecError)| file.broken(units.get(layer).copied().unwrap_or_default(), error);
    let is_delta = file.reader.objects().get(file.reader.resolve(number) as usize).is_some_and(Object::is_delta);
    TileDecoder::check(dtype, &headers, is_delta).map_err(broken)?;
    let made = if is_delta { TileDecoder::delta } else { TileDecoder::new };
    made(dtype, headers, file.isa).map_err(|error| broken((0, error)))
}
