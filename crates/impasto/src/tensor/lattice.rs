//! The integers of a tensor on a lattice, one tile row at a time.

use std::sync::Arc;

use impasto_codec::tile::TileDecoder;
use impasto_container::Source;
use impasto_core::{Format, Mode, Place};

use super::{Reading, Tensor};
use crate::error::FileError;

impl<S: Source> Tensor<'_, S> {
    /// Returns the format of engines (SPEC 20) that the tensor is read in, if it has one.
    pub fn format(&self) -> Option<Format> {
        self.header().filter(|_| self.is_lattice())?.groups().map(|groups| groups.format)
    }

    /// Returns whether every tile row is read as integers on the lattice, rather than as exact elements.
    pub(crate) fn is_lattice(&self) -> bool {
        self.over.is_none() && self.has_integers()
    }

    /// Returns whether every tile row is read as such integers that are added to the tensor of the base.
    #[cfg(any(feature = "encode", feature = "run"))]
    pub(crate) fn adds_integers(&self) -> bool {
        self.over.is_some() && self.has_integers()
    }

    fn has_integers(&self) -> bool {
        let reader = &self.file.reader;
        let on_lattice = |&tile: &u32| reader.units()[tile as usize].mode == Mode::LATTICE;
        let exact = |band: u64| {
            let layer = reader.layer_of(self.number, reader.level(self.number, band));
            layer.is_some_and(|layer| layer.mode.is_exact_layer())
        };
        let across = u64::from(self.matrix.tiles_across().max(1));
        self.tiles.iter().all(on_lattice) && !(0..self.tiles.len() as u64 / across).any(exact)
    }

    /// Returns a decoder for the finest level of any tile row.
    pub(crate) fn finest(&self) -> Result<Arc<TileDecoder>, FileError> {
        self.decoder(self.finest_level())
    }

    /// Returns the finest level of any tile row.
    pub(super) fn finest_level(&self) -> u8 {
        let height = self.matrix.tile_rows().max(1);
        let rows = (0..self.matrix.rows()).step_by(height as usize);
        rows.map(|row| self.level(row)).max().unwrap_or(0)
    }

    /// Replaces `out` by the integers of tile row `row`, row-major over all columns.
    pub(crate) fn integers(&self, decoder: &TileDecoder, row: u64, out: &mut Vec<i32>) -> Result<(), FileError> {
        let height = self.matrix.tile_rows().max(1);
        let rows = row * height..((row + 1) * height).min(self.matrix.rows());
        let (width, level) = (self.matrix.cols() as usize, self.level(rows.start));
        let count = (rows.end - rows.start).saturating_mul(width as u64);
        let bytes = count.saturating_mul(size_of::<i32>() as u64);
        // Checked first, because a failed allocation would abort the program.
        self.file.within_memory(self.number, bytes.saturating_add(self.working_bytes()), self.limit)?;
        let more = (count as usize).saturating_sub(out.len());
        if out.try_reserve_exact(more).is_err() {
            return Err(self.file.no_memory(self.object, bytes));
        }
        out.resize(count as usize, 0);
        let reader = &self.file.reader;
        let units = reader.fetch(&self.units_meeting(level, &rows, &(0..self.matrix.cols())))?;
        let reading = Reading { decoder, level, units: &units };
        let decoded = self.matrix.tiles_meeting(rows, 0..self.matrix.cols()).try_for_each(|tile| {
            let Some(rect) = self.matrix.tile(tile) else { return Ok(()) };
            let place = Place::from(rect);
            let out = &mut out[place.columns.start..];
            self.with_units(&reading, tile, |units| decoder.integers(units, &place, out, width))
        });
        self.file.settled(decoded)
    }
}
