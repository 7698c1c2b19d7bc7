//! Reading by layers: the units of each layer, and the level of each tile row (SPEC 12).

use std::ops::Range;

use impasto_core::Mode;

use crate::above::LayerUnits;
use crate::reader::Reader;
use crate::source::Source;

impl<S: Source> Reader<S> {
    /// Returns the number of layers above 0 of object number `object`. They are numbered from 1 without gaps. A tied
    /// object has those of the tensor it is tied to; an object of unknown class has none.
    pub fn layers_of(&self, object: u32) -> u8 {
        self.layout.layers(self.resolve(object))
    }

    /// Returns the units in one of these layers, whether present or not.
    pub fn layer_of(&self, object: u32, layer: u8) -> Option<LayerUnits<'_>> {
        self.layout.layer(self.units(), self.resolve(object), layer)
    }

    /// Returns the level of a tile row of object number `object` (SPEC 12.3); `tile_row` is counted from the top.
    /// Returns 0 if none of its tiles is refined, since the row is then the same at every level.
    pub fn level(&self, object: u32, tile_row: u64) -> u8 {
        self.level_with(object, tile_row, |unit| self.is_present(unit))
    }

    /// Returns the level that a tile row of object number `object` has if all units are present. A delta names levels of its
    /// base so (SPEC 21.4).
    pub fn listed_level(&self, object: u32, tile_row: u64) -> u8 {
        self.level_with(object, tile_row, |_| true)
    }

    fn level_with(&self, object: u32, tile_row: u64, is_present: impl Fn(u32) -> bool) -> u8 {
        let (Some(units), Some(matrix)) = (self.units_of(object), self.matrix(object)) else { return 0 };
        let layers = self.layers_of(object);
        if layers == 0 {
            return 0;
        }
        // Tile numbers fit u32.
        let across = matrix.tiles_across() as usize;
        let first = usize::try_from(tile_row).map_or(usize::MAX, |row| row.saturating_mul(across));
        let row = units.tiles.get(first..).unwrap_or_default().iter().take(across);
        let above = self.layer_of(object, 1);
        // Not all tiles in mode transform are refined; one that is may have fewer layers than the tensor.
        let refined: Vec<(u32, bool)> = row
            .enumerate()
            .filter_map(|(i, unit)| Some(((first + i) as u32, self.units().get(*unit as usize)?.mode)))
            .filter(|&(tile, mode)| match mode {
                Mode::TRANSFORM => above.as_ref().is_some_and(|layer| layer.tile(tile).is_some()),
                _ => mode == Mode::LATTICE,
            })
            .map(|(tile, mode)| (tile, mode == Mode::LATTICE))
            .collect();
        if refined.is_empty() {
            return 0;
        }
        let there = |layer: LayerUnits<'_>| {
            let present = |&(tile, must): &(u32, bool)| layer.tile(tile).map_or(!must, &is_present);
            is_present(layer.header) && refined.iter().all(present)
        };
        (1..=layers).take_while(|&layer| self.layer_of(object, layer).is_some_and(there)).last().unwrap_or(0)
    }

    /// Returns the units that are needed to read a band of the matrix of object number `object`, with each tile row at
    /// its level: for each layer the tensor header, if there is one, then the tiles that intersect the band; after them those
    /// of the reference, in layer 0, that the tiles may be predicted from (SPEC 4.4).
    /// Returns `None` in the same cases as [`Reader::units_of`].
    pub fn units_of_band(&self, object: u32, rows: Range<u64>, cols: Range<u64>) -> Option<Vec<u32>> {
        let units = self.units_of(object)?;
        let matrix = self.matrix(object)?;
        let tiles: Vec<u32> = matrix.tiles_meeting(rows, cols).collect();
        let mut met: Vec<u32> = units.header.into_iter().collect();
        met.extend(tiles.iter().filter_map(|&tile| units.tiles.get(tile as usize)));
        let across = matrix.tiles_across().max(1);
        let levels: Vec<u8> = tiles
            .chunk_by(|a, b| a / across == b / across)
            .flat_map(|row| vec![self.level(object, u64::from(row[0] / across)); row.len()])
            .collect();
        for layer in 1..=levels.iter().copied().max().unwrap_or(0) {
            let Some(units) = self.layer_of(object, layer) else { break };
            met.push(units.header);
            let finer = tiles.iter().zip(&levels).filter(|&(_, &level)| level >= layer);
            met.extend(finer.filter_map(|(&tile, _)| units.tile(tile)));
        }
        let others: Vec<u32> = tiles.iter().filter_map(|&tile| self.reference_unit(object, tile)).collect();
        if !others.is_empty() {
            let header = self.reference_of(object).and_then(|reference| self.units_of(reference)?.header);
            met.extend(header.into_iter().chain(others));
        }
        Some(met)
    }
}
