//! The coding sink: records the symbols in order, then codes them in reverse.

use impasto_core::{Isa, at_each_isa, varint};

use super::SymbolSink;
use super::slot::{Slot, in_batches};
use crate::bits::{BitMark, BitWriter};
use crate::class::Kind;
use crate::rans::{Coded, LANES, LOW, Segment, code, escape_code};
use crate::tables::{ESCAPE, Frequencies, SYMBOLS};

/// Number of slots of the kind with the most tables.
const SLOTS: usize = Kind::Trellis.tables() * SYMBOLS;

/// Frequencies of all tables of a kind, in the form for coding.
pub struct CodingTables {
    kind: Kind,
    /// By table and symbol; [`Coded::NONE`] for a symbol without a frequency, and beyond the tables.
    slots: Box<[Coded; SLOTS]>,
}

impl CodingTables {
    /// Lays out `tables`, one for each table number of `kind`; each must sum to [`crate::tables::TOTAL`].
    pub fn new(kind: Kind, tables: &[Frequencies]) -> Self {
        let mut slots = Box::new([Coded::NONE; SLOTS]);
        for (slots, table) in slots.chunks_exact_mut(SYMBOLS).zip(tables) {
            let symbols = table.0.iter().zip(table.starts());
            slots.iter_mut().zip(symbols).for_each(|(slot, (&frequency, start))| *slot = Coded::new(frequency, start));
        }
        CodingTables { kind, slots }
    }

    /// Returns the kind of values that the tables code.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// Records the symbols of a tile, then codes them segment by segment.
pub struct Recorder<'a> {
    tables: &'a CodingTables,
    width: usize,
    /// The elements of the current segment: the first `recorded`. The others are room for more.
    records: Vec<Coded>,
    recorded: usize,
    /// Working memory for the words of a segment.
    words: Vec<u16>,
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
        let (records, words) = (vec![Coded::NONE; elements], Vec::new());
        let (escapes, plane) = (Vec::new(), BitWriter::default());
        Recorder { tables, width, records, recorded: 0, words, escapes, plane, stuck: false }
    }

    /// Returns the current position in this segment.
    pub fn checkpoint(&self) -> Checkpoint {
        let (records, escapes, plane) = (self.recorded, self.escapes.len(), self.plane.mark());
        Checkpoint { records, escapes, plane, stuck: self.stuck }
    }

    /// Removes what was recorded after a checkpoint in the same segment.
    pub fn roll_back(&mut self, to: Checkpoint) {
        self.recorded = to.records;
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
        let mut states = [LOW; LANES];
        let records = &self.records[..self.recorded];
        let words = code(Isa::best(), self.width, records, &mut states, &mut self.words).to_vec();
        self.recorded = 0;
        Some(Segment { states, words, escapes: std::mem::take(&mut self.escapes) })
    }

    /// Returns the plane of all rows so far.
    pub fn plane(self) -> Vec<u8> {
        self.plane.finish()
    }
}

at_each_isa! {
    /// Looks up symbols. Returns whether one is an escape or has no frequency.
    fn look_up(table: &[Coded; SLOTS], slots: &[Slot], records: &mut [Coded]) -> bool {
        // Without an early exit, so that the loop becomes vectors.
        let mut is_rare = false;
        for (record, slot) in records.iter_mut().zip(slots) {
            let symbol = table[slot.index()];
            is_rare |= slot.is_escape() | symbol.is_none();
            *record = symbol.with_low(slot.low_bits(), slot.low());
        }
        is_rare
    }
}

impl SymbolSink for Recorder<'_> {
    fn symbols(&mut self, classes: &[i32], values: &[i32]) {
        let CodingTables { kind, slots } = self.tables;
        in_batches(*kind, classes, values, |found, values| {
            let start = self.recorded;
            self.recorded += found.len();
            if self.records.len() < self.recorded {
                self.records.resize(self.recorded, Coded::NONE);
            }
            let records = &mut self.records[start..self.recorded];
            if !look_up(Isa::best(), slots, found, records) {
                return;
            }
            for ((record, slot), &value) in records.iter_mut().zip(found).zip(values) {
                if record.is_none() || slot.is_escape() {
                    let escape = slots[slot.index() | ESCAPE];
                    *record = escape.with_low(slot.low_bits(), 0);
                    self.stuck |= escape.is_none();
                    varint::write(&mut self.escapes, escape_code(*kind, value));
                }
            }
        });
    }

    fn raw(&mut self, fields: &[i32], bits: u32) {
        self.plane.put_all(fields, bits);
    }

    fn end_row(&mut self) {
        self.plane.align();
    }
}
