//! Conversion of values to symbols, and coding of segments; the coder itself is [`crate::sink::Recorder`].

use impasto_core::varint;

use super::LANES;
use crate::class::{Class, Kind};
use crate::sink::{CodingTables, Recorder, SymbolSink};
use crate::tables::{ESCAPE, Frequencies};

/// A coded segment (SPEC 8).
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    /// Lane states at which decoding starts.
    pub states: [u32; LANES],
    /// Words, in decoding order.
    pub words: Vec<u16>,
    /// Escapes as varints, in the order of the elements.
    pub escapes: Vec<u8>,
}

/// Returns the symbol of `value` in its class, and its low bits; the escape and 0 if the value is outside the range of
/// the symbols.
#[inline(always)]
pub fn symbol(class: Class, value: i32) -> (usize, u32) {
    let b = class.low_bits;
    let shifted = value.wrapping_add((1 << b) >> 1);
    let (symbol, low) = ((shifted >> b).wrapping_sub(class.offset) as u32, shifted as u32 & ((1 << b) - 1));
    // Without a branch, so that loops over many values become vectors. Negative symbols are above all others here.
    let is_escape = symbol >= ESCAPE as u32;
    (if is_escape { ESCAPE } else { symbol as usize }, if is_escape { 0 } else { low })
}

/// Returns the integer that is stored as a varint for an escape (SPEC 8.5).
pub fn escape_code(kind: Kind, value: i32) -> u64 {
    u64::from(match kind {
        Kind::Float => value as u32,
        _ => varint::zigzag(value),
    })
}

/// Returns the value of an escape: the inverse of [`escape_code`].
pub fn escape_value(kind: Kind, code: u32) -> i32 {
    match kind {
        Kind::Float => code as i32,
        _ => varint::unzigzag(code),
    }
}

/// Codes `values` (`rows.len()` x `columns.len()`, row-major) under the classes of their rows and columns.
///
/// `tables` has one table for each table number of the kind. Returns `None` if a value needs an escape and its table
/// gives the escape no frequency.
pub fn encode_segment(
    kind: Kind,
    rows: &[i32],
    columns: &[i32],
    values: &[i32],
    tables: &[Frequencies],
) -> Option<Segment> {
    assert_eq!(values.len(), rows.len() * columns.len());
    let tables = CodingTables::new(kind, tables);
    let mut recorder = Recorder::new(&tables, columns.len(), values.len());
    for (&row, values) in rows.iter().zip(values.chunks(columns.len().max(1))) {
        let classes: Vec<i32> = columns.iter().map(|&column| row + column).collect();
        recorder.symbols(&classes, values);
        recorder.end_row();
    }
    recorder.segment()
}
