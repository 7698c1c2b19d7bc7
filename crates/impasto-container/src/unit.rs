//! Units as the manifest describes them (SPEC 3.6).

use impasto_core::Mode;

use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::fields::{Field, table};

/// Most bytes of a unit (SPEC 3.6).
pub const MAX_UNIT: u32 = 1 << 28;

/// The first byte of a unit is at a multiple of this (SPEC 2.4).
pub const ALIGNMENT: u64 = 16;

/// An entry of the units record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitEntry {
    /// The number of the object it belongs to.
    pub object: u32,
    /// The tile it holds; 0 for a head.
    pub tile: u32,
    /// Its coding mode.
    pub mode: Mode,
    /// Its quality layer.
    pub layer: u8,
    /// Its bytes.
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
    /// Bytes of an entry.
    pub const SIZE: usize = Table::SIZE;

    /// Reads the entry of unit number `unit`.
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

    /// Whether it is a head.
    pub fn is_header(&self) -> bool {
        self.mode == Mode::TENSOR_HEADER
    }
}

/// The hash of a unit: the first 16 bytes of BLAKE3.
pub fn unit_hash(bytes: &[u8]) -> [u8; 16] {
    let full: [u8; 32] = blake3::hash(bytes).into();
    std::array::from_fn(|i| full[i])
}
