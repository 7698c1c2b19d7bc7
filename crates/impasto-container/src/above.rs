//! The units in layers above 0: which make which tiles finer (SPEC 12).

use std::ops::Range;

use impasto_core::Mode;

use crate::error::{FormatError, shown};
use crate::manifest::Manifest;
use crate::unit::UnitEntry;

/// The tiles of one object in one layer above 0. Tiles in modes that this version does not know are left out.
#[derive(Clone, Copy, Debug)]
pub struct LayerUnits<'a> {
    /// The mode of all these tiles: refinement or exact.
    pub mode: Mode,
    /// The unit that is their head.
    pub header: u32,
    /// Their units, ascending by tile.
    pub units: &'a [u32],
    entries: &'a [UnitEntry],
}

impl LayerUnits<'_> {
    /// The unit that holds tile number `tile`, if the layer has it.
    pub fn tile(&self, tile: u32) -> Option<u32> {
        let found = self.units.binary_search_by_key(&tile, |&unit| self.entries[unit as usize].tile).ok()?;
        Some(self.units[found])
    }
}

/// The tables of all layers above 0. Memory is about 4 bytes a unit in them and 4 an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Above {
    /// For each object: where its layers begin in `layers`; one entry more, the end.
    first: Vec<u32>,
    /// The layers that have tiles: of each object those from 1 on without a gap.
    layers: Vec<Table>,
    /// The tensor headers and tiles of these layers: by object, then layer, then tile, the tensor header last.
    units: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Table {
    header: u32,
    /// Its tiles in `units`.
    tiles: Range<u32>,
}

impl Above {
    /// Builds the tables from `units`, which are those of known objects in layers above 0, in modes that this version
    /// knows: ascending by object, then layer, then tile, tensor headers last, no two in the same place. `base` gives the unit in
    /// layer 0 of a tile of an object.
    ///
    /// # Errors
    /// What SPEC 3.6.3 and 12.2 refuse.
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

    /// Enters the layer whose units are these, the next of its object.
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
            if coarser.is_none_or(|coarser| coarser > unit || entry(coarser).mode != wanted) {
                return Err(FormatError::NothingBelow { unit: unit as usize, tile, name: name(), layer });
            }
        }
        self.layers.push(Table { header, tiles: tiles.start as u32..tiles.end as u32 });
        Ok(())
    }

    /// Marks that the layers of all objects up to `object` that have not begun begin here.
    fn begin_objects(&mut self, object: u32) {
        let here = self.layers.len() as u32;
        self.first.resize(self.first.len().max(object as usize + 1), here);
    }

    /// The layer below `layer`, if it is the last of `object` that has been entered.
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

    /// How many layers above 0 the object has; no tile is in a higher one.
    pub fn count(&self, object: u32) -> u8 {
        let range = self.first.get(object as usize).zip(self.first.get(object as usize + 1));
        // Layers are numbered by a byte and have no gaps.
        range.map_or(0, |(first, end)| (end - first) as u8)
    }

    /// The units of layer number `layer` of an object, from 1 to [`Above::count`].
    pub fn layer<'a>(&'a self, entries: &'a [UnitEntry], object: u32, layer: u8) -> Option<LayerUnits<'a>> {
        if layer == 0 || layer > self.count(object) {
            return None;
        }
        let first = *self.first.get(object as usize)? as usize;
        self.units(entries, self.layers.get(first + usize::from(layer) - 1)?)
    }
}
