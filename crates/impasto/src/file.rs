//! An open .impasto file: its tensors, whole or by bands, and its assets.

use std::ops::Range;
use std::path::Path;

use impasto_checkpoint::MAX_ASSET_BYTES;
use impasto_codec::tile::{Place, TileDecoder};
use impasto_codec::{CodecError, DType, Head, Level};
use impasto_container::{Limits, Matrix, MmapSource, Mode, Object, ObjectKind, Reader, Source, TensorMeta, UnitState};
use rayon::prelude::*;

use crate::error::FileError;

/// Most bytes that one tensor may take in memory, unless [`File::set_memory_limit`] says otherwise: 16 GiB.
pub const MEMORY_LIMIT: u64 = 16 << 30;

/// An open .impasto file over any [`Source`] of bytes.
pub struct File<S = MmapSource> {
    reader: Reader<S>,
    level: Level,
    memory_limit: u64,
}

impl File<MmapSource> {
    /// Opens a file by memory map and checks its header and manifest.
    ///
    /// # Errors
    /// If it is not an .impasto file, or a broken one. A cut file opens; its absent units are errors where they are needed.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        Ok(File::new(Reader::<MmapSource>::open_file(path, &Limits::default())?))
    }
}

impl<S: Source> File<S> {
    /// A file over a reader that is already open.
    pub fn new(reader: Reader<S>) -> Self {
        File { reader, level: Level::best(), memory_limit: MEMORY_LIMIT }
    }

    /// Sets how many bytes one tensor may take. (An asset may take 256 MiB at most, as when it is encoded.)
    pub fn set_memory_limit(&mut self, bytes: u64) {
        self.memory_limit = bytes;
    }

    /// Sets which instructions decode; the best there are if this is not called. Every level gives the same bytes.
    ///
    /// # Panics
    /// If this processor does not have the level.
    pub fn set_level(&mut self, level: Level) {
        assert!(Level::available().contains(&level), "{level:?} is not available");
        self.level = level;
    }

    /// The container: manifest, units, hashes.
    pub fn reader(&self) -> &Reader<S> {
        &self.reader
    }

    /// Names of the tensors, in the order of the file.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.reader.objects().iter().filter(|o| o.tensor().is_some()).map(|o| o.name.as_str())
    }

    /// Names of the assets, in the order of the file.
    pub fn asset_names(&self) -> impl Iterator<Item = &str> {
        let assets = self.reader.objects().iter().filter(|o| matches!(o.kind, ObjectKind::Asset { .. }));
        assets.map(|o| o.name.as_str())
    }

    /// What the manifest says of a tensor.
    ///
    /// # Errors
    /// If there is none.
    pub fn meta(&self, name: &str) -> Result<&TensorMeta, FileError> {
        let object = self.reader.find_tensor(name).and_then(|n| self.reader.objects().get(n as usize));
        object.and_then(Object::tensor).ok_or_else(|| self.missing(name))
    }

    /// Are the bits of a tensor those of the checkpoint? (No tile in mode lattice.)
    pub fn is_exact(&self, name: &str) -> bool {
        let units = self.reader.find_tensor(name).and_then(|n| self.reader.units_of(n));
        units.is_some_and(|units| {
            units.tiles.iter().all(|&tile| self.reader.units()[tile as usize].mode != Mode::LATTICE)
        })
    }

    /// A tensor by name; tied ones have the units of their original. Reads and checks its head.
    ///
    /// # Errors
    /// If there is none, its head is absent, damaged or broken, or a tile has an unknown mode.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_, S>, FileError> {
        self.object(self.reader.find_tensor(name).ok_or_else(|| self.missing(name))?)
    }

    /// An asset by name, whole; `None` if there is none.
    ///
    /// # Errors
    /// If a unit of it is absent, damaged or broken, or it is larger than 256 MiB.
    pub fn asset(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.reader.find_asset(name).map(|object| self.object(object)?.bytes()).transpose()
    }

    pub(crate) fn missing(&self, name: &str) -> FileError {
        FileError::NoTensor { file: self.reader.name().to_owned(), name: name.to_owned() }
    }

    /// An object by number.
    pub(crate) fn object(&self, number: u32) -> Result<Tensor<'_, S>, FileError> {
        let object = self.reader.objects().get(number as usize);
        let name = object.map_or("", |object| &object.name);
        let missing = || self.missing(name);
        let object = object.ok_or_else(missing)?;
        let dtype = object.dtype().ok_or_else(missing)?;
        let matrix = *self.reader.matrix(number).ok_or_else(missing)?;
        let units = self.reader.units_of(number).ok_or_else(missing)?;
        let modes = units.tiles.iter().map(|&tile| self.reader.units()[tile as usize].mode);
        if let Some(mode) = modes.clone().find(|mode| !mode.is_known()) {
            let (file, name) = (self.reader.name().to_owned(), name.to_owned());
            return Err(FileError::UnknownMode { file, name, mode: mode.0 });
        }
        let head = match units.head {
            None => None,
            Some(unit) => {
                let bytes = self.reader.read_unit(unit)?;
                let head = Head::read(&bytes, dtype, matrix.rows(), matrix.cols());
                Some(head.map_err(|error| self.broken(unit, error))?)
            }
        };
        let limit = if object.tensor().is_some() { self.memory_limit } else { MAX_ASSET_BYTES };
        let decoder = TileDecoder::new(dtype, head, self.level);
        Ok(Tensor { file: self, object, dtype, matrix, tiles: units.tiles, decoder, limit })
    }

    fn broken(&self, unit: u32, error: CodecError) -> FileError {
        FileError::Codec { file: self.reader.name().to_owned(), unit: self.reader.unit_place(unit), error }
    }
}

/// A tensor (or asset) of an open file, its head read.
pub struct Tensor<'a, S = MmapSource> {
    file: &'a File<S>,
    object: &'a Object,
    dtype: DType,
    matrix: Matrix,
    tiles: &'a [u32],
    decoder: TileDecoder,
    /// Most bytes that it may take.
    limit: u64,
}

impl<S: Source> Tensor<'_, S> {
    /// Its dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its shape in weights; empty for an asset.
    pub fn shape(&self) -> &[u64] {
        self.object.tensor().map_or(&[], |meta| &meta.dims)
    }

    /// The matrix that it is coded as.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// Its head, if it is coded in mode float or lattice.
    pub fn head(&self) -> Option<&Head> {
        self.decoder.head()
    }

    /// Are its bits those of the checkpoint? (No tile in mode lattice.)
    pub fn is_exact(&self) -> bool {
        self.file.is_exact(&self.object.name)
    }

    /// Bands of about `bytes` each, as [`Tensor::band`] takes them, whose bytes one after another are those of the tensor: whole rows of
    /// tiles, or parts of a single row.
    pub fn bands(&self, bytes: u64) -> impl Iterator<Item = (Range<u64>, Range<u64>)> + use<S> {
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

    /// Decodes every tile and forgets it.
    pub(crate) fn check(&self) -> Result<(), FileError> {
        (0..self.matrix.tile_count()).into_par_iter().try_for_each_init(Vec::new, |scratch, tile| {
            let Some(rect) = self.matrix.tile(tile) else { return Ok(()) };
            let place = Place::from(rect.clone());
            scratch.resize(place.elements() * self.dtype.size(), 0);
            self.decode(tile, &place, scratch, place.columns.len() * self.dtype.size())
        })
    }

    /// All its bytes, little-endian, row-major.
    ///
    /// # Errors
    /// If a unit is absent, damaged or broken, or the memory limit would be exceeded.
    pub fn bytes(&self) -> Result<Vec<u8>, FileError> {
        self.band(0..self.matrix.rows(), 0..self.matrix.cols())
    }

    /// The bytes of a band of rows and columns of its matrix, row-major, counted in elements (blocks for a block dtype). Reads only the tiles that meet the band (SPEC 4.4); what of the
    /// band lies outside the matrix is left out.
    ///
    /// # Errors
    /// As [`Tensor::bytes`].
    pub fn band(&self, rows: Range<u64>, columns: Range<u64>) -> Result<Vec<u8>, FileError> {
        let rows = rows.start.min(self.matrix.rows())..rows.end.min(self.matrix.rows());
        let columns = columns.start.min(self.matrix.cols())..columns.end.min(self.matrix.cols());
        if rows.is_empty() || columns.is_empty() {
            return Ok(vec![]);
        }
        let stride = (columns.end - columns.start) * self.dtype.size() as u64;
        let bytes = stride.saturating_mul(rows.end - rows.start);
        // Asked first, since an allocation that fails would end the program.
        if bytes > self.limit || Vec::<u8>::new().try_reserve_exact(bytes as usize).is_err() {
            let (file, name) = (self.file.reader.name().to_owned(), self.object.name.clone());
            return Err(FileError::MemoryLimit { file, name, bytes, limit: self.limit });
        }
        // Absent units are found before memory is taken for them.
        for tile in self.matrix.tiles_meeting(rows.clone(), columns.clone()) {
            let unit = self.tiles[tile as usize];
            if self.file.reader.unit_state(unit)? == UnitState::Absent {
                self.file.reader.read_unit(unit)?;
            }
        }
        let mut out = vec![0; bytes as usize];
        self.fill(rows, columns, &mut out, stride as usize)?;
        Ok(out)
    }

    /// [`Tensor::bytes`] into memory that is already there: `out` has exactly that length.
    ///
    /// # Errors
    /// As [`Tensor::bytes`]; `out` may then be partly overwritten.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn read_into(&self, out: &mut [u8]) -> Result<(), FileError> {
        if self.matrix.elements() == 0 {
            assert!(out.is_empty());
            return Ok(());
        }
        let stride = self.matrix.cols() as usize * self.dtype.size();
        assert_eq!(out.len(), self.matrix.rows() as usize * stride);
        self.fill(0..self.matrix.rows(), 0..self.matrix.cols(), out, stride)
    }

    /// Decodes a band that is not empty into `out`, rows of tiles side by side.
    fn fill(&self, rows: Range<u64>, columns: Range<u64>, out: &mut [u8], stride: usize) -> Result<(), FileError> {
        let height = self.matrix.tile_rows();
        let mut rest = out;
        let mut jobs = Vec::new();
        let mut from = rows.start;
        while from < rows.end {
            let to = (from / height + 1).saturating_mul(height).min(rows.end);
            let (part, left) = std::mem::take(&mut rest).split_at_mut((to - from) as usize * stride);
            rest = left;
            jobs.push((from..to, part));
            from = to;
        }
        let decode = |(rows, part): (Range<u64>, &mut [u8])| self.row_of_tiles(rows, columns.clone(), part, stride);
        jobs.into_par_iter().try_for_each(decode)
    }

    /// Decodes a band whose rows lie in one row of tiles into `out`.
    fn row_of_tiles(
        &self,
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
                self.decode(tile, &place, &mut out[at..], stride)?;
                continue;
            }
            // Only a part of the tile is wanted: decode it aside.
            let width = place.columns.len() * size;
            let mut whole = vec![0; place.rows.len() * width];
            self.decode(tile, &place, &mut whole, width)?;
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

    fn decode(&self, tile: u32, place: &Place, out: &mut [u8], stride: usize) -> Result<(), FileError> {
        let unit = self.tiles[tile as usize];
        let bytes = self.file.reader.read_unit(unit)?;
        let mode = self.file.reader.units()[unit as usize].mode;
        self.decoder.decode(mode.0, &bytes, place, out, stride).map_err(|error| self.file.broken(unit, error))
    }
}
