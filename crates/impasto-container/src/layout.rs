//! Tables derived from a manifest: the byte ranges of units, and the units of objects.

use std::ops::Range;

use impasto_core::Mode;

use crate::above::{Above, LayerUnits};
use crate::error::{FormatError, shown};
use crate::geometry::Matrix;
use crate::manifest::Manifest;
use crate::object::{Object, check_objects};
use crate::unit::{ALIGNMENT, MAX_UNIT, UnitEntry};

/// Marks "no unit" in tables of unit numbers. There are fewer than 2^27 units (SPEC 2.2, 3.6).
const NONE: u32 = u32::MAX;

/// The tables derived from a manifest. A manifest with a `Layout` satisfies SPEC 3.4 to 4.3, 12.1 and 12.2.
#[derive(Clone, Debug)]
pub struct Layout {
    matrices: Vec<Option<Matrix>>,
    places: Places,
    /// For each object, the unit of its tensor header in layer 0.
    headers: Vec<u32>,
    /// For each object, the index of its first tile in `tiles`; one further entry holds the end.
    first: Vec<usize>,
    /// For each tile of each object, its unit in layer 0.
    tiles: Vec<u32>,
    /// For each object, whether this version knows all modes of its tiles in layer 0 (SPEC 3.6.1).
    readable: Vec<bool>,
    /// The units in layers above 0.
    above: Above,
}

/// The units of one object in layer 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectUnits<'a> {
    /// The unit of the tensor header, if there is one.
    pub header: Option<u32>,
    /// The unit of each tile.
    pub tiles: &'a [u32],
    /// Whether this version knows the modes of all these tiles, and of those of the reference.
    pub readable: bool,
}

impl Layout {
    /// Checks the manifest and builds the tables. Takes at most the time of sorting the units, and about 24 bytes of
    /// memory per unit and 100 per object.
    ///
    /// # Errors
    /// If the manifest violates SPEC 3.4 to 4.3, 12.1 or 12.2.
    pub fn new(manifest: &Manifest, manifest_length: u64) -> Result<Layout, FormatError> {
        let matrices = check_objects(&manifest.objects)?;
        let places = Places::new(manifest_length, manifest.units.iter().map(|unit| unit.length))?;
        let mut layout = Layout {
            headers: vec![NONE; matrices.len()],
            first: vec![0; matrices.len() + 1],
            tiles: Vec::new(),
            readable: matrices.iter().map(Option::is_some).collect(),
            matrices,
            places,
            above: Above::default(),
        };
        layout.reserve_tiles(manifest)?;
        let others = layout.fill(manifest)?;
        layout.above = Above::new(manifest, layout.known(manifest, others), |object, tile| layout.tile(object, tile))?;
        Ok(layout)
    }

    /// Returns the `units` that this version does not skip.
    fn known(&self, manifest: &Manifest, mut units: Vec<u32>) -> Vec<u32> {
        units.retain(|&unit| {
            let entry = &manifest.units[unit as usize];
            entry.mode.is_known() && self.matrices[entry.object as usize].is_some()
        });
        units
    }

    /// Returns the unit in layer 0 of a tile of an object.
    fn tile(&self, object: u32, tile: u32) -> Option<u32> {
        self.tiles.get(self.first.get(object as usize)? + tile as usize).copied()
    }

    /// Checks each unit on its own. Allocates the table of tiles only if there are enough units for the tiles of every
    /// object.
    fn reserve_tiles(&mut self, manifest: &Manifest) -> Result<(), FormatError> {
        let mut have = vec![0u32; manifest.objects.len()];
        for (unit, entry) in manifest.units.iter().enumerate() {
            let matrix = check_unit(unit, entry, &manifest.objects, &self.matrices)?;
            if matrix.is_some() && entry.layer == 0 && !entry.is_header() {
                have[entry.object as usize] += 1;
            }
        }
        for (number, object) in manifest.objects.iter().enumerate() {
            let own = self.matrices[number].filter(|_| object.tied().is_none() && !object.is_identical());
            let tiles = own.map_or(0, |matrix| matrix.tile_count());
            if have[number] < tiles {
                let name = shown(&object.name);
                return Err(FormatError::MissingTiles { name, have: have[number], tiles });
            }
            self.first[number + 1] = self.first[number] + tiles as usize;
        }
        self.tiles = vec![NONE; self.first.last().copied().unwrap_or(0)];
        Ok(())
    }

    /// Assigns the units of layer 0 to tensor headers and tiles, in the order of the file. Every tile gets a unit,
    /// because there are enough units, each is inside its object, and no tile has two. Returns the other units, without
    /// duplicates, in ascending order of object, layer and tile, with tensor headers last.
    fn fill(&mut self, manifest: &Manifest) -> Result<Vec<u32>, FormatError> {
        let name = |entry: &UnitEntry| shown(&manifest.objects[entry.object as usize].name);
        let duplicate = |first: u32, second: u32| {
            let (first, second) = (first as usize, second as usize);
            FormatError::DuplicateUnit { first, second, name: name(&manifest.units[second]) }
        };
        let mut others = Vec::new();
        for (unit, entry) in (0..).zip(&manifest.units) {
            let object = entry.object as usize;
            if entry.layer > 0 || self.matrices[object].is_none() {
                others.push(unit);
                continue;
            }
            let slot = if entry.is_header() {
                &mut self.headers[object]
            } else {
                &mut self.tiles[self.first[object] + entry.tile as usize]
            };
            if *slot != NONE {
                return Err(duplicate(*slot, unit));
            }
            *slot = unit;
            if entry.mode.needs_header() && self.headers[object] == NONE {
                return Err(FormatError::MissingHeader { name: name(entry), unit: unit as usize });
            }
            self.readable[object] &= entry.mode.is_known();
        }
        for (object, of) in manifest.objects.iter().enumerate() {
            self.readable[object] &= of.reference().is_none_or(|reference| self.readable[reference as usize]);
        }
        // Skipped units are in no table, but they must not be duplicates either.
        let key = |unit: u32| {
            let entry = &manifest.units[unit as usize];
            // An object has at most one tensor header per layer, whatever its `tile` field says.
            (entry.object, entry.layer, entry.is_header(), if entry.is_header() { 0 } else { entry.tile })
        };
        others.sort_unstable_by_key(|&unit| (key(unit), unit));
        match others.windows(2).find(|pair| key(pair[0]) == key(pair[1])) {
            Some(pair) => Err(duplicate(pair[0], pair[1])),
            None => Ok(others),
        }
    }

    /// Returns the matrix of object number `object`; `None` if there is no such object or its class is unknown.
    pub fn matrix(&self, object: u32) -> Option<&Matrix> {
        self.matrices.get(object as usize)?.as_ref()
    }

    /// Returns the units of object number `object` in layer 0 (none for a tied object). `None` if there is no such
    /// object or its class is unknown.
    pub fn own_units(&self, object: u32) -> Option<ObjectUnits<'_>> {
        self.matrix(object)?;
        let object = object as usize;
        let header = self.headers[object];
        Some(ObjectUnits {
            header: (header != NONE).then_some(header),
            tiles: &self.tiles[self.first[object]..self.first[object + 1]],
            readable: self.readable[object],
        })
    }

    /// Returns the number of layers above 0 of object number `object`; 0 for a tied object or one of unknown class.
    /// Layers are numbered from 1 without gaps.
    pub fn layers(&self, object: u32) -> u8 {
        self.above.count(object)
    }

    /// Returns the units of object number `object` in a layer above 0. `entries` holds all units of the manifest.
    pub fn layer<'a>(&'a self, entries: &'a [UnitEntry], object: u32, layer: u8) -> Option<LayerUnits<'a>> {
        self.above.layer(entries, object, layer)
    }

    /// Returns the byte ranges of the units.
    pub fn places(&self) -> &Places {
        &self.places
    }
}

/// Checks the rules of SPEC 3.6, 3.6.2, 12.1 and 21.6 about a single unit. Returns the matrix of its object.
fn check_unit<'a>(
    unit: usize,
    entry: &UnitEntry,
    objects: &[Object],
    matrices: &'a [Option<Matrix>],
) -> Result<Option<&'a Matrix>, FormatError> {
    let UnitEntry { object, tile, layer, .. } = *entry;
    let (Some(owner), Some(matrix)) = (objects.get(object as usize), matrices.get(object as usize)) else {
        return Err(FormatError::UnitObject { unit, object });
    };
    let name = || shown(&owner.name);
    if owner.tied().is_some() {
        return Err(FormatError::UnitOfTied { unit, name: name() });
    }
    if owner.is_identical() {
        return Err(FormatError::UnitOfIdentical { unit, name: name() });
    }
    let is_delta = owner.is_delta();
    if is_delta && matches!(entry.mode, Mode::TRANSFORM | Mode::BLOCKS) {
        return Err(FormatError::DeltaMode { unit, name: name(), mode: entry.mode.0 });
    }
    // For an object of unknown class, the number of tiles is unknown, so the field cannot be checked.
    if let Some(matrix) = matrix {
        if entry.is_header() && tile != 0 {
            return Err(FormatError::HeaderTile { unit, tile });
        }
        let tiles = matrix.tile_count();
        if tile >= tiles {
            return Err(FormatError::UnitTile { unit, tile, name: name(), tiles });
        }
        if entry.mode.is_known() && !entry.is_header() && !entry.mode.occurs_in(layer, is_delta) {
            return Err(FormatError::LayerMode { unit, name: name(), mode: entry.mode.0, layer });
        }
    }
    Ok(matrix.as_ref())
}

/// The byte ranges of units (SPEC 2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// For each unit, its range of bytes.
    ranges: Vec<Range<u64>>,
    end: u64,
}

impl Places {
    /// Computes the ranges of units of `lengths` bytes after a manifest of `manifest_length` bytes.
    ///
    /// # Errors
    /// If a unit is too long (SPEC 3.6).
    pub fn new(manifest_length: u64, lengths: impl IntoIterator<Item = u32>) -> Result<Places, FormatError> {
        let mut end = (crate::Header::SIZE as u64).saturating_add(manifest_length);
        let lengths = lengths.into_iter();
        let mut ranges = Vec::with_capacity(lengths.size_hint().0);
        for (unit, length) in lengths.enumerate() {
            if length > MAX_UNIT {
                return Err(FormatError::UnitLength { unit, length });
            }
            let start = align(end);
            end = start.saturating_add(u64::from(length));
            ranges.push(start..end);
        }
        Ok(Places { ranges, end })
    }

    /// Returns the byte range of unit number `unit`, if there is such a unit.
    pub fn unit(&self, unit: u32) -> Option<Range<u64>> {
        self.ranges.get(unit as usize).cloned()
    }

    /// Returns the end of the last unit, which is the length of the file.
    pub fn end(&self) -> u64 {
        self.end
    }
}

/// Returns the first position at or after `end` where a unit may begin.
pub(crate) fn align(end: u64) -> u64 {
    end.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX)
}
