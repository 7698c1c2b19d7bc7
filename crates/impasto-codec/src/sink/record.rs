//! The coding sink: records the symbols in order, then codes them in reverse.

use impasto_core::varint;

use super::SymbolSink;
use crate::bits::{BitMark, BitWriter};
use crate::class::{Class, Kind};
use crate::rans::{LANES, LOW, Segment, escape_code, symbol};
use crate::tables::{ESCAPE, Frequencies, SYMBOLS, TABLE_BITS};

/// Frequencies of all tables of a kind, in the form for coding.
pub struct CodingTables {
    kind: Kind,
    /// By table and symbol: the frequency in the low half, the symbol's start in the high half.
    slots: Vec<u32>,
}

impl CodingTables {
    /// Lays out `tables`, one for each table number of `kind`; each must sum to [`crate::tables::TOTAL`].
    pub fn new(kind: Kind, tables: &[Frequencies]) -> Self {
        let slots = |table: &Frequencies| {
            let starts = table.starts();
            std::array::from_fn::<u32, SYMBOLS, _>(|s| u32::from(table.0[s]) | u32::from(starts[s]) << 16)
        };
        CodingTables { kind, slots: tables.iter().flat_map(slots).collect() }
    }

    /// Returns the kind of values that the tables code.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Bit positions in a record: the end of its slot, and the start of its low bits. The number of low bits is in between.
const SLOT_BITS: u32 = 11;
const LOW_AT: u32 = 16;
const ESCAPE_SLOT: usize = ESCAPE;

/// Records the symbols of a tile, then codes them segment by segment.
pub struct Recorder<'a> {
    tables: &'a CodingTables,
    width: usize,
    /// For each element of the current segment: its slot in the tables (bits 0 to 10), the number of its low bits (11
    /// to 13), and its low bits (from 16).
    records: Vec<u32>,
    /// Varints of the escapes of the current segment.
    escapes: Vec<u8>,
    plane: BitWriter,
    /// A value needed an escape, and its table gives the escape no frequency.
    stuck: bool,
}

/// A position in a recording to roll back to.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    records: usize,
    escapes: usize,
    plane: BitMark,
    stuck: bool,
}

impl<'a> Recorder<'a> {
    /// Creates a recorder for tiles of `width` columns, with capacity for segments of `elements` elements.
    pub fn new(tables: &'a CodingTables, width: usize, elements: usize) -> Self {
        let records = Vec::with_capacity(elements);
        Recorder { tables, width, records, escapes: Vec::new(), plane: BitWriter::default(), stuck: false }
    }

    /// Returns the current position in this segment.
    pub fn checkpoint(&self) -> Checkpoint {
        let (records, escapes, plane) = (self.records.len(), self.escapes.len(), self.plane.mark());
        Checkpoint { records, escapes, plane, stuck: self.stuck }
    }

    /// Removes what was recorded after a checkpoint in the same segment.
    pub fn roll_back(&mut self, to: Checkpoint) {
        self.records.truncate(to.records);
        self.escapes.truncate(to.escapes);
        self.plane.roll_back(to.plane);
        self.stuck = to.stuck;
    }

    /// Codes what was recorded since the last segment. Returns `None` if a value needs an escape and its table gives
    /// the escape no frequency.
    pub fn segment(&mut self) -> Option<Segment> {
        if self.stuck {
            return None;
        }
        let (states, words) = code(&self.tables.slots, self.width, &self.records);
        self.records.clear();
        Some(Segment { states, words, escapes: std::mem::take(&mut self.escapes) })
    }

    /// Returns the plane of all rows so far.
    pub fn plane(self) -> Vec<u8> {
        self.plane.finish()
    }
}

impl SymbolSink for Recorder<'_> {
    #[inline(always)]
    fn symbol(&mut self, class: Class, value: i32) {
        let (s, mut low) = symbol(class, value);
        let mut slot = class.table * SYMBOLS + s;
        if s == ESCAPE || self.tables.slots[slot] as u16 == 0 {
            slot |= ESCAPE_SLOT;
            low = 0;
            varint::write(&mut self.escapes, escape_code(self.tables.kind, value));
            self.stuck |= self.tables.slots[slot] as u16 == 0;
        }
        self.records.push(slot as u32 | class.low_bits << SLOT_BITS | low << LOW_AT);
    }

    #[inline(always)]
    fn raw(&mut self, field: u32, bits: u32) {
        self.plane.put(field, bits);
    }

    #[inline(always)]
    fn end_row(&mut self) {
        self.plane.align();
    }
}

/// Codes records of rows of `width` in reverse, so that a decoder runs forwards. Returns the lane states and the words,
/// in decoding order.
fn code(slots: &[u32], width: usize, records: &[u32]) -> ([u32; LANES], Vec<u16>) {
    let mut states = [LOW; LANES];
    let mut words = Vec::new();
    for row in records.chunks_exact(width.max(1)).rev() {
        for (c, &record) in row.iter().enumerate().rev() {
            let slot = slots[(record & ((1 << SLOT_BITS) - 1)) as usize];
            let (frequency, start) = (slot & 0xFFFF, slot >> 16);
            let (b, low) = (record >> SLOT_BITS & 7, record >> LOW_AT);
            let x = &mut states[c % LANES];
            if u64::from(*x) >= u64::from(frequency) << (32 - TABLE_BITS - b) {
                words.push(*x as u16);
                *x >>= 16;
            }
            let y = (*x / frequency) << TABLE_BITS | (start + *x % frequency);
            *x = y << b | low;
        }
    }
    words.reverse();
    (states, words)
}
