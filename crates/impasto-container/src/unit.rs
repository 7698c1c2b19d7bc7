//! Entries of units in the manifest (SPEC 3.6).

use impasto_core::Mode;

use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::fields::{Field, table};

/// The largest length of a unit in bytes (SPEC 3.6).
pub const MAX_UNIT: u32 = 1 << 28;

/// Units begin at multiples of this many bytes (SPEC 2.4).
pub const ALIGNMENT: u64 = 16;

/// An entry of the units record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitEntry {
    /// Number of the object that the unit belongs to.
    pub object: u32,
    /// Number of the tile; 0 for a tensor header.
    pub tile: u32,
    /// Its coding mode.
    pub mode: Mode,
    /// Its quality layer.
    pub layer: u8,
    /// Length in bytes.
    pub length: u32,
    /// The first 16 bytes of the BLAKE3 hash of the unit.
    pub hash: [u8; 16],
}

table! {
    struct Table {
        object: u32,
        tile: u32,
        mode: u8,
        layer: u8,
        reserved: u16,
        length: u32,
        hash: [u8; 16],
    }
}

impl UnitEntry {
    /// Size of an entry in bytes.
    pub const SIZE: usize = Table::SIZE;

    /// Parses the entry of unit number `unit`.
    pub(crate) fn read(cursor: &mut Cursor<'_>, unit: usize) -> Result<UnitEntry, FormatError> {
        let table: Table = cursor.take()?;
        if table.reserved != 0 {
            return Err(FormatError::Reserved { unit });
        }
        Ok(UnitEntry {
            object: table.object,
            tile: table.tile,
            mode: Mode(table.mode),
            layer: table.layer,
            length: table.length,
            hash: table.hash,
        })
    }

    /// Appends the entry.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        Table {
            object: self.object,
            tile: self.tile,
            mode: self.mode.0,
            layer: self.layer,
            reserved: 0,
            length: self.length,
            hash: self.hash,
        }
        .put(out);
    }

    /// Returns whether the unit is a tensor header.
    pub fn is_header(&self) -> bool {
        self.mode == Mode::TENSOR_HEADER
    }
}

/// Returns the hash of a unit: the first 16 bytes of its BLAKE3 hash.
pub fn unit_hash(bytes: &[u8]) -> [u8; 16] {
    let full: [u8; 32] = blake3::hash(bytes).into();
    std::array::from_fn(|i| full[i])
}
