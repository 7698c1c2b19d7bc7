//! What a runtime reads of a tensor: integers on the lattice, row of tiles by row of tiles.

use std::ops::Range;
use std::sync::Arc;

use impasto_codec::tile::TileDecoder;
use impasto_container::Source;
use impasto_core::{Mode, Place};

use super::{Reading, Tensor};
use crate::error::FileError;
use crate::file::File;

/// The tables by which an object is decoded, to be kept: a file and they are a tensor again.
#[derive(Clone)]
pub(crate) struct Tables {
    base: Arc<TileDecoder>,
    finest: Arc<TileDecoder>,
    /// The level up to which the finest has tensor headers.
    level: u8,
}

impl Tables {
    /// Bytes that they take in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        let finest = if Arc::ptr_eq(&self.base, &self.finest) { 0 } else { self.finest.memory_bytes() };
        self.base.memory_bytes() + finest
    }
}

impl<'a, S: Source> Tensor<'a, S> {
    /// Object number `number` of a file, whose tables are these: nothing is read.
    pub(crate) fn of_tables(file: &'a File<S>, number: u32, tables: &Tables) -> Result<Self, FileError> {
        Tensor::with(file, number, || Ok(tables.base.clone()))
    }

    /// Its tables, for every level that it can be read at.
    pub(crate) fn tables(&self) -> Result<Tables, FileError> {
        Ok(Tables { base: self.base.clone(), finest: self.finest()?, level: self.finest_level() })
    }

    /// The weights of rows that are all those of one tile row, as bytes of its dtype, on this thread alone.
    pub(crate) fn tile_row(&self, tables: &Tables, rows: Range<u64>) -> Result<Vec<u8>, FileError> {
        let columns = 0..self.matrix.cols();
        let stride = self.matrix.cols() as usize * self.dtype.size();
        let level = self.level(rows.start).min(tables.level);
        let units = self.file.reader.fetch(&self.units_meeting(level, &rows, &columns))?;
        let decoder = if level == 0 { &tables.base } else { &tables.finest };
        let mut out = vec![0; (rows.end - rows.start) as usize * stride];
        self.row_of_tiles(&Reading { decoder, level, units: &units }, rows, columns, &mut out, stride)?;
        Ok(out)
    }

    /// Is every row of tiles read as integers on the lattice, and not as exact elements?
    pub(crate) fn is_lattice(&self) -> bool {
        let reader = &self.file.reader;
        let on_lattice = |&tile: &u32| reader.units()[tile as usize].mode == Mode::LATTICE;
        let exact = |band: u64| {
            let layer = reader.layer_of(self.number, reader.level(self.number, band));
            layer.is_some_and(|layer| layer.mode == Mode::EXACT)
        };
        let across = u64::from(self.matrix.tiles_across().max(1));
        self.tiles.iter().all(on_lattice) && !(0..self.tiles.len() as u64 / across).any(exact)
    }

    /// A decoder for the finest level of any row of tiles.
    pub(crate) fn finest(&self) -> Result<Arc<TileDecoder>, FileError> {
        self.decoder(self.finest_level())
    }

    /// The finest level of any row of tiles.
    fn finest_level(&self) -> u8 {
        let height = self.matrix.tile_rows().max(1);
        let rows = (0..self.matrix.rows()).step_by(height as usize);
        rows.map(|row| self.level(row)).max().unwrap_or(0)
    }

    /// Says that rows of the matrix will not be read again soon, so that their units may leave memory.
    pub(crate) fn release(&self, rows: Range<u64>) {
        let reader = &self.file.reader;
        for unit in reader.units_of_band(self.number, rows, 0..self.matrix.cols()).unwrap_or_default() {
            reader.release_unit(unit);
        }
    }

    /// The integers of the rows of tiles number `row`, row-major over all columns, in `out` in place of what it holds.
    pub(crate) fn integers(&self, decoder: &TileDecoder, row: u64, out: &mut Vec<i32>) -> Result<(), FileError> {
        let height = self.matrix.tile_rows().max(1);
        let rows = row * height..((row + 1) * height).min(self.matrix.rows());
        let (width, level) = (self.matrix.cols() as usize, self.level(rows.start));
        let count = (rows.end - rows.start).saturating_mul(width as u64);
        let bytes = count.saturating_mul(size_of::<i32>() as u64);
        out.clear();
        // Asked first, since an allocation that fails would end the program.
        if bytes > self.limit || out.try_reserve_exact(count as usize).is_err() {
            let (file, name) = (self.file.reader.name().to_owned(), self.object.name.clone());
            return Err(FileError::MemoryLimit { file, name, bytes, limit: self.limit });
        }
        out.resize(count as usize, 0);
        let reader = &self.file.reader;
        let units = reader.fetch(&self.units_meeting(level, &rows, &(0..self.matrix.cols())))?;
        let reading = Reading { decoder, level, units: &units };
        let mut part = Vec::new();
        for tile in self.matrix.tiles_meeting(rows, 0..self.matrix.cols()) {
            let Some(rect) = self.matrix.tile(tile) else { continue };
            let place = Place::from(rect);
            part.resize(place.elements(), 0);
            self.with_units(&reading, tile, |units| decoder.integers(units, &place, &mut part))?;
            let lines = out.chunks_exact_mut(width).zip(part.chunks_exact(place.columns.len()));
            lines.for_each(|(out, part)| out[place.columns.clone()].copy_from_slice(part));
        }
        Ok(())
    }
}
