//! The units in layers above 0, and the tiles that they refine (SPEC 12).

use std::ops::Range;

use impasto_core::Mode;

use crate::error::{FormatError, shown};
use crate::manifest::Manifest;
use crate::unit::UnitEntry;

/// The tiles of one object in one layer above 0, except those in modes unknown to this version.
#[derive(Clone, Copy, Debug)]
pub struct LayerUnits<'a> {
    /// The mode of all these tiles: refinement, exact, blocks or transform.
    pub mode: Mode,
    /// The unit of the tensor header.
    pub header: u32,
    /// The units of the tiles, in ascending order of tile.
    pub units: &'a [u32],
    entries: &'a [UnitEntry],
}

impl LayerUnits<'_> {
    /// Returns the unit of tile number `tile`, if the layer has that tile.
    pub fn tile(&self, tile: u32) -> Option<u32> {
        let found = self.units.binary_search_by_key(&tile, |&unit| self.entries[unit as usize].tile).ok()?;
        Some(self.units[found])
    }
}

/// The tables of all layers above 0. They take about 4 bytes per unit in these layers and 4 per object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Above {
    /// For each object, the index of its first layer in `layers`; one further entry holds the end.
    first: Vec<u32>,
    /// The layers that have tiles; those of an object are numbered from 1 without gaps.
    layers: Vec<Table>,
    /// The tensor headers and tiles of these layers, by object, then layer, then tile, with the tensor header last.
    units: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Table {
    header: u32,
    /// Range of its tiles in `units`.
    tiles: Range<u32>,
}

impl Above {
    /// Builds the tables from `units`: the units of known objects in layers above 0, in modes known to this version.
    /// They must be in ascending order of object, layer and tile, with tensor headers last and no duplicates. `base`
    /// returns the unit in layer 0 of a tile of an object.
    ///
    /// # Errors
    /// If the units violate SPEC 3.6.3 or 12.2.
    pub fn new(
        manifest: &Manifest,
        units: Vec<u32>,
        base: impl Fn(u32, u32) -> Option<u32>,
    ) -> Result<Above, FormatError> {
        let place = |unit: u32| {
            let entry = &manifest.units[unit as usize];
            (entry.object, entry.layer)
        };
        let mut above = Above { first: Vec::with_capacity(manifest.objects.len() + 1), layers: vec![], units };
        let mut from = 0;
        while let Some(&unit) = above.units.get(from) {
            let (object, layer) = place(unit);
            let count = above.units[from..].iter().take_while(|&&unit| place(unit) == (object, layer)).count();
            above.begin_objects(object);
            above.add(manifest, from..from + count, &base)?;
            from += count;
        }
        above.begin_objects(manifest.objects.len() as u32);
        Ok(above)
    }

    /// Adds the units of the next layer of an object.
    fn add(
        &mut self,
        manifest: &Manifest,
        run: Range<usize>,
        base: impl Fn(u32, u32) -> Option<u32>,
    ) -> Result<(), FormatError> {
        let entry = |unit: u32| &manifest.units[unit as usize];
        let header = self.units[run.clone()].last().copied().filter(|&unit| entry(unit).is_header());
        let tiles = run.start..run.end - usize::from(header.is_some());
        // A tensor header that no tile needs is allowed.
        let Some(&earliest) = self.units[tiles.clone()].iter().min() else { return Ok(()) };
        let UnitEntry { object, layer, mode, .. } = *entry(earliest);
        let name = || shown(&manifest.objects[object as usize].name);
        let Some(header) = header.filter(|&header| header < earliest) else {
            return Err(FormatError::MissingHeader { name: name(), unit: earliest as usize });
        };
        let below = self.below(manifest, object, layer);
        for &unit in &self.units[tiles.clone()] {
            let UnitEntry { tile, mode: own, .. } = *entry(unit);
            if own != mode {
                return Err(FormatError::LayerModes { name: name(), layer });
            }
            let (coarser, wanted) = match layer {
                1 => (base(object, tile), Mode::LATTICE),
                _ => (below.and_then(|units| units.tile(tile)), Mode::REFINEMENT),
            };
            let wanted = if own == Mode::TRANSFORM { own } else { wanted };
            if coarser.is_none_or(|coarser| coarser > unit || entry(coarser).mode != wanted) {
                return Err(FormatError::NothingBelow { unit: unit as usize, tile, name: name(), layer });
            }
        }
        self.layers.push(Table { header, tiles: tiles.start as u32..tiles.end as u32 });
        Ok(())
    }

    /// Sets the start of the layers of all objects up to `object` that have none yet to the current end.
    fn begin_objects(&mut self, object: u32) {
        let here = self.layers.len() as u32;
        self.first.resize(self.first.len().max(object as usize + 1), here);
    }

    /// Returns the layer below `layer`, if it is the last one added for `object`.
    fn below<'a>(&'a self, manifest: &'a Manifest, object: u32, layer: u8) -> Option<LayerUnits<'a>> {
        let first = *self.first.get(object as usize)? as usize;
        let of_object = self.layers.len() - first;
        (of_object == usize::from(layer) - 1).then(|| self.units(&manifest.units, self.layers.last()?))?
    }

    fn units<'a>(&'a self, entries: &'a [UnitEntry], table: &Table) -> Option<LayerUnits<'a>> {
        let units = self.units.get(table.tiles.start as usize..table.tiles.end as usize)?;
        let mode = entries.get(*units.first()? as usize)?.mode;
        Some(LayerUnits { mode, header: table.header, units, entries })
    }

    /// Returns the number of layers above 0 of an object.
    pub fn count(&self, object: u32) -> u8 {
        let range = self.first.get(object as usize).zip(self.first.get(object as usize + 1));
        // A layer number is a byte, and there are no gaps.
        range.map_or(0, |(first, end)| (end - first) as u8)
    }

    /// Returns the units of an object in layer number `layer`, from 1 to [`Above::count`].
    pub fn layer<'a>(&'a self, entries: &'a [UnitEntry], object: u32, layer: u8) -> Option<LayerUnits<'a>> {
        if layer == 0 || layer > self.count(object) {
            return None;
        }
        let first = *self.first.get(object as usize)? as usize;
        self.units(entries, self.layers.get(first + usize::from(layer) - 1)?)
    }
}
