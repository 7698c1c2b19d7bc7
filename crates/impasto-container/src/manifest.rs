//! The manifest: all objects and all units of a file (SPEC 3).

use impasto_core::varint;

use crate::base::{Base, check_links};
use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::layers::{LayerMark, check_marks, read_marks, write_marks};
use crate::limits::Limits;
use crate::object::{Object, Tally};
use crate::unit::UnitEntry;

const LAYERS: u8 = 0x01;
const OBJECT: u8 = 0x81;
const UNITS: u8 = 0x82;
const BASE: u8 = 0x83;

/// Unknown records of this kind and above must not be skipped (SPEC 3.2).
const CRITICAL: u8 = 0x80;

/// The objects, units and layers of a file. [`crate::Layout::new`] checks the rules that involve several records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// The objects; the index is the number of the object.
    pub objects: Vec<Object>,
    /// The entries of the units, in the order of the file.
    pub units: Vec<UnitEntry>,
    /// The layers that the writer recorded, coarsest first; empty if there is no layers record.
    pub layers: Vec<LayerMark>,
    /// The file that this one is a delta of, if it is one.
    pub base: Option<Base>,
}

impl Manifest {
    /// Parses the records of a manifest.
    ///
    /// # Errors
    /// If a record violates SPEC 3.1 to 3.6.1, 3.7 or 21.1, or the manifest exceeds `limits`.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Manifest, FormatError> {
        let mut cursor = Cursor::new(bytes);
        let mut objects: Vec<Object> = Vec::new();
        let (mut units, mut layers, mut base) = (None, None, None);
        let mut tally = Tally::new(limits);
        while cursor.left() > 0 {
            let kind: u8 = cursor.take()?;
            let length = cursor.varint()?;
            let payload = cursor.part(length)?;
            let at = cursor.at();
            match kind {
                OBJECT if units.is_some() => return Err(FormatError::ObjectAfterUnits { at }),
                OBJECT => {
                    let before = objects.last().map_or("", |object| &object.name);
                    let object = Object::read(payload, objects.len(), before)?;
                    tally.add(&object)?;
                    objects.push(object);
                }
                UNITS if units.is_some() => return Err(FormatError::UnitsTwice { at }),
                UNITS => units = Some(read_units(payload)?),
                LAYERS if layers.is_some() => return Err(FormatError::LayersTwice { at }),
                LAYERS => layers = Some(read_marks(payload)?),
                BASE if base.is_some() => return Err(FormatError::BaseTwice { at }),
                BASE => base = Some(Base::read(payload)?),
                CRITICAL.. => return Err(FormatError::UnknownRecord { kind, at }),
                _ => {}
            }
        }
        let units = units.ok_or(FormatError::NoUnits)?;
        let layers = layers.unwrap_or_default();
        check_marks(&layers, units.len())?;
        check_links(&objects, base.as_ref())?;
        Ok(Manifest { objects, units, layers, base })
    }

    /// Returns the bytes of the manifest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = records_before_entries(&self.objects, self.units.len(), &self.layers, self.base.as_ref());
        out.reserve_exact(self.units.len() * UnitEntry::SIZE);
        self.units.iter().for_each(|unit| unit.write(&mut out));
        out
    }
}

/// Returns the length in bytes of a manifest of `objects`, any `units` units, `layers` and a base. It does not depend on
/// the content of the units, so it is known before they are coded.
pub fn manifest_length(objects: &[Object], units: usize, layers: &[LayerMark], base: Option<&Base>) -> u64 {
    records_before_entries(objects, units, layers, base).len() as u64 + entries_length(units)
}

/// Returns the records of the base, objects and layers, and the units record up to its first entry.
fn records_before_entries(objects: &[Object], units: usize, layers: &[LayerMark], base: Option<&Base>) -> Vec<u8> {
    let (mut out, mut payload) = (Vec::new(), Vec::new());
    let mut before = "";
    if let Some(base) = base {
        base.write(&mut payload);
        out.push(BASE);
        varint::write(&mut out, payload.len() as u64);
        out.extend_from_slice(&payload);
    }
    for object in objects {
        payload.clear();
        object.write(before, &mut payload);
        before = &object.name;
        out.push(OBJECT);
        varint::write(&mut out, payload.len() as u64);
        out.extend_from_slice(&payload);
    }
    if !layers.is_empty() {
        payload.clear();
        write_marks(layers, &mut payload);
        out.push(LAYERS);
        varint::write(&mut out, payload.len() as u64);
        out.extend_from_slice(&payload);
    }
    payload.clear();
    varint::write(&mut payload, units as u64);
    out.push(UNITS);
    varint::write(&mut out, payload.len() as u64 + entries_length(units));
    out.extend_from_slice(&payload);
    out
}

fn entries_length(units: usize) -> u64 {
    units as u64 * UnitEntry::SIZE as u64
}

fn read_units(mut payload: Cursor<'_>) -> Result<Vec<UnitEntry>, FormatError> {
    let count = payload.varint()?;
    let length = payload.left() as u64;
    if count.checked_mul(UnitEntry::SIZE as u64) != Some(length) {
        return Err(FormatError::UnitsLength { count, length });
    }
    // Memory is bounded, because the entries were found in the payload.
    let mut units = Vec::with_capacity(count as usize);
    for unit in 0..count as usize {
        units.push(UnitEntry::read(&mut payload, unit)?);
    }
    Ok(units)
}
