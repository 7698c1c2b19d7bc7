//! The coding sink: symbols are recorded in their order and coded in reverse.

use impasto_core::varint;

use super::SymbolSink;
use crate::bits::{BitMark, BitWriter};
use crate::class::{Class, Kind};
use crate::rans::{LANES, LOW, Segment, escape_code, symbol};
use crate::tables::{ESCAPE, Frequencies, SYMBOLS, TABLE_BITS};

/// Frequencies of all tables of a kind, laid out for the coder.
pub struct CodingTables {
    kind: Kind,
    /// By table and symbol: the frequency, and the symbol's start in the upper half.
    slots: Vec<u32>,
}

impl CodingTables {
    /// Lays out `tables`, one for each table number of `kind`; each sums to [`crate::tables::TOTAL`].
    pub fn new(kind: Kind, tables: &[Frequencies]) -> Self {
        let slots = |table: &Frequencies| {
            let starts = table.starts();
            std::array::from_fn::<u32, SYMBOLS, _>(|s| u32::from(table.0[s]) | u32::from(starts[s]) << 16)
        };
        CodingTables { kind, slots: tables.iter().flat_map(slots).collect() }
    }

    /// The kind of values that they code.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Bits of a record: where its slot ends, and where its low bits begin. Between them is their number.
const SLOT_BITS: u32 = 11;
const LOW_AT: u32 = 16;
const ESCAPE_SLOT: usize = ESCAPE;

/// Records the symbols of a tile, then codes them, a segment at a time.
pub struct Recorder<'a> {
    tables: &'a CodingTables,
    width: usize,
    /// Of each element of this segment: its slot in the tables (bits 0 to 10), the number of its low bits (11 to 13), these bits (from 16).
    records: Vec<u32>,
    /// Varints of this segment's escapes.
    escapes: Vec<u8>,
    plane: BitWriter,
    /// Some value needs an escape, and its table has none.
    stuck: bool,
}

/// A place in a recording to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint {
    records: usize,
    escapes: usize,
    plane: BitMark,
    stuck: bool,
}

impl<'a> Recorder<'a> {
    /// For tiles of `width` columns; room is made for segments of `elements`.
    pub fn new(tables: &'a CodingTables, width: usize, elements: usize) -> Self {
        let records = Vec::with_capacity(elements);
        Recorder { tables, width, records, escapes: Vec::new(), plane: BitWriter::default(), stuck: false }
    }

    /// Where the recording stands in this segment.
    pub fn checkpoint(&self) -> Checkpoint {
        let (records, escapes, plane) = (self.records.len(), self.escapes.len(), self.plane.mark());
        Checkpoint { records, escapes, plane, stuck: self.stuck }
    }

    /// Forgets what was recorded after a checkpoint of the same segment.
    pub fn roll_back(&mut self, to: Checkpoint) {
        self.records.truncate(to.records);
        self.escapes.truncate(to.escapes);
        self.plane.roll_back(to.plane);
        self.stuck = to.stuck;
    }

    /// Codes what was recorded since the last segment. `None` if a value needs an escape and its table gives the escape no frequency.
    pub fn segment(&mut self) -> Option<Segment> {
        if self.stuck {
            return None;
        }
        let (states, words) = code(&self.tables.slots, self.width, &self.records);
        self.records.clear();
        Some(Segment { states, words, escapes: std::mem::take(&mut self.escapes) })
    }

    /// The plane of all rows so far.
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

/// Codes records of rows of `width` backwards, so that a decoder runs forwards: the lanes' states, and the words in a decoder's order.
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
